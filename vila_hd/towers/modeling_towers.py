"""Towers that see whole pictures, as transformers models; and the tower that belongs to a configuration."""

from transformers import AutoModel

from ..ps3.configuration_ps3 import PS3VisionConfig
from ..ps3.configuration_trunk import TrunkConfig
from ..ps3.modeling_ps3 import PS3VisionModel, VisionTowerModel
from .configuration_towers import AnyResVisionConfig, LowResVisionConfig, S2VisionConfig
from .encoders import AnyResEncoder, LowResEncoder, S2Encoder


class LowResVisionModel(VisionTowerModel):
    """The trunk alone."""

    config_class = LowResVisionConfig
    encoder_class = LowResEncoder


class AnyResVisionModel(VisionTowerModel):
    """The whole picture and its tiles."""

    config_class = AnyResVisionConfig
    encoder_class = AnyResEncoder


class S2VisionModel(VisionTowerModel):
    """Several scales in one map."""

    config_class = S2VisionConfig
    encoder_class = S2Encoder


TOWERS: dict[type[TrunkConfig], type[VisionTowerModel]] = {
    PS3VisionConfig: PS3VisionModel,
    LowResVisionConfig: LowResVisionModel,
    AnyResVisionConfig: AnyResVisionModel,
    S2VisionConfig: S2VisionModel,
}
"""Every kind of tower that a VILA-HD model can have."""


def build_tower(config: TrunkConfig) -> VisionTowerModel:
    """A tower with fresh weights."""
    return TOWERS[type(config)](config)


for _config, _model in TOWERS.items():
    AutoModel.register(_config, _model, exist_ok=True)
del _config, _model
