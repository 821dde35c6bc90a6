"""Command line of curation. Every command writes rows that ``data.regions`` reads, one line per picture."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vila_hd.cli.terminal import run_command
from vila_hd.errors import VilaHDError

if TYPE_CHECKING:
    from .captioners import Captioner


def _part(text: str) -> tuple[int, int]:
    try:
        k, n = (int(number) for number in text.split("/"))
    except ValueError:
        k = n = 0
    if not 1 <= k <= n:
        raise argparse.ArgumentTypeError(f"{text!r}: use K/N with 1 <= K <= N, e.g. 2/8")
    return k, n


def _add_files(parser: argparse.ArgumentParser, rows: str | None, *, media: bool = True) -> None:
    if rows is not None:
        parser.add_argument("rows", type=Path, help=rows)
    if media:
        text = "folder that names of pictures are relative to"
        parser.add_argument("--media", type=Path, required=True, help=text)
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write; an unfinished one is continued"
    )
    parser.add_argument("--max-failed", type=float, default=0.05, help="share of pictures (default: 0.05)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="image-text-to-text model: folder or hub id")
    source.add_argument("--endpoint", help="OpenAI-compatible server, e.g. http://localhost:8000/v1")
    parser.add_argument("--endpoint-model", default="default", help="model that the server is asked for")
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable of the key")
    parser.add_argument("--threads", type=int, default=8, help="pictures at a time, of a server (default: 8)")
    parser.add_argument("--retries", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds per request")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-new-tokens", type=int, default=128)


def build_parser() -> argparse.ArgumentParser:
    """Options of ``python -m train.curate``."""
    parser = argparse.ArgumentParser(
        prog="python -m train.curate", description="Make pictures with captioned regions for ps3_pretrain."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    propose = commands.add_parser("propose", help="boxes around what is salient, by a SAM model")
    _add_files(propose, None)
    propose.add_argument("--sam", required=True, help="folder or hub id, e.g. facebook/sam-vit-base")
    propose.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="every N-th picture")
    propose.add_argument("--top-k", type=int, default=4, help="boxes per picture (default: 4)")
    propose.add_argument(
        "--cells", type=float, default=5.0, help="squares along the shorter side (default: 5)"
    )
    propose.add_argument("--points-per-side", type=int, default=24)
    propose.add_argument("--points-per-batch", type=int, default=32, help="memory and speed only")
    propose.add_argument("--crop-layers", type=int, default=1)
    propose.add_argument("--longest-side", type=int, default=2048, help="pixels that SAM is shown")
    propose.add_argument("--pred-iou", type=float, default=0.6)
    propose.add_argument("--stability", type=float, default=0.85)
    propose.add_argument("--device", default="cpu")
    propose.set_defaults(run=_propose)

    caption = commands.add_parser(
        "caption", help="words for boxes and whole pictures, by a model or a server"
    )
    _add_files(caption, "file of 'propose'")
    _add_model(caption)
    caption.add_argument("--region-prompt", help="instead of the built-in one")
    caption.add_argument("--global-prompt", help="instead of the built-in one; '' makes no global captions")
    caption.set_defaults(run=_caption)

    documents = commands.add_parser("documents", help="boxes and words of pages, from OCR")
    _add_files(documents, None)
    source = documents.add_mutually_exclusive_group(required=True)
    source.add_argument("--words", type=Path, help="JSONL: image, and words or lines (each: text, box)")
    source.add_argument("--ocr", choices=["tesseract"], help="read the pictures of --media")
    documents.add_argument("--language", default="eng", help="of Tesseract")
    documents.add_argument("--unit", choices=["lines", "words"], default="lines")
    documents.add_argument(
        "--run", dest="run_length", type=int, default=15, help="words of a region (default: 15)"
    )
    documents.add_argument("--regions", type=int, default=4, help="of a page (default: 4)")
    documents.add_argument("--seed", type=int, default=0)
    documents.set_defaults(run=_documents)

    questions = commands.add_parser("questions", help="a question per picture about one of its regions")
    _add_files(questions, "file of 'caption' or 'documents'", media=False)
    _add_model(questions)
    questions.add_argument("--prompt", help="instead of the built-in one; {caption} is filled in")
    questions.add_argument("--seed", type=int, default=0)
    questions.set_defaults(run=_questions)

    pack = commands.add_parser("pack", help="pictures and rows into tar shards")
    pack.add_argument("rows", type=Path, nargs="+", help="files of 'caption' or 'documents'")
    pack.add_argument("--media", type=Path, required=True)
    pack.add_argument("--out", type=Path, required=True, help="folder of shards; finished ones are skipped")
    pack.add_argument("--per-shard", type=int, default=1000)
    pack.add_argument(
        "--min-side", type=int, default=0, help="leave out pictures with a shorter longest side"
    )
    pack.add_argument("--max-side", type=int, default=2**31, help="leave out pictures with a longer one")
    pack.set_defaults(run=_pack)
    return parser


def _propose(args: argparse.Namespace) -> str:
    from .jobs import propose_row
    from .masks import MaskGenerator, MaskOptions
    from .rows import find_pictures, run_jobs
    from .saliency import BoxOptions

    options = MaskOptions(
        model=args.sam, points_per_side=args.points_per_side, points_per_batch=args.points_per_batch,
        crop_layers=args.crop_layers, pred_iou=args.pred_iou, stability=args.stability,
        longest_side=args.longest_side, device=args.device,
    )  # fmt: skip
    boxes = BoxOptions(top_k=args.top_k, cells=args.cells)
    rows = find_pictures(args.media, part=args.part)
    masks = MaskGenerator(options)
    done, failed = run_jobs(
        rows, lambda row: propose_row(row, args.media, masks, boxes), args.out, max_failed=args.max_failed
    )
    return f"{done} pictures, {failed} failed, in {args.out}"


def _make_captioner(args: argparse.Namespace) -> "tuple[Captioner, int]":
    """What makes texts, and how many pictures at a time it takes."""
    from .captioners import Endpoint, EndpointCaptioner, PipelineCaptioner

    if args.endpoint is None:
        return PipelineCaptioner(args.model, device=args.device, max_new_tokens=args.max_new_tokens), 1
    endpoint = Endpoint(
        url=args.endpoint, model=args.endpoint_model, key_variable=args.key_variable,
        timeout=args.timeout, retries=args.retries, max_new_tokens=args.max_new_tokens,
    )  # fmt: skip
    return EndpointCaptioner(endpoint), max(1, args.threads)


def _caption(args: argparse.Namespace) -> str:
    from .captioners import GLOBAL_PROMPT, REGION_PROMPT
    from .jobs import caption_row
    from .rows import read_rows, run_jobs

    region = REGION_PROMPT if args.region_prompt is None else args.region_prompt
    whole = GLOBAL_PROMPT if args.global_prompt is None else args.global_prompt
    captioner, threads = _make_captioner(args)
    done, failed = run_jobs(
        read_rows(args.rows),
        lambda row: caption_row(row, args.media, captioner, region_prompt=region, global_prompt=whole),
        args.out,
        threads=threads,
        max_failed=args.max_failed,
    )
    return f"{done} pictures, {failed} failed, in {args.out}"


def _questions(args: argparse.Namespace) -> str:
    from .captioners import QUESTION_PROMPT
    from .jobs import question_row
    from .rows import read_rows, run_jobs

    prompt = QUESTION_PROMPT if args.prompt is None else args.prompt
    if "{caption}" not in prompt:
        raise VilaHDError(f"--prompt {prompt!r:.60}: write {{caption}} where the caption goes")
    captioner, threads = _make_captioner(args)
    done, failed = run_jobs(
        read_rows(args.rows),
        lambda row: question_row(row, captioner, prompt=prompt, seed=args.seed),
        args.out,
        threads=threads,
        max_failed=args.max_failed,
    )
    return f"{done} questions, {failed} failed, in {args.out}"


def _documents(args: argparse.Namespace) -> str:
    from .documents import DocumentOptions, make_document_row, recognise
    from .jobs import open_picture
    from .rows import Row, find_pictures, read_rows, run_jobs

    options = DocumentOptions(unit=args.unit, run=args.run_length, regions=args.regions, seed=args.seed)

    def work(row: Row) -> Row:
        if args.words is None:
            row = row | recognise(open_picture(args.media, row["image"]), args.language)
        return make_document_row(row, options)

    rows = find_pictures(args.media) if args.words is None else read_rows(args.words)
    done, failed = run_jobs(rows, work, args.out, max_failed=args.max_failed)
    return f"{done} pages, {failed} failed, in {args.out}"


def _pack(args: argparse.Namespace) -> str:
    from .jobs import pack_rows

    if args.per_shard < 1:
        raise VilaHDError(f"--per-shard {args.per_shard}: use a number >= 1")
    sides = (args.min_side, args.max_side)
    samples, shards = pack_rows(args.rows, args.media, args.out, per_shard=args.per_shard, sides=sides)
    return f"{samples} samples in {shards} shards in {args.out}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on bad input, 130 on Ctrl-C."""

    def command() -> int:
        args = build_parser().parse_args(argv)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(args.run(args))
        return 0

    return run_command(command, interrupted="interrupted; the same command goes on where it stopped")
