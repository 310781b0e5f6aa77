"""Files of rows for tests of tasks."""

import json
from pathlib import Path
from typing import Any

from mulligan.tasks.base import Task
from mulligan.tasks.registry import load_task
from mulligan.types import Problem


def write_rows(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def task_of(name: str, folder: Path, *rows: dict[str, Any], **options: Any) -> Task:
    return load_task(name, {"path": write_rows(folder, *rows), **options})


def only_problem(task: Task) -> Problem:
    (problem,) = (p for split in task.splits for p in task.problems(split))
    return problem
