"""Claims about looking: more scales, more looks, and what steers them."""

import json
from functools import cache
from itertools import pairwise

from vila_hd.loading import BUNDLED
from vila_hd.scenes import SceneConfig

from ..benchmarks.scenes import SceneBenchmark
from ..conditions import Condition, Guide
from ..plots import Chart, Line
from ..report import Cell, Column, Table
from ..scenes import GUIDE_NAMES
from . import recipes
from .checks import ANSWER_COLUMNS, answer_row, explain, paired_check, recalls, scores
from .claim import Claim, Finding
from .workshop import Workshop

NANO = "nano"


@cache
def nano_config() -> dict:
    """The bundled model's configuration."""
    config: dict = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))
    return config


def nano_budget() -> int:
    """The bundled model's own budget: what it was trained to answer with, in patches."""
    return int(nano_config()["default_budget"])


def points(rows: list[dict[str, Cell]], x: str, y: str) -> tuple[tuple[float, float], ...]:
    """Points of a line; rows without one of the values have none."""
    return tuple((float(r[x]), float(r[y])) for r in rows if r[x] is not None and r[y] is not None)  # type: ignore[arg-type]


# ---------------------------------------------------------------- claim 2

WIDTH = SceneConfig.size[0]
"""Of 4K scenes, in pixels."""

REDUCED = (768, 1280, 1920, 2560)
"""Sides in pixels that pictures are reduced to; the last row has them as they are."""


def measure_resolution(workshop: Workshop) -> Finding:
    """The bundled model with the same number of patches, of smaller scales or of smaller pictures."""
    scales, budget = nano_config()["vision_config"]["ps3_scales"], nano_budget()
    small = (budget, *[0] * (len(scales) - 2))
    low, full = Condition(0, "saliency"), Condition(budget, "prompt")
    first = Condition(budget, "prompt", small)
    reduced = [Condition(budget, "prompt", side=side) for side in REDUCED]
    benchmark = SceneBenchmark(count=workshop.effort.scenes_4k)
    answers = workshop.answers(NANO, benchmark, [low, first, *reduced, full])
    top = [
        answer_row(answers[condition.key], top=side, picture=WIDTH)
        for condition, side in ((low, scales[0]), (first, scales[1]), (full, scales[-1]))
    ]
    side = [
        answer_row(
            answers[condition.key],
            top=scales[-1],
            picture=condition.side or WIDTH,
            side=condition.side or WIDTH,
        )
        for condition in (*reduced, full)
    ]
    columns = (
        Column(key="top", title="top scale px"),
        Column(key="picture", title="picture px"),
        *ANSWER_COLUMNS,
    )
    title = f"The bundled model, {budget} high-resolution patches wherever there are any"
    table = Table(title=title, columns=columns, rows=(*top, *side[:-1]))
    chart = Chart(
        title="Accuracy at equal patches",
        x="width of the picture, px",
        y="right %",
        lines=(Line(name="picture reduced first", points=points(side, "side", "accuracy")),),
    )
    whole = answers[full.key]
    checks = (
        paired_check(
            f"{budget} patches of scales up to {scales[-1]} px read more marks than {budget} of "
            f"{scales[1]} px",
            scores(whole),
            scores(answers[first.key]),
        ),
        *(
            paired_check(
                f"{budget} patches of a {above} px picture read more marks than {budget} of a {below} px one",
                scores(answers[high.key]),
                scores(answers[less.key]),
            )
            for (below, less), (above, high) in (
                ((REDUCED[0], reduced[0]), (REDUCED[2], reduced[2])),
                ((REDUCED[2], reduced[2]), (WIDTH, full)),
            )
        ),
    )
    return Finding(checks=checks, tables=(table,), charts=(chart,))


RESOLUTION = Claim(
    number=2,
    title="Resolution for free: a larger top scale at the same number of tokens",
    paper="At 729 high-resolution tokens the average of seven benchmarks rises from 56.2 (756 px) to "
    "58.2 (1512 px); "
    "on 4KPro at about 3.8k tokens from 46.8 (1512 px) to 51.6 (3780 px) (Tables 1 and 14).",
    method="One model, the bundled one, with one budget of patches: taken from its smaller "
    "high-resolution scale only "
    "or from all; and with pictures that were reduced before it saw them, so that its largest scale holds no "
    "more than they do. Marks are built to vanish in a picture five times smaller. The paper trains a model "
    "per top scale.",
    measure=measure_resolution,
    bundled=True,
    minutes=4,
)


# ---------------------------------------------------------------- claim 3

FACTORS = (1, 2, 4, 8)
"""Patches at test over patches in training."""


