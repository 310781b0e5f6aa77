"""Problems that come from outside: rows of a file, requests, logs."""

from dataclasses import replace
from pathlib import Path

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.tasks.mix import Mix
from mulligan.tasks.row_task import RowTask, asked
from mulligan.tasks.rows import Row, read_rows
from mulligan.types import Problem


def problem_of(task: Task, row: Row) -> Problem:
    """Return the problem that a row puts.

    A row has ``messages`` (chat messages, or the text of one user message) and ``given``, an object
    with what the task's verifier needs; ``tools`` may be added. Of a task that is itself made of
    rows, such as ``json_schema``, a row may have that task's own fields in place of ``given``. Of a
    mix of tasks it names its part as ``task``.

    Raises:
        MulliganError: a field is missing or wrong; names the row.
    """
    part = part_of(task, row)
    try:
        problem = _problem_of(part, row)
    except (ValueError, RecursionError) as error:  # NaN, or nested without end
        raise MulliganError(f"{row.where}: should hold plain JSON values: {error}") from error
    return problem if part is task else replace(problem, task=str(row.values["task"]))


def part_of(task: Task, row: Row) -> Task:
    """Return the task that verifies a row: of a mix, the part that the row names as ``task``.

    Raises:
        MulliganError: it names none of a mix's parts.
    """
    if not isinstance(task, Mix):
        return task
    name = row.values.get("task")
    if not isinstance(name, str) or name not in task.parts:
        raise row.refuse("task", f"one of the mix's parts ({', '.join(task.parts)})")
    return task.parts[name]


def _problem_of(task: Task, row: Row) -> Problem:
    if "given" not in row.values and isinstance(task, RowTask):
        return task.problem(row)
    messages, tools = asked(row)
    given = row.get("given")
    if not isinstance(given, dict):
        raise row.refuse("given", f"an object with what the verifier of {task.name!r} needs")
    reference = row.values.get("reference")
    if not (reference is None or isinstance(reference, str)):
        raise row.refuse("reference", "text")
    if not isinstance(messages, str) and all(each["role"] != "user" for each in messages):
        raise row.refuse("messages", "a conversation in which the user asks something")
    return Problem.create(messages, given, reference, tools)


def read_problems(task: Task, path: Path) -> list[Problem]:
    """Return the problems of a file of rows, in order.

    Raises:
        MulliganError: a row puts no problem, or there is none; names the row.
    """
    problems = [problem_of(task, row) for row in read_rows(str(path))]
    if not problems:
        raise MulliganError(f"{path} holds no problems: give it one JSON object per line.")
    return problems
