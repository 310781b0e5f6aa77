"""The task of the kept run: say something even. A random model passes about half the time."""

from collections.abc import Iterator

from mulligan import Demonstration, Problem, Task, Verdict


class Parity(Task):
    """Passes when the character codes of an answer add up to an even number."""

    name = "parity"
    reasons = ("passed", "odd", "no_answer")
    safe = True

    def problems(self, split: str) -> Iterator[Problem]:
        for number in range(40):
            yield Problem.create(
                f"{split}-{number}", {"split": split, "number": number}, reference="bb"
            )

    def verify(self, problem: Problem, answer: str) -> Verdict:
        del problem
        if not answer.strip():
            return Verdict.unparseable()
        return Verdict.wrong("odd") if sum(map(ord, answer)) % 2 else Verdict.right()

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        problems = list(self.problems("train"))
        for number in range(count):
            problem = problems[(number + seed) % len(problems)]
            if number % 2:
                yield Demonstration(problem, "bb")
            else:
                yield Demonstration(problem, "a", "That was odd.", "bb")
