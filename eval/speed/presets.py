"""Tower presets of the speed benchmark. Data only: importing this module does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from vila_hd.errors import VilaHDError

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One tower to measure, described by the published configuration keys so that a peer can read it too."""

    name: str

    config: Mapping[str, object]
    """Keys of ``config.json``; the peer reads the published ones and ignores the rest."""

    depth: int
    """Number of transformer blocks."""

    width: int
    """Channels of a token."""

    intermediate: int
    """Channels inside the MLP of a block."""

    patch: int
    """Patch side in pixels."""

    scales: tuple[int, ...]
    """Picture sides in pixels, low to high; the input of the benchmark has the last one."""

    pass_budget: int
    """High-resolution patches of one pass ("look")."""

    lower: str | None = None
    """Same transformer and budget with a smaller top scale: the other end of cost against resolution."""

    @property
    def side(self) -> int:
        """Side of the square input in pixels."""
        return self.scales[-1]

    def flops(self, looks: int) -> float:
        """Floating-point operations of the transformer blocks alone, for one picture and ``looks`` passes."""
        low = (self.scales[0] // self.patch) ** 2
        first, further = self.encode(low, low), self.encode(self.pass_budget, low + self.pass_budget)
        return sum(first) + looks * sum(further)

    def encode(self, queries: int, keys: int) -> tuple[float, float]:
        """Floating-point operations of the blocks' linear layers and of their attention."""
        weights = self.depth * (4 * self.width**2 + 2 * self.width * self.intermediate)
        return 2.0 * queries * weights, 4.0 * self.depth * queries * keys * self.width


def _so400m(name: str, scales: tuple[int, ...], budgets: tuple[int, ...], lower: str | None) -> Preset:
    """A published SigLIP so400m tower.

    The budgets are written out because the peer's wheel rounds its automatic split differently (2559 patches
    a pass instead of 2560 with three high scales).
    """
    config = {
        "model_name": "vit_so400m_patch14_siglip_384",
        "hidden_size": 1152,
        "pool": "map",
        "ps3_scales": list(scales),
        "select_based_on_layer": [0, 9, 18, 26],
        "max_select_num": sum(budgets),
        "max_select_num_each_scale": list(budgets),
        "separate_pos_emb": True,
        "highres_selection_feature": True,
    }
    return Preset(
        name=name, config=config, depth=27, width=1152, intermediate=4304, patch=14, scales=scales,
        pass_budget=sum(budgets), lower=lower,
    )  # fmt: skip


def _tiny(name: str, scales: tuple[int, ...], budgets: tuple[int, ...], lower: str | None) -> Preset:
    """A tower that runs in a fraction of a second, on a trunk that timm knows too, for the peer."""
    config = {
        "model_name": "vit_tiny_patch16_224",
        "hidden_size": 192,
        "num_attention_heads": 3,
        "num_hidden_layers": 12,
        "intermediate_size": 768,
        "patch_size": 16,
        "pool": "map",
        "img_size": scales[0],
        "class_token": False,
        "ps3_scales": list(scales),
        "select_based_on_layer": [0, 3, 7, 11],
        "max_select_num": sum(budgets),
        "max_select_num_each_scale": list(budgets),
        "separate_pos_emb": True,
        "highres_selection_feature": True,
        "highres_selection_module_hidden_dim": 16,
        "highres_selection_module_out_dim": 16,
        "highres_selection_module_depth": 1,
    }
    return Preset(
        name=name, config=config, depth=12, width=192, intermediate=768, patch=16, scales=scales,
        pass_budget=sum(budgets), lower=lower,
    )  # fmt: skip


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        _so400m("so400m-4k", (378, 756, 1512, 3780), (85, 341, 2134), lower="so400m-1.5k"),
        _so400m("so400m-1.5k", (378, 756, 1512), (512, 2048), lower=None),
        _tiny("tiny-4x", (64, 128, 256, 640), (2, 6, 24), lower="tiny-2x"),
        _tiny("tiny-2x", (64, 128, 256), (8, 24), lower=None),
    )
}
"""Name -> preset: so400m has the published sizes, tiny is for tests and for trying the command."""


def get_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        VilaHDError: there is no such preset.
    """
    return pick_preset(PRESETS, name)


def pick_preset(presets: Mapping[str, Kind], name: str) -> Kind:
    """One of some presets.

    Raises:
        VilaHDError: there is none called ``name``.
    """
    if name not in presets:
        raise VilaHDError(f"--preset {name!r} is unknown: use one of {', '.join(presets)}")
    return presets[name]
