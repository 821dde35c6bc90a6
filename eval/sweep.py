"""``sweep``: accuracy of budgets against the tokens and the time that they cost."""

from collections.abc import Sequence

from .conditions import Condition
from .plots import Chart, Line, save
from .report import Cell, Report
from .runner import EvalRun, answer_tasks, open_tasks, report_of, score_row, write_report
from .team import Team


def cost_chart(rows: Sequence[dict[str, Cell]], series: Sequence[str], cost: str, title: str) -> Chart | None:
    """Scores over one kind of cost; ``series`` names the line of each row. None: nobody knows the cost."""
    lines = []
    for name in dict.fromkeys(series):
        mine = [row for row, its in zip(rows, series, strict=True) if its == name and row[cost] is not None]
        points = tuple((float(row[cost] or 0), float(row["score"] or 0)) for row in mine)
        if points:
            lines.append(Line(name=name, points=points, labels=tuple(str(row["condition"]) for row in mine)))
    return Chart(title=title, x=title, y="score", lines=tuple(lines)) if lines else None


def _way(condition: Condition) -> str:
    """What conditions of one line share: everything but the budget."""
    guide = condition.guided_by if condition.budget != 0 else "low-res"
    return str(guide) if condition.pruning is None else f"{guide} {condition.pruning}"


def run_sweep(run: EvalRun, *, command: str, team: Team) -> Report:
    """Answer what is not answered yet, write report and ``sweep.svg``, and return the report.

    Raises:
        VilaHDError: as for ``run_tasks``.
    """
    tasks = open_tasks(run)
    answers = answer_tasks(tasks, run.spec, run.work, team)
    rows: list[dict[str, Cell]] = []
    series: list[str] = []
    several = len({_way(condition) for condition in run.conditions if condition.budget != 0}) > 1
    for task in tasks:
        name = task.benchmark.name
        for condition in task.conditions:
            rows.append(score_row(task, condition, answers[name][condition.key]))
            series.append(f"{name} {_way(condition)}" if several else name)
    costs = (("tokens", "visual tokens"), ("seconds", "seconds per sample"))
    charts = [chart for cost, title in costs if (chart := cost_chart(rows, series, cost, title))]
    report = report_of(run, tasks, answers, command=command, team=team)
    if team.leads:
        write_report(report, run.out)
        save(charts, run.out / "sweep.svg")
    return report
