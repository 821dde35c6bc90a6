"""Loading a model the way the options of a command say."""

import argparse
import logging
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "nano"
"""The folder of the bundled model, which answers to the name ``nano``."""


def quieten_transformers() -> None:
    """No advice for programmers and no progress bars of its own: the command shows one."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    # Where DeepSpeed is installed, transformers imports it, and it greets on stdout.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def generation_config(args: argparse.Namespace, model: Any) -> Any:
    """How ``--temperature`` and ``--seed`` pick tokens: a ``GenerationConfig``, or None for greedy."""
    if args.temperature == 0:
        return None
    import copy

    import torch

    torch.manual_seed(args.seed)
    config = copy.deepcopy(model.generation_config)
    config.update(do_sample=True, temperature=args.temperature, top_k=0, top_p=1.0)
    return config


def load_for(args: argparse.Namespace) -> tuple[Any, Any]:
    """``(model, processor)`` of ``--model`` with ``--dtype``, ``--device`` and ``--trust-remote-code``.

    Raises:
        VilaHDError: it cannot be loaded.
    """
    import vila_hd

    quieten_transformers()
    return vila_hd.load(
        args.model,
        dtype=args.dtype,
        device=None if args.device == "auto" else args.device,
        trust_remote_code=args.trust_remote_code,
    )
