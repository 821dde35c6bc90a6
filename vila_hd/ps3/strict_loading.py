"""Loading a folder of weights strictly: a model is complete, well shaped and finite, or there is one clear
error."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any, Self

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from ..errors import VilaHDError

_SHOWN = 4
"""Names listed in a message before "and N more": enough to see the pattern, short enough for one line."""


class StrictLoadingMixin:
    """Put before ``PreTrainedModel`` in the bases of a class to make its ``from_pretrained`` strict.

    transformers itself fills missing tensors with random numbers, drops extra ones and accepts NaN, with a
    warning at most. Names that a class may lack or ignore are declared in the transformers way
    (``_keys_to_ignore_on_load_missing`` and ``_keys_to_ignore_on_load_unexpected``).
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """The model of a local folder or hub repository; arguments as in ``PreTrainedModel.from_pretrained``.

        Raises:
            VilaHDError: no config or safetensors file there, a broken file, missing, extra or wrongly shaped
                tensors, or values that are not finite.
        """
        # A wrong shape is asked to be reported rather than raised, so that the message can name both shapes.
        ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs.setdefault("use_safetensors", True)
        where = str(pretrained_model_name_or_path)
        try:
            with _without_load_report(quiet=not ignore_mismatched):
                model, info = super().from_pretrained(  # type: ignore[misc]
                    pretrained_model_name_or_path,
                    *model_args,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **kwargs,
                )
        except (OSError, SafetensorError, TypeError) as error:  # TypeError: a config of another shape
            raise VilaHDError(f"cannot load {cls.__name__} from {where}: {_first_line(error)}") from error
        _check_names(cls.__name__, where, info, check_shapes=not ignore_mismatched)
        check_finite(model, where)
        return (model, info) if output_loading_info else model


def check_finite(model: PreTrainedModel, where: str) -> None:
    """Pass when every parameter of ``model`` is finite.

    Raises:
        VilaHDError: some are NaN or infinite; names them.
    """
    with torch.no_grad():
        # The sum of a tensor is finite only if all of it is; the slow exact test runs where the sum is not.
        suspects = [
            name
            for name, value in model.named_parameters()
            if not value.is_meta and value.is_floating_point() and not bool(value.sum().isfinite())
        ]
        bad = [name for name in suspects if not bool(model.get_parameter(name).isfinite().all())]
    if bad:
        raise VilaHDError(
            f"{where}: NaN or infinite values in {shorten(bad)}; get an intact copy of the weights"
        )


def shorten(names: list[str]) -> str:
    """``names`` as one short phrase: the first few, then how many more there are."""
    names = sorted(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_names(kind: str, where: str, info: dict[str, Any], *, check_shapes: bool) -> None:
    problems = []
    if missing := list(info["missing_keys"]):
        problems.append(f"{len(missing)} missing tensor(s): {shorten(missing)}")
    if extra := list(info["unexpected_keys"]):
        problems.append(f"{len(extra)} unexpected tensor(s): {shorten(extra)}")
    if check_shapes and (wrong := list(info["mismatched_keys"])):
        found = [f"{name} is {tuple(has)}, expected {tuple(wants)}" for name, has, wants in wrong]
        problems.append(f"{len(found)} tensor(s) of another shape: {shorten(found)}")
    if problems:
        raise VilaHDError(
            f"{where} does not hold a {kind} as its config describes it: {'; '.join(problems)}; "
            "use the config.json that belongs to these weights"
        )


@contextlib.contextmanager
def _without_load_report(*, quiet: bool) -> Iterator[None]:
    """Keep transformers' table of missing and extra tensors off the screen: the error says it in one line."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    if quiet:
        logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
