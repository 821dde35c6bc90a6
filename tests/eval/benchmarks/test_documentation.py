"""docs/benchmarks.md says what the tasks are."""

import json
import re
from pathlib import Path

from eval.benchmarks.high_resolution import FOUR_K_PRO
from eval.benchmarks.tasks import Task
from eval.registry import BENCHMARKS, get_benchmark, open_benchmark

PAGE = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_tasks():
    listed = {row.split("`")[1]: row for row in re.findall(r"^\| `.*", PAGE, re.MULTILINE)}
    tasks = {name: get_benchmark(name) for name in BENCHMARKS}
    for name, task in tasks.items():
        if not isinstance(task, Task):
            assert name in listed
            continue
        where = ", ".join(filter(None, (task.config, task.split)))
        data = f"`{task.dataset}` ({where})" if task.dataset else "local files"
        prompt = task.prompt.replace("\n", "\N{RETURN SYMBOL}")
        cells = (f"`{name}`", data, task.metric, f"`{prompt}`", str(task.max_new_tokens), task.licence)
        assert listed[name] == f"| {' | '.join(cells)} |"


def test_the_line_of_4kpro_can_be_read(tmp_path):
    line = re.search(r"```json\n(.*)\n```", PAGE)[1]
    (tmp_path / "questions.jsonl").write_text(line)
    example = open_benchmark("4kpro", data=tmp_path).example(0)
    assert example.answers == ("C",)
    assert example.options == ("exit", "shop", "inn", "bank")
    assert example.regions[0][0] == (3010, 412, 3090, 440)
    columns = FOUR_K_PRO.columns
    named = {columns.uid, columns.question, columns.answer, columns.group, columns.options, columns.regions}
    assert named | set(columns.pictures) == set(json.loads(line))
    assert all(f"| `{name}` |" in PAGE for name in json.loads(line))
