"""Several tasks in one run, mixed by weights, each told apart in what the run records."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mulligan.errors import MulliganError
from mulligan.tasks.base import Split, Task
from mulligan.tasks.proportions import in_proportion
from mulligan.tasks.registry import load_task
from mulligan.types import Demonstration, Problem, Verdict

_log = logging.getLogger(__name__)


class Part(BaseModel):
    """One of the tasks that are mixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(gt=0, allow_inf_nan=False)
    """How many of the problems it gives, compared with the other parts."""
    task: str | None = None
    """The task, as a recipe names it; left out: the part's own name."""
    options: dict[str, Any] = {}
    """The task's options."""


_PARTS = TypeAdapter(dict[str, Part])


class Mix(Task):
    """Mix tasks by weights; records and reports tell them apart by the names of the parts.

    Args:
        parts: For each part its ``weight``, and where they are not plain, its ``task`` (by default
            the part's name) and ``options``: ``{countdown: {weight: 0.7}, capitals: {weight: 0.3,
            task: capitals.jsonl, options: {verifier: exact}}}``.

    Raises:
        MulliganError: there are fewer than two parts, or one cannot be made.
    """

    name: ClassVar[str] = "mix"
    without_split = (
        "Every part needs one for the mix to have it: give each an option for it, such as "
        "dev_share, or use evaluate.split: test."
    )

    def __init__(self, parts: Mapping[str, Any]) -> None:
        checked = _checked(parts)
        self.parts: dict[str, Task] = {}
        for name, part in checked.items():
            try:
                self.parts[name] = load_task(part.task or name, part.options)
            except MulliganError as error:
                raise MulliganError(f"mix: the part {name!r} cannot be made: {error}") from error
        self.weights = {name: part.weight for name, part in checked.items()}
        tasks = self.parts.values()
        self.safe = all(task.safe for task in tasks)
        self.network = any(task.network for task in tasks)
        self.answers_are_shared = any(task.answers_are_shared for task in tasks)
        self.reasons = tuple(dict.fromkeys(reason for task in tasks for reason in task.reasons))
        self.rules_changed = {k: v for task in tasks for k, v in task.rules_changed.items()}
        order: tuple[Split, ...] = ("train", "dev", "test")
        self.splits = tuple(s for s in order if all(s in task.splits for task in tasks))

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the parts' problems in the proportion of their weights, until one has no more.

        A problem that several parts have comes once, and one that any part holds out is in no
        part's training.
        """
        seen = set(self._held_out_before(split))
        streams = {name: iter(task.problems(split)) for name, task in self.parts.items()}
        for count, name in enumerate(in_proportion(self.weights)):
            problem = next((each for each in streams[name] if each.id not in seen), None)
            if problem is None:
                _log.info(
                    "The mix has %d %s problems: %s has no more, and others would change the "
                    "weights.",
                    count,
                    split,
                    name,
                )
                return
            seen.add(problem.id)
            yield replace(problem, task=name)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Judge an answer as the problem's own task does."""
        return self.parts[problem.task].verify(problem, answer)

    @property
    def compares_answers(self) -> bool:
        """Whether every part can say when two answers are the same."""
        return all(task.compares_answers for task in self.parts.values())

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Compare two answers as the problem's own task does."""
        return self.parts[problem.task].same_answer(problem, one, other)

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Look for a passing answer as the problem's own task does."""
        return self.parts[problem.task].leaks(problem, reflection)

    def wrong_answers(self, problem: Problem) -> Iterable[str]:
        """Return what the problem's own task gives."""
        return self.parts[problem.task].wrong_answers(problem)

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        """Yield the parts' conversations by weight; a part that offers none is left out."""
        streams = {name: iter(t.demonstrations(count, seed)) for name, t in self.parts.items()}
        first = {name: next(stream, None) for name, stream in streams.items()}
        weights = {name: self.weights[name] for name, shown in first.items() if shown}
        if silent := [name for name in first if name not in weights]:
            _log.info("No demonstrations from: %s.", ", ".join(silent))
        for _, name in zip(range(count if weights else 0), in_proportion(weights), strict=False):
            shown = first.pop(name, None) or next(streams[name], None)
            if shown is None:
                return
            yield replace(shown, problem=replace(shown.problem, task=name))

    def _held_out_before(self, split: Split) -> set[str]:
        """Return the ids that a split leaves to others."""
        if split == "test":
            return set()
        return self._test_ids if split == "dev" else self._test_ids | self._dev_ids

    @cached_property
    def _test_ids(self) -> set[str]:
        return {p.id for task in self.parts.values() for p in task.problems("test")}

    @cached_property
    def _dev_ids(self) -> set[str]:
        tasks = [task for task in self.parts.values() if "dev" in task.splits]
        return {problem.id for task in tasks for problem in task.problems("dev")}


def _checked(parts: Mapping[str, Any]) -> dict[str, Part]:
    try:
        checked = _PARTS.validate_python(parts)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "parts"
        raise MulliganError(
            f"mix: {place}: {first['msg']}, but got {first['input']!r}. A part is written "
            "name: {weight: 0.5, task: ..., options: {...}}."
        ) from None
    if len(checked) < 2:
        raise MulliganError(f"mix: at least two parts are needed, not {len(checked)}.")
    return checked