def measure_test_time(workshop: Workshop) -> Finding:
    """Models that were trained with few patches per look, tested with more."""
    rows: list[dict[str, Cell]] = []
    checks = []
    lines = []
    for training, trained in ((recipes.SFT_FEW, recipes.FEW), (recipes.SFT, recipes.MANY)):
        budgets = [trained * factor for factor in FACTORS]
        conditions = {
            budget: Condition(budget, "prompt", recipes.split(budget)) for budget in (trained // 2, *budgets)
        }
        answers = workshop.answers(workshop.model(training), workshop.scenes(), tuple(conditions.values()))
        found = {budget: answers[condition.key] for budget, condition in conditions.items()}
        mine = [answer_row(found[budget], trained=trained, budget=budget) for budget in found]
        rows += mine
        lines.append(Line(name=f"trained with {trained} patches", points=points(mine, "budget", "accuracy")))
        for factor in FACTORS[1:3]:
            more = trained * factor
            checks.append(
                paired_check(
                    f"trained with {trained} patches, {more} read more marks than {trained}",
                    scores(found[more]),
                    scores(found[trained]),
                    why=explain(found[trained], found[more], (f"{trained} patches", f"{more} patches")),
                )
            )
    columns = (
        Column(key="trained", title="patches in training"),
        Column(key="budget", title="patches at test"),
        *ANSWER_COLUMNS[1:],
    )
    chart = Chart(title="Accuracy over patches at test", x="patches at test", y="right %", lines=tuple(lines))
    table = Table(title="Guided by the question", columns=columns, rows=tuple(rows))
    return Finding(checks=tuple(checks), tables=(table,), charts=(chart,))


TEST_TIME = Claim(
    number=3,
    title="Test-time scaling: more looks than in training give more accuracy",
    paper="Trained with 20 % of the patches, 44 % at test add 1.2 points; trained with 44 %, 100 % at "
    "test add 0.9 "
    "(1512 px, Table 1). On 4KPro twice the patches of training add 8.2 points (Table 14).",
    method="Two models whose last training gives few and many patches per look, after the same reading with "
    "many; each asked with half to eight times the patches of its last training.",
    measure=measure_test_time,
    trainings=(recipes.SFT_FEW, recipes.SFT),
    minutes=6,
)


# ---------------------------------------------------------------- claim 4

GUIDES: tuple[Guide, ...] = ("prompt", "saliency", "random")


def measure_selection(workshop: Workshop) -> Finding:
    """The bundled model, guided by the question, by the picture alone, or by chance."""
    budget = nano_budget()
    budgets = (budget // 2, budget, 2 * budget)
    low = Condition(0, "saliency")
    conditions = [Condition(patches, guide) for guide in GUIDES for patches in budgets]
    answers = workshop.answers(NANO, SceneBenchmark(count=workshop.effort.scenes_4k), [low, *conditions])
    rows = [answer_row(answers[low.key], guide="nothing (low resolution only)", budget=0)]
    lines: dict[str, list[dict[str, Cell]]] = {}
    for condition in conditions:
        assert condition.guided_by is not None
        name = GUIDE_NAMES[condition.guided_by]
        row = answer_row(answers[condition.key], guide=name, budget=condition.budget)
        rows.append(row)
        lines.setdefault(name, []).append(row)
    charts = tuple(
        Chart(
            title=title,
            x="patches",
            y=f"{title.lower()} %",
            lines=tuple(Line(name=name, points=points(mine, "budget", key)) for name, mine in lines.items()),
        )
        for key, title in (("accuracy", "Right"), ("recall", "Mark seen"))
    )
    at = {guide: answers[Condition(budget, guide).key] for guide in GUIDES}
    checks = []
    for better, worse in pairwise(GUIDES):
        names = (GUIDE_NAMES[better], GUIDE_NAMES[worse])
        for what, values in (("right answers", scores), ("recall of the mark", recalls)):
            checks.append(
                paired_check(
                    f"{what} with {budget} patches: {names[0]} above {names[1]}",
                    values(at[better]),
                    values(at[worse]),
                    why=explain(at[better], at[worse], names),
                )
            )
    columns = (Column(key="guide", title="guided by"), Column(key="budget", title="budget"), *ANSWER_COLUMNS)
    table = Table(title="The bundled model on held-out 4K scenes", columns=columns, rows=tuple(rows))
    return Finding(checks=tuple(checks), tables=(table,), charts=charts)


SELECTION = Claim(
    number=4,
    title="Top-down selection beats bottom-up, which beats random",
    paper="With 44 % of the patches at 1512 px: random 43.7 % recall and 52.3 accuracy, bottom-up 87.4 % "
    "and 59.7, "
    "top-down 91.2 % and 61.0 (Table 9).",
    method="One model, the bundled one, asked about one small mark in each 4K scene with the same budget "
    "under each "
    "guide. Recall is the share of the mark's finest patches that were chosen.",
    measure=measure_selection,
    bundled=True,
    minutes=6,
)
