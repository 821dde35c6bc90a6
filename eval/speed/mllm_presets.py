"""Model sizes of ``speed mllm``. Data and arithmetic only: importing this module does not import torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .presets import Preset, get_preset, pick_preset

IMAGE_ID = 3
"""Placeholder of a visual token; random words are above it."""

WORDS = 32
"""Text tokens of the prompt behind the picture."""


@dataclass(frozen=True, kw_only=True)
class LanguageSize:
    """A Qwen2 language model."""

    width: int

    depth: int

    intermediate: int

    heads: int

    key_value_heads: int

    vocabulary: int = 151936

    def config(self) -> dict[str, object]:
        """Keys of its configuration, the same in every model that is measured."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }

    def flops(self, tokens: int) -> float:
        """Floating-point operations of the matrix products over a prompt, causal attention at half."""
        narrow = self.width * self.key_value_heads // self.heads
        weights = 2 * self.width * (self.width + narrow) + 3 * self.width * self.intermediate
        return self.depth * (2.0 * tokens * weights + 2.0 * tokens * tokens * self.width)


@dataclass(frozen=True, kw_only=True)
class QwenVision:
    """The vision tower of Qwen2.5-VL: windows of 8 x 8 patches, and some blocks that attend to everything."""

    width: int = 1280

    depth: int = 32

    intermediate: int = 3420

    heads: int = 16

    full: tuple[int, ...] = (7, 15, 23, 31)

    def config(self, out: int) -> dict[str, object]:
        """Keys of its configuration for a language model of width ``out``."""
        return {
            "hidden_size": self.width,
            "depth": self.depth,
            "intermediate_size": self.intermediate,
            "num_heads": self.heads,
            "out_hidden_size": out,
            "fullatt_block_indexes": list(self.full),
        }

    def flops(self, patches: int) -> float:
        """Floating-point operations of the matrix products over the patches of one picture."""
        weights = 4 * self.width**2 + 3 * self.width * self.intermediate
        keys = len(self.full) * patches + (self.depth - len(self.full)) * 64
        return 2.0 * patches * weights * self.depth + 4.0 * patches * keys * self.width


@dataclass(frozen=True, kw_only=True)
class MllmPreset:
    """Sizes of all models of one comparison: what is cut, is cut in both towers alike."""

    name: str

    tower: Preset

    qwen: QwenVision

    language: LanguageSize


def qwen_grid(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Rows and columns of patches that Qwen2.5-VL sees of a picture: its resizing to multiples of 28 pixels.

    Source: ``smart_resize`` of transformers' Qwen2-VL image processors.
    """
    rows, columns = round(height / 28) * 28, round(width / 28) * 28
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (max(28, math.floor(side / shrink / 28) * 28) for side in (height, width))
    return rows // 14, columns // 14


_SO400M = get_preset("so400m-4k")
_QWEN_HALF = QwenVision(width=640, depth=8, intermediate=1710, heads=8, full=(7,))
_LANGUAGE = LanguageSize(width=896, depth=24, intermediate=4864, heads=14, key_value_heads=2)


def _cut(tower: Preset, *, depth: int, width: int, intermediate: int, heads: int) -> Preset:
    """The tower with other sizes of its transformer, same scales and budgets."""
    config = {
        **tower.config,
        "model_name": None,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "patch_size": tower.patch,
        "select_based_on_layer": [0, depth // 3, 2 * depth // 3, depth - 1],
    }
    return replace(
        tower, name="cut", config=config, depth=depth, width=width, intermediate=intermediate, lower=None
    )


PRESETS: Mapping[str, MllmPreset] = {
    preset.name: preset
    for preset in (
        MllmPreset(
            name="7b",
            tower=_SO400M,
            qwen=QwenVision(),
            language=LanguageSize(
                width=3584, depth=28, intermediate=18944, heads=28, key_value_heads=4, vocabulary=152064
            ),
        ),
        MllmPreset(name="0.5b", tower=_SO400M, qwen=QwenVision(), language=_LANGUAGE),
        MllmPreset(
            name="small",
            # One block more than a quarter of 27: the last one is not run, as in the published model.
            tower=_cut(_SO400M, depth=8, width=576, intermediate=2152, heads=8),
            qwen=_QWEN_HALF,
            language=LanguageSize(width=448, depth=6, intermediate=2432, heads=7, key_value_heads=1),
        ),
        MllmPreset(
            name="tiny",
            tower=get_preset("tiny-4x"),
            qwen=QwenVision(width=64, depth=2, intermediate=128, heads=2, full=(1,)),
            language=LanguageSize(
                width=64, depth=3, intermediate=128, heads=4, key_value_heads=2, vocabulary=64
            ),
        ),
    )
}
"""Name -> sizes: ``7b`` and ``0.5b`` have the published towers, ``small`` half their width and a quarter of
their depth, ``tiny`` is for tests."""


def get_mllm_preset(name: str) -> MllmPreset:
    """The preset called ``name``.

    Raises:
        VilaHDError: there is no such preset.
    """
    return pick_preset(PRESETS, name)
