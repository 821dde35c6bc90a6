"""Claim 6: what each part of the design is good for."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import mean

from ..conditions import Condition
from ..intervals import mean_interval
from ..predict import start_worker
from ..report import Cell, Column, Table
from . import recipes
from .checks import ANSWER_COLUMNS, answer_row, paired_check, scores
from .claim import Check, Claim, Finding, Training
from .regions import Readings, read_held_out
from .workshop import Workshop

TEST = recipes.split(recipes.MANY)
"""Patches of each high-resolution scale that signs are read from."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One part of the design, and a training without it."""

    name: str

    paper: float
    """Points that it gains in the paper (Table 8)."""

    training: Training

    per_scale: tuple[int, ...] = TEST

    why: str
    """Why it may gain nothing here."""


def without(name: str, *overrides: str) -> Training:
    """The pre-training of the other claims, changed."""
    return replace(recipes.PRETRAIN, name=f"pretrain_{name}", overrides=overrides)


AGAIN = without("other_seed", "seed=1")

ABLATIONS = (
    Ablation(
        name="boxes are chosen first in training",
        paper=5.1,
        training=without("own_choice", "looks.forced_share=0"),
        why="the selector finds signs early enough here to show the tower what captions are about",
    ),
    Ablation(
        name="only tokens in the box are pooled",
        paper=3.7,
        training=without("pool_all", "looks.pooled_share=0"),
        why="a look takes few patches here, most of them on the sign anyway",
    ),
    Ablation(
        name="global captions among the local ones",
        paper=1.0,
        training=without("no_global", "contrastive.global_share=0"),
        why="global captions take pairs and gradient from the marks",
    ),
    Ablation(
        name="no negatives from the same picture",
        paper=5.3,
        training=without("intra_image", "contrastive.intra_image_negatives=true"),
        why="captions of drawn signs never fit another sign of their picture, so such negatives are "
        "always true, "
        "while captions of photographs often fit several regions",
    ),
    Ablation(
        name="patches of several scales",
        paper=1.0,
        training=without("single_scale", "looks.per_scale=[0, 32]"),
        per_scale=(0, recipes.MANY),
        why="marks are in the largest scale only, and every patch of another one is missing there",
    ),
    Ablation(
        name="a position embedding per scale",
        paper=0.8,
        training=without("no_scale_position", "model=configs/claims/model/no_scale_position.yaml"),
        why="what is on a sign does not depend on where it is or on the scale",
    ),
    Ablation(
        name="keys and values of the low resolution",
        paper=8.8,
        training=without("no_low_res", "model=configs/claims/model/no_low_res.yaml"),
        why="a mark can be read from its own patches, without the picture around it",
    ),
)

NO_POSITION = "configs/claims/model/no_llm_position.yaml"
GROUND_PLAIN = replace(recipes.GROUND, name="ground_no_position", overrides=(f"llm={NO_POSITION}",))
READ_PLAIN = replace(recipes.READ, name="read_no_position", after=GROUND_PLAIN)
SFT_PLAIN = replace(recipes.SFT, name="sft_no_position", after=READ_PLAIN)


