"""``vila-hd ask``: one question about one or more pictures."""

import argparse
import json
import sys
from typing import Any

from .terminal import Steps, print_lines
from .values import high_res_options, open_images, split_inputs


def run(args: argparse.Namespace) -> int:
    """Print the answer on stdout and the receipt on stderr, or both as JSON on stdout."""
    names, question = split_inputs(args.inputs)
    with Steps(4) as steps:
        with steps.step("opening the picture"):
            images = open_images(names, allow_huge=args.allow_huge_images)
            # Also a check: what was typed is judged before anything slow happens.
            high_res_options(args, num_images=len(images), default_guide="prompt")
        with steps.step("importing libraries"):
            import vila_hd

            from .models import generation_config, load_for
        with steps.step(f"loading {args.model}"):
            model, processor = load_for(args)
        with steps.step("looking and answering"):
            options = high_res_options(args, num_images=len(images), default_guide=model.config.default_guide)
            answer = vila_hd.ask(
                model,
                processor,
                images,
                question,
                high_res=options,
                max_new_tokens=args.max_new_tokens,
                generation_config=generation_config(args, model),
            )
    if args.explain is not None:
        from ..selection_lens import write_lens

        pictures = answer.history.pictures
        write_lens(
            args.explain,
            pictures,
            answer.looks,
            question=question,
            answer=answer.text,
            receipt=answer.receipt,
        )
    if args.json:
        print(json.dumps(_as_dict(args, names, question, answer), indent=2))
        return 0
    print(answer.text)
    sys.stdout.flush()  # the answer before the receipt, also when both go to one file
    if not args.quiet:
        print_lines(answer.receipt.lines())
        if args.explain is not None:
            print_lines([f"where it looked: {args.explain}"])
    return 0


def _as_dict(args: argparse.Namespace, names: list[str], question: str, answer: Any) -> dict[str, Any]:
    return {
        "model": args.model,
        "images": names,
        "question": question,
        "answer": answer.text,
        "receipt": answer.receipt.to_dict(),
        "explain": None if args.explain is None else str(args.explain),
    }
