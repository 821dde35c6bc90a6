"""Components of a model, what a stage trains, and the announcement of both."""

import logging
from collections.abc import Iterable
from typing import Literal

from torch import nn

logger = logging.getLogger(__name__)

Component = Literal["vision", "selector", "text", "projector", "llm"]

SELECTOR_MODULES = (
    "selection_feature_proj.",
    "highres_selection_feature_module.",
    "prompt_proj_for_highres.",
    "prior_prompt",
)
"""Modules inside the vision tower that make score maps."""

_TOWERS = ("model.vision_tower.vision_model.", "vision_model.")
"""The tower inside the multi-modal model, and inside ``PS3Model`` or alone."""

PREFIXES: dict[Component, tuple[str, ...]] = {
    "vision": (*_TOWERS, "model.vision_tower."),
    "selector": (
        *(tower + module for tower in _TOWERS for module in SELECTOR_MODULES),
        "text_model.prompt_proj.",
        "model.projector.top_down_prompt_head.",
    ),
    "text": ("text_model.", "logit_scale", "logit_bias"),
    "projector": ("model.projector.",),
    "llm": ("model.language_model.", "lm_head."),
}
"""Component -> parameter-name prefixes. The longest match decides: ``selector`` sits inside the others."""


def component_of(name: str) -> Component:
    """Component that owns parameter ``name``.

    Raises:
        ValueError: no prefix matches; a new module must be assigned to a component on purpose.
    """
    matches = [
        (len(prefix), component)
        for component, prefixes in PREFIXES.items()
        for prefix in prefixes
        if name.startswith(prefix)
    ]
    if not matches:
        raise ValueError(f"parameter {name!r} belongs to no component; extend train.stages.PREFIXES")
    return max(matches)[1]


def freeze_all_but(model: nn.Module, trainable: Iterable[Component]) -> dict[Component, tuple[int, int]]:
    """Set ``requires_grad`` by component.

    Returns:
        Per component of the model: numbers of trained and of frozen values.

    Raises:
        ValueError: a component of ``trainable`` has no parameter in this model.
    """
    wanted = set(trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(component_of(name) in wanted)
    counts = count_by_component(model)
    missing = sorted(wanted - set(counts))
    if missing:
        raise ValueError(f"trainable names {missing}, but the model has only {sorted(counts)}")
    return counts


def count_by_component(model: nn.Module) -> dict[Component, tuple[int, int]]:
    """Per component of the model: numbers of trained and of frozen values."""
    counts: dict[Component, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        component = component_of(name)
        trained, frozen = counts.get(component, (0, 0))
        # Under ZeRO-3 a parameter is empty and knows its full size as ds_numel.
        size = getattr(parameter, "ds_numel", parameter.numel())
        trains = parameter.requires_grad
        counts[component] = (trained + size, frozen) if trains else (trained, frozen + size)
    return counts


def eval_frozen_modules(model: nn.Module) -> None:
    """Put every module whose parameters are all frozen into eval mode; call after each ``model.train()``."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def announce(counts: dict[Component, tuple[int, int]]) -> list[str]:
    """One line per component: what is trained and what is frozen."""
    return [
        f"{component:<10} trained {trained:>12,}   frozen {frozen:>12,}"
        for component, (trained, frozen) in sorted(counts.items())
    ]