def measure_ablations(workshop: Workshop) -> Finding:
    """Read the same signs with every variant of pre-training; ask both language models."""
    variants = [(recipes.PRETRAIN, TEST), (AGAIN, TEST), *((a.training, a.per_scale) for a in ABLATIONS)]
    context = get_context("spawn")  # a fork would inherit torch's thread pool without its threads
    with ProcessPoolExecutor(workshop.cores, context, start_worker, (1,)) as pool:
        reading = [
            pool.submit(
                read_held_out,
                workshop.model(training),
                per_scale,
                workshop.effort.scenes,
                workshop.scenes().config,
            )
            for training, per_scale in variants
        ]
        base, again, *without_part = (future.result() for future in reading)
    noise = abs(100 * (mean(base.per_picture()) - mean(again.per_picture())))
    rows = [row("everything (base)", base), row("the same with another seed", again)]
    checks = []
    for ablation, found in zip(ABLATIONS, without_part, strict=True):
        rows.append(row(f"without: {ablation.name}", found, paper=ablation.paper))
        checks.append(
            paired_check(
                f"{ablation.name}: the score is higher with it than without (paper: +{ablation.paper})",
                base.per_picture(),
                found.per_picture(),
                bound=noise,
                why=f"perhaps {ablation.why}",
            )
        )
    check, table = measure_position(workshop)
    columns = (
        Column(key="model", title="pre-training"),
        Column(key="score", title="score", spec=".1f"),
        Column(key="interval", title="95 % interval"),
        Column(key="own", title="signs, own choice %", spec=".1f"),
        Column(key="given", title="signs given %", spec=".1f"),
        Column(key="recall", title="sign seen %", spec=".1f"),
        Column(key="whole", title="picture told from 15 %", spec=".1f"),
        Column(key="paper", title="gain in the paper", spec="+.1f"),
    )
    signs = len(base.own)
    note = (
        f"{workshop.effort.scenes} held-out scenes with {signs} signs. Score: mean over a picture's "
        "questions, which are "
        f"one about each mark (12 answers), read with {sum(TEST)} patches that the caption without the mark "
        "chose, and one about the whole picture (its caption among 16). The bound of the checks is the "
        f"difference that another seed makes to the base: {noise:.1f} points."
    )
    tables = (Table(title="Zero-shot reading", columns=columns, rows=tuple(rows)), table)
    return Finding(checks=(*checks, check), tables=tables, notes=(note,))


def row(name: str, found: Readings, *, paper: float | None = None) -> dict[str, Cell]:
    """One variant."""
    low, high = mean_interval(found.per_picture())
    return {
        "model": name,
        "score": 100 * mean(found.per_picture()),
        "interval": f"{100 * low:.1f} - {100 * high:.1f}",
        "own": 100 * mean(found.own),
        "given": 100 * mean(found.given),
        "recall": 100 * mean(found.recall),
        "whole": 100 * mean(found.whole),
        "paper": paper,
    }


def measure_position(workshop: Workshop) -> tuple[Check, Table]:
    """Position embeddings on the language model's side: questions about marks and about places."""
    condition = Condition(recipes.MANY, "prompt", TEST)
    rows: list[dict[str, Cell]] = []
    found: dict[Training, list[float]] = {recipes.SFT: [], SFT_PLAIN: []}
    for training, name in ((recipes.SFT, "with"), (SFT_PLAIN, "without")):
        for kind in ("mark", "where"):
            answers = workshop.answers(workshop.model(training), workshop.scenes(kind), [condition])
            predictions = answers[condition.key]
            found[training] += scores(predictions)
            rows.append(answer_row(predictions, model=name, kind=kind))
    check = paired_check(
        "position embeddings of the language model: accuracy is higher with them than without (paper: +0.8)",
        found[recipes.SFT],
        found[SFT_PLAIN],
        why="perhaps the order of the tokens tells places as well",
    )
    columns = (Column(key="model", title="position embeddings"), Column(key="kind", title="question"))
    title = "Language models with and without position embeddings of visual tokens"
    return check, Table(title=title, columns=(*columns, *ANSWER_COLUMNS), rows=tuple(rows))


ABLATION = Claim(
    number=6,
    title="Every part of the design counts",
    paper="Gain of each over the same without it, mean of seven benchmarks (Table 8): boxes first +5.1, "
    "pooling in the "
    "box +3.7, global captions +1.0, no contrast inside a picture +5.3, several scales +1.0, position "
    "embeddings "
    "per scale +0.8, low-resolution keys and values +8.8, position embeddings in the language model +0.8.",
    method="One pre-training per part, each without it and otherwise alike, and signs read without a "
    "language model. For "
    "the last part two language models behind the same tower.",
    measure=measure_ablations,
    trainings=(recipes.PRETRAIN, AGAIN, *(a.training for a in ABLATIONS), recipes.SFT, SFT_PLAIN),
    minutes=4,
)
