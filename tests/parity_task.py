"""A task that a random model passes about half the time: say something even."""

from collections.abc import Iterator

from mulligan.tasks.base import Split, Task
from mulligan.types import Demonstration, Problem, Verdict


class Parity(Task):
    """Passes when the character codes of an answer add up to an even number."""

    name = "parity"
    reasons = ("passed", "odd", "no_answer")
    safe = True
    splits = ("train", "dev", "test")

    def __init__(self, verdict: str = "", breaks_on: str = "", words: int = 1):
        self.verdict = verdict
        self.breaks_on = breaks_on
        self.words = words

    def problems(self, split: Split) -> Iterator[Problem]:
        for number in range(40):
            asked = " ".join([f"{split}-{number}"] * self.words)
            yield Problem.create(asked, {"split": split, "number": number}, reference="bb")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        del problem
        if self.breaks_on and self.breaks_on in answer:
            raise RuntimeError("the verifier broke")
        if self.verdict:
            return Verdict.right() if self.verdict == "passed" else Verdict.wrong("odd")
        if not answer.strip():
            return Verdict.unparseable()
        return Verdict.wrong("odd") if sum(map(ord, answer)) % 2 else Verdict.right()

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        del problem
        return sum(map(ord, one)) % 2 == sum(map(ord, other)) % 2

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        problems = list(self.problems("train"))
        for number in range(count):
            problem = problems[(number + seed) % len(problems)]
            if number % 2:
                yield Demonstration(problem, "bb")
            else:
                yield Demonstration(problem, "a", "That was odd.", "bb")
