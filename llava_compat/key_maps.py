"""Names of tensors: published component folders on one side, our models on the other."""

import re
from collections.abc import Mapping

from vila_hd.errors import VilaHDError

Rules = tuple[tuple[str, str | None], ...]
"""``(pattern, replacement)``; the first pattern that matches decides, None drops the tensor."""

PUBLISHED_TO_OURS: Mapping[str, Rules] = {
    "llm": (
        (r"\.rotary_emb\.inv_freq$", None),  # a constant that old versions of transformers stored
        (r"^lm_head\.", "lm_head."),
        (r"^model\.", "model.language_model."),
    ),
    "vision_tower": (
        (r"^vision_model\.", "model.vision_tower.vision_model."),
        (r"^text_model\.", None),  # combined PS3 files
        (r"^logit_(scale|bias)$", None),
    ),
    "mm_projector": (
        (r"^(layers|top_down_prompt_head|high_res_scale_embed)\.", r"model.projector.\1."),
        (r"^high_res_pos_embed$", "model.projector.high_res_pos_embed"),
    ),
}
"""Component folder -> names in it -> names of ``VilaHDForConditionalGeneration``."""

OURS_TO_PUBLISHED: tuple[tuple[str, str, str], ...] = (
    (r"^model\.vision_tower\.", "vision_tower", ""),
    (r"^model\.projector\.", "mm_projector", ""),
    (r"^model\.language_model\.", "llm", "model."),
    (r"^lm_head\.", "llm", "lm_head."),
)
"""``(pattern, component folder, replacement)`` for the way back."""

FULL_PREFIXES: Mapping[str, str] = {
    "llm.": "llm",
    "vision_tower.vision_tower.": "vision_tower",
    "mm_projector.": "mm_projector",
}
"""Start of a parameter's name in the published whole model -> component folder."""


def to_ours(component: str, name: str, *, base_prefix: str = "model") -> str | None:
    """Our name of a tensor in a published component folder; None: it is not used.

    Args:
        component: folder name.
        name: name in that folder.
        base_prefix: what the language model's class calls its body (``model`` for Llama and its kin).

    Raises:
        KeyError: no rule knows the name.
    """
    if component == "llm" and base_prefix != "model" and name.startswith(f"{base_prefix}."):
        name = "model" + name[len(base_prefix) :]
    for pattern, replacement in PUBLISHED_TO_OURS[component]:
        if re.search(pattern, name):
            return None if replacement is None else re.sub(pattern, replacement, name, count=1)
    raise KeyError(name)


def to_published(name: str, *, base_prefix: str = "model") -> tuple[str, str]:
    """``(component folder, name in it)`` of one of our tensors; arguments as for ``to_ours``.

    Raises:
        VilaHDError: no rule knows the name.
    """
    for pattern, component, replacement in OURS_TO_PUBLISHED:
        if re.search(pattern, name):
            if component == "llm" and replacement == "model.":
                replacement = f"{base_prefix}."
            return component, re.sub(pattern, replacement, name, count=1)
    raise VilaHDError(f"tensor {name!r} has no place in the published layout")


def split_full_name(name: str) -> tuple[str, str]:
    """``(component folder, name in it)`` of a parameter of the published whole model.

    Raises:
        VilaHDError: it belongs to no component.
    """
    for prefix, component in FULL_PREFIXES.items():
        if name.startswith(prefix):
            return component, name[len(prefix) :]
    raise VilaHDError(f"{name!r} belongs to no component; known starts: {', '.join(FULL_PREFIXES)}")


def join_full_name(component: str, name: str) -> str:
    """The way back: the parameter's name in the published whole model."""
    return next(prefix for prefix, part in FULL_PREFIXES.items() if part == component) + name
