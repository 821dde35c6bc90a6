"""The PS3 vision tower: the whole picture small, and the patches that matter at full resolution."""

from .configuration_ps3 import PS3VisionConfig
from .encoder import PS3VisionEncoder
from .modeling_ps3 import PS3PreTrainedModel, PS3VisionModel
from .outputs import HighRes, LowRes, PS3VisionOutput
from .plans import default_budget_split, plan_passes, plan_passes_published
from .regions import Regions
from .selection import PatchSelection, choose_patches, features_to_maps, score_maps

__all__ = [
    "HighRes",
    "LowRes",
    "PS3PreTrainedModel",
    "PS3VisionConfig",
    "PS3VisionEncoder",
    "PS3VisionModel",
    "PS3VisionOutput",
    "PatchSelection",
    "Regions",
    "choose_patches",
    "default_budget_split",
    "features_to_maps",
    "plan_passes",
    "plan_passes_published",
    "score_maps",
]
