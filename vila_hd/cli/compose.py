"""``vila-hd compose``: a fresh, untrained model from a vision tower and a language model."""

import argparse
from pathlib import Path

from ..errors import VilaHDError
from .terminal import Steps


def run(args: argparse.Namespace) -> int:
    """Build the model and write its folder."""
    out: Path = args.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VilaHDError(f"{out}: exists already; name a new or empty folder")
    with Steps(3) as steps:
        with steps.step("importing libraries"):
            from ..composing import compose
            from ..towers.choice import EncoderChoice
            from .models import quieten_transformers

            quieten_transformers()
            encoder = EncoderChoice(
                kind=args.encoder,
                scales=args.scales,
                output_scale=args.output_scale,
                max_tiles=args.max_tiles,
            )
        with steps.step("loading and joining"):
            model, processor = compose(
                tower=args.tower,
                encoder=encoder,
                llm=args.llm,
                projector_type=args.projector,
                seed=args.seed,
                trust_remote_code=args.trust_remote_code,
            )
        with steps.step(f"writing {out}"):
            try:
                model.save_pretrained(out)
                processor.save_pretrained(out)
            except OSError as error:
                raise VilaHDError(f"cannot write to {out}: {error.strerror or error}") from error
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {count:,} parameters; the projector is fresh, train it next")
    return 0
