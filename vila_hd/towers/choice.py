"""Which encoder to build around a trunk: the switch of model files, ``compose`` and the command line."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..errors import VilaHDError
from ..ps3.configuration_trunk import TrunkConfig
from ..ps3.modeling_ps3 import PS3VisionModel, VisionTowerModel
from .configuration_towers import (
    AnyResVisionConfig,
    LowResVisionConfig,
    S2VisionConfig,
    WholePictureConfig,
    trunk_values,
)
from .modeling_towers import build_tower

Kind = Literal["ps3", "low_res", "anyres", "s2"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_OPTIONS: dict[Kind, tuple[str, ...]] = {"s2": ("scales", "output_scale"), "anyres": ("max_tiles",)}
"""Options of each kind."""

_CONFIGS: dict[Kind, type[WholePictureConfig]] = {
    "low_res": LowResVisionConfig,
    "anyres": AnyResVisionConfig,
    "s2": S2VisionConfig,
}


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """How pictures are seen with the trunk of a PS3 tower."""

    kind: Kind = "ps3"
    """``ps3``: the tower as it is; ``low_res``: its trunk alone; ``anyres``: tiles; ``s2``: several scales in
    the channels of one map."""

    scales: tuple[int, ...] | None = None
    """``s2``: sides of its views in pixels; None: the trunk's own, twice and four times that."""

    output_scale: Literal["largest", "smallest"] | None = None
    """``s2``: scale whose grid the map has; None: the largest."""

    max_tiles: int | None = None
    """``anyres``: most tiles of a picture; None: 16."""

    def __post_init__(self) -> None:
        for name in ("scales", "output_scale", "max_tiles"):
            if getattr(self, name) is not None and name not in _OPTIONS.get(self.kind, ()):
                raise VilaHDError(
                    f"{name}={getattr(self, name)} with the encoder {self.kind!r}: leave it out"
                )

    def config(self, tower: TrunkConfig) -> TrunkConfig:
        """Configuration of this encoder around the trunk of ``tower``."""
        if self.kind == "ps3":
            return tower
        low = tower.ps3_scales[0]
        values: dict[str, Any] = {"ps3_scales": [low, 2 * low, 4 * low] if self.kind == "s2" else [low]}
        if self.scales is not None:
            values["ps3_scales"] = list(self.scales)
        for name in ("output_scale", "max_tiles"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        if values["ps3_scales"][0] != low:
            raise VilaHDError(f"scales={values['ps3_scales']}: the trunk sees {low} pixels, begin with them")
        return _CONFIGS[self.kind](**trunk_values(tower), **values)

    def build(self, tower: PS3VisionModel) -> VisionTowerModel:
        """This encoder with the trunk of ``tower``, which is used, not copied."""
        if self.kind == "ps3":
            return tower
        with torch.device("meta"):
            built = build_tower(self.config(tower.config))
        weights = tower.vision_model.trunk.state_dict()
        built.vision_model.trunk.load_state_dict(weights, assign=True)
        return built


PS3 = EncoderChoice()
"""The tower as it is."""
