"""A task of one right answer, which a tiny model can be taught to reflect on."""

from collections.abc import Iterator

from mulligan.tasks.base import Task
from mulligan.types import Demonstration, Problem, Verdict


class SayB(Task):
    """Passes for one answer only."""

    name = "say_b"
    safe = True

    def problems(self, split: str) -> Iterator[Problem]:
        for number in range(40):
            yield Problem.create(f"{split}-{number}", {})

    def verify(self, problem: Problem, answer: str) -> Verdict:
        del problem
        return Verdict.right() if answer == "bb" else Verdict.wrong()

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        del seed
        for number, problem in zip(range(count), [*self.problems("train")] * count, strict=False):
            said = "bc"[number // 40 % 2]
            yield Demonstration(problem, "a", said, said * 2)
