"""``python -m train.data``: look at the samples of a stage as its model is trained on them."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vila_hd.cli.parsers import Parser
from vila_hd.cli.terminal import run_command
from vila_hd.errors import VilaHDError
from vila_hd.utils.text import make_visible

if TYPE_CHECKING:
    from .samples import Sample, SampleDataset

COLOURS = ("\033[32m", "\033[0m")
BRACKETS = ("[[", "]]")


def build_parser() -> Parser:
    """The parser. Nothing heavy is imported for ``--help``."""
    parser = Parser(
        prog="python -m train.data",
        description="Print sample N (from 0) of a stage with data.sources: where it comes from, its text "
        "with what is learned in green (in [[ ]] where the output is no terminal), and its tokens. The "
        "model's weights are not read.",
    )
    parser.add_argument(
        "number", type=int, nargs="+", metavar="N", help="number of a sample, in the order of the run"
    )
    parser.add_argument("--config", type=Path, required=True, help="stage file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as of python -m train",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write the pictures as the tower reads them, with their boxes",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; 0 on success, 2 on bad input, 130 after Ctrl-C."""
    return run_command(lambda: _run(build_parser().parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    dataset = open_dataset(args.config, args.overrides)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org
    for number in args.number:
        if not 0 <= number < len(dataset):
            raise VilaHDError(f"sample {number}: the stage has samples 0 to {len(dataset) - 1}")
        sample = dataset[number]
        for line in describe(dataset, number, sample, COLOURS if colour else BRACKETS):
            print(line)
        if args.out is not None:
            for path in write_pictures(args.out, number, sample):
                print(f"wrote {path}")
    return 0


def open_dataset(path: Path, overrides: Sequence[str]) -> "SampleDataset":
    """Samples of a stage file.

    Raises:
        VilaHDError: the file does not fit, or the stage renders scenes.
    """
    from vila_hd.configuration_vila_hd import VilaHDConfig
    from vila_hd.processing_vila_hd import VilaHDProcessor

    from ..row_data import build_samples
    from ..stage_files import load_stage

    config = load_stage(path, overrides)
    if not config.data.sources:
        raise VilaHDError(f"{path}: no data.sources; 'vila-hd scene' draws the pictures of rendered scenes")
    if not (config.model / "config.json").is_file() or config.llm is not None:
        raise VilaHDError(f"model: {config.model} is no complete model; name one with --set model=FOLDER")
    model = VilaHDConfig.from_pretrained(config.model)
    processor = VilaHDProcessor.from_pretrained(config.model)
    return build_samples(config, processor, model, rows=config.max_steps * config.global_batch_size)


def describe(
    dataset: "SampleDataset", number: int, sample: "Sample", marks: tuple[str, str]
) -> Iterator[str]:
    """Lines about one sample.

    Args:
        dataset: where it is from.
        number: of the sample.
        sample: the sample.
        marks: around what is learned.

    Raises:
        VilaHDError: there is no sample.
    """
    for problem in (*sample.report.broken, *sample.report.skipped):
        yield f"left out: {make_visible(problem)}"
    if sample.row is None:
        raise VilaHDError(sample.report.failure or f"sample {number}: there is none")
    yield f"sample {number}: {make_visible(str(sample.row.source))}  id {sample.row.id!r}"
    for place, (pixels, (width, height)) in enumerate(zip(sample.pictures, sample.sizes, strict=True)):
        boxes = ", ".join(str([round(x, 1) for x in box]) for box in sample.boxes[place])
        name = make_visible(sample.row.images[place].name)
        seen = f"{pixels.shape[2]} x {pixels.shape[1]}"
        marked = f", boxes {boxes}" if boxes else ""
        yield f"picture {place}: {name}, {width} x {height}, read as {seen}{marked}"
    yield ""
    yield make_visible_text(dataset, sample, marks)
    yield ""
    learned = sum(label >= 0 for label in sample.labels)
    cut = "; later turns left out" if sample.report.truncated else ""
    limit = dataset.encoder.max_length
    yield (
        f"{len(sample.input_ids)} tokens, {learned} of them learned; up to {sample.length} of {limit} with "
        f"high-resolution ones{cut}"
    )


def make_visible_text(dataset: "SampleDataset", sample: "Sample", marks: tuple[str, str]) -> str:
    """The tokens of a sample as text, pictures as ``<image>``, with ``marks`` around what is learned."""
    from itertools import groupby

    processor = dataset.encoder.processor
    picture, run = processor.image_token_id, processor.low_res_tokens
    pieces = []
    for (learned, is_picture), part in groupby(
        zip(sample.input_ids, sample.labels, strict=True), key=lambda pair: (pair[1] >= 0, pair[0] == picture)
    ):
        ids = [token for token, _ in part]
        if is_picture:
            pieces.append(processor.image_token * (len(ids) // run))
            continue
        text = make_visible(processor.tokenizer.decode(ids))
        pieces.append(f"{marks[0]}{text}{marks[1]}" if learned else text)
    return "".join(pieces)


def write_pictures(folder: Path, number: int, sample: "Sample") -> Iterator[Path]:
    """Write the pictures of a sample with their boxes as ``sample<number>_<picture>.png``."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    for place, (pixels, (width, height)) in enumerate(zip(sample.pictures, sample.sizes, strict=True)):
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        across, down = picture.width / width, picture.height / height
        draw = ImageDraw.Draw(picture)
        for x1, y1, x2, y2 in sample.boxes[place]:
            corners = (x1 * across, y1 * down, x2 * across, y2 * down)
            draw.rectangle(corners, outline=(255, 0, 0), width=max(1, max(picture.size) // 400))
        path = folder / f"sample{number}_{place}.png"
        picture.save(path)
        yield path
