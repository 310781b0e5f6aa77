"""The command that lets a person watch: try, verdict, reflection, retry."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mulligan.cli.console import console
from mulligan.cli.solve import (
    KeyVariable,
    ServedModel,
    Source,
    TaskName,
    TaskOptions,
    Tries,
    Url,
    load,
)
from mulligan.errors import MulliganError
from mulligan.interrupt import waiting

if TYPE_CHECKING:
    from mulligan.serving.second_chance import Event
    from mulligan.tasks.base import Task
    from mulligan.types import Problem


def chat(
    source: Source,
    task: TaskName = None,
    task_options: TaskOptions = "{}",
    tries: Tries = 2,
    url: Url = None,
    model: ServedModel = None,
    api_key_env: KeyVariable = None,
) -> None:
    """Give a problem, and watch try, verdict, reflection and retry."""
    from mulligan.serving.second_chance import steps

    with load(source, task, task_options, tries, url, model, api_key_env) as mulligan:
        console.print("Type a problem; an empty line takes one of the task's; Ctrl-D ends.")
        for number, problem in enumerate(_problems(mulligan.task)):
            happens = steps(mulligan.seeded(number), [problem])
            while happened := _next(happens):
                for event in happened.values():
                    _show(event)


def _next(happens: "Iterator[Mapping[int, Event]]") -> "Mapping[int, Event]":
    """Return what the model does next; nothing at the end."""
    with waiting("the model writes"):
        return next(happens, {})


def _problems(task: "Task") -> Iterator["Problem"]:
    """Yield what a person asks until the input ends; what cannot be asked is said."""
    from mulligan.serving.problems import problem_of
    from mulligan.tasks.rows import Row

    own = iter(task.problems("test"))
    while True:
        try:
            text = console.input("\nproblem> ", markup=False)
            if not text.strip():
                problem = next(own, None)
                if problem is None:
                    console.print("The task has no more problems.")
                    continue
                _say("asked", str(problem.messages[-1]["content"]))
                yield problem
                continue
            fields = _fields(console.input("for the verifier (JSON)> ", markup=False))
            yield problem_of(task, Row("The problem", fields | {"messages": text}))
        except MulliganError as error:
            _say("not asked", str(error))
        except EOFError:
            return


def _fields(text: str) -> dict[str, object]:
    """Return what the verifier needs: the object itself, or one that names it ``given``."""
    try:
        fields = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise MulliganError(f"What the verifier needs should be a JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise MulliganError("What the verifier needs should be a JSON object.")
    return fields if {"given", "reference"} & fields.keys() else {"given": fields}


def _show(event: "Event") -> None:
    _say(event.kind, event.completion.text)
    if event.verdict is not None:
        detail = f": {event.verdict.detail}" if event.verdict.detail else ""
        _say("verdict", f"{event.verdict.status} ({event.verdict.reason}){detail}")


def _say(what: str, text: str) -> None:
    from mulligan.report.markup import visible

    console.print(f"[bold]{what}[/]", end=" ")
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
