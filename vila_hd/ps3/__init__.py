"""PS3: the whole picture small, and the patches that matter at full resolution; with its text tower."""

from .configuration_ps3 import PS3VisionConfig
from .configuration_ps3_dual import PS3Config
from .configuration_ps3_text import PS3TextConfig
from .encoder import PS3VisionEncoder
from .image_processing_ps3 import PS3ImageProcessor
from .modeling_ps3 import PS3PreTrainedModel, PS3VisionModel
from .modeling_ps3_dual import PS3Model, PS3Output
from .modeling_ps3_text import PS3TextModel, PS3TextOutput
from .outputs import HighRes, LowRes, PS3VisionOutput
from .plans import default_budget_split, plan_passes, plan_passes_published
from .regions import Regions
from .selection import PatchSelection, choose_patches, features_to_maps, score_maps
from .tokenization_ps3 import PS3Tokenizer

__all__ = [
    "HighRes",
    "LowRes",
    "PS3Config",
    "PS3ImageProcessor",
    "PS3Model",
    "PS3Output",
    "PS3PreTrainedModel",
    "PS3TextConfig",
    "PS3TextModel",
    "PS3TextOutput",
    "PS3Tokenizer",
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
