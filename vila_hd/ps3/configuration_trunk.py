"""Configuration of the vision transformer that all towers share: its sizes, and how it is given pictures."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import VilaHDError
from ..options import HighResOptions

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_TRUNK_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (12, 3, 768),
    "small": (12, 6, 1536),
    "base": (12, 12, 3072),
    "large": (24, 16, 4096),
    "huge": (32, 16, 5120),
    "so400m": (27, 16, 4304),
}
"""Size word of a published trunk name -> (blocks, attention heads, MLP width)."""

_RADIO_POOL_HEADS = 16
_RADIO_POOL_MLP_RATIO = 3.7362


@strict
class TrunkConfig(PreTrainedConfig):
    """A vision transformer and the scales at which it sees pictures. The defaults are those of published PS3
    files.

    Published files name their trunk (``model_name``) instead of spelling out its sizes; the names that were
    released are understood here.
    """

    min_scales: ClassVar[int] = 1
    """Scales that a tower of this kind needs."""

    model_name: str | None = None
    """Published name of the trunk; ``patch<N>`` in it decides the patch size (``patch_size`` in those files
    is a constant 14 even for 16-pixel patches)."""

    hidden_size: int = 1152
    num_hidden_layers: int | None = None
    """Transformer blocks; None: from ``model_name`` or from the stored tensors."""
    num_attention_heads: int | None = None
    """Attention heads of a block; None: from ``model_name``. Tensor shapes do not tell it."""
    intermediate_size: int | None = None
    """Hidden width of a block's MLP; None: from ``model_name``, the stored tensors, or 4 x
    ``hidden_size``."""
    position_grid_size: int | None = None
    """Side of the position table in patches; None: from ``img_size``, the stored tensors, or the low-res
    grid."""
    patch_size: int = 14
    """Patch side in pixels."""
    layer_norm_eps: float = 1e-6
    pool: str = "map"
    """Only attention pooling (``map``) exists in PS3."""
    drop_path: float | int | None = None
    """Stochastic depth of the last block (rises linearly from 0), training only."""
    patch_drop: float | int | None = None
    """Read and written for interoperability; not applied."""
    pretrained: bool = False
    dynamic_img_size: bool = True
    img_size: int | None = None
    """Image side in pixels that the position table was made for."""
    drop: float | int = 0.0
    class_token: bool | None = None
    image_size: int | list[int] | None = None
    """Derived: the largest scale."""
    vision_tower_name: str | None = None
    """Derived: ``model_name``."""

    ps3_scales: list[int] | tuple[int, ...] = (378, 756, 1512)
    """Longest side per scale in pixels, low to high; the first is the low-resolution view."""
    resample: str = "bicubic"
    """``bicubic``: plain, aliased (published); ``antialias``: for new training."""

    radio: bool = False
    """The trunk is a C-RADIO: cropped position table, adapter before pooling."""
    radio_adapter_mlp_version: str | None = None
    radio_adapter_mlp_input_dim: int | None = None
    radio_adapter_mlp_hidden_dim: int | None = None
    radio_adapter_mlp_output_dim: int | None = None
    radio_adapter_mlp_num_inner: int | None = None
    final_norm: bool = False
    """C-RADIO only: keep the trunk's last norm."""

    image_mean: list[float] | tuple[float, ...] | None = None
    """RGB mean for ``uint8`` input; None: 0.5, or CLIP's for C-RADIO."""
    image_std: list[float] | tuple[float, ...] | None = None
    """RGB standard deviation for ``uint8`` input; None: 0.5, or CLIP's for C-RADIO."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.ps3_scales = sorted(self.ps3_scales)
        self._read_model_name()
        self.image_size = self.ps3_scales[-1]
        self.vision_tower_name = self.model_name
        self.image_mean = list(self.image_mean or (CLIP_MEAN if self.radio else (0.5, 0.5, 0.5)))
        self.image_std = list(self.image_std or (CLIP_STD if self.radio else (0.5, 0.5, 0.5)))
        self._check()

    def _read_model_name(self) -> None:
        """Fill sizes that the trunk's published name implies."""
        name = self.model_name or ""
        if patch := re.search(r"patch(\d+)(?:_|$)", name):
            self.patch_size = int(patch[1])
        if size := re.match(r"vit_([a-z0-9]+)_patch\d+", name):
            blocks, heads, mlp = _TRUNK_SIZES.get(size[1], (None, None, None))
            self.num_hidden_layers = self.num_hidden_layers or blocks
            self.num_attention_heads = self.num_attention_heads or heads
            self.intermediate_size = self.intermediate_size or mlp
        if self.position_grid_size is None:
            side = re.search(r"_(\d+)$", name)
            pixels = self.img_size or (int(side[1]) if side else None)
            self.position_grid_size = pixels // self.patch_size if pixels else None

    def _check(self) -> None:
        scales, patch, least = list(self.ps3_scales), self.patch_size, self.min_scales
        if len(scales) < least or scales[0] < patch or len(set(scales)) != len(scales):
            raise VilaHDError(
                f"ps3_scales={scales}: use {least} or more different sides of at least {patch} pixels"
            )
        one_of("resample", self.resample, ("bicubic", "antialias"))
        one_of("pool", self.pool, ("map", "avg"))
        if self.radio:
            one_of("radio_adapter_mlp_version", self.radio_adapter_mlp_version, ("v1", "v2"))

    @property
    def low_res_grid(self) -> int:
        """Side of the low-resolution grid in patches."""
        return self.ps3_scales[0] // self.patch_size

    @property
    def pool_sizes(self) -> tuple[int, int, int]:
        """Width, heads and MLP width of the attention pool."""
        if self.radio:  # fixed in the reference, whatever the trunk
            width = self.radio_adapter_mlp_output_dim or 1152
            return width, _RADIO_POOL_HEADS, int(width * _RADIO_POOL_MLP_RATIO)
        assert self.num_attention_heads is not None
        return self.hidden_size, self.num_attention_heads, self.mlp_size

    @property
    def mlp_size(self) -> int:
        """Hidden width of a block's MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def feature_grid(self) -> int:
        """Side, in patches, of the square map that the first view of every picture yields."""
        return self.low_res_grid

    @property
    def feature_width(self) -> int:
        """Numbers per patch that the projector reads."""
        return self.hidden_size

    @property
    def chooses(self) -> bool:
        """Whether the tower chooses patches; a tower that does not sees whole pictures."""
        return False

    @property
    def high_scales(self) -> tuple[int, ...]:
        """Longest side per high-resolution scale, in pixels, where it is the same for every picture."""
        return ()

    @property
    def patches_per_pass(self) -> tuple[int, ...]:
        """Patches that one pass chooses of each high-resolution scale."""
        return ()

    @property
    def most_squares(self) -> int:
        """Squares of the trunk's own size that it is run on for one picture, at most."""
        return 1

    def scales_of(self, grids: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Longest side per high-resolution scale, in pixels, of a picture with these grids of patches."""
        return self.high_scales

    def fit_options(self, options: HighResOptions) -> HighResOptions:
        """``options`` as this tower carries them out.

        Raises:
            VilaHDError: it cannot.
        """
        return options

    def require_trunk_sizes(self) -> None:
        """Check that the trunk can be built.

        Raises:
            VilaHDError: its depth or number of heads is unknown, or they do not fit the width.
        """
        for name in ("num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) is None:
                raise VilaHDError(
                    f"{name} is unknown for model_name={self.model_name!r}: pass {name}=<number>"
                )
        if self.hidden_size % self.num_attention_heads:  # type: ignore[operator]
            raise VilaHDError(
                f"hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.ps3_scales[0] % self.patch_size:
            raise VilaHDError(
                f"ps3_scales={self.ps3_scales}: the first is not a multiple of patch_size={self.patch_size}"
            )
        self._check()


def one_of(name: str, value: str | None, known: Sequence[str]) -> None:
    """Pass when ``value`` is known.

    Raises:
        VilaHDError: it is not; names the option and the known values.
    """
    if value not in known:
        raise VilaHDError(f"{name}={value!r}: use one of {', '.join(known)}")


__all__ = ["TrunkConfig"]
