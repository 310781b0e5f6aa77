r"""Countdown: reach a target from given numbers, each used exactly once.

Problems come from a seeded generator, or from rows in the form of
``Jiayi-Pan/Countdown-Tasks-3to4``. Which equation of an answer counts is said in
:mod:`mulligan.tasks.countdown.answers`: its expression is the first side that joins numbers, and
whatever stands on the other sides of ``=`` has to equal the target too, so that an equation that
claims a wrong result misses it.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator
from inspect import Signature, signature
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.tasks.countdown import demonstrations as warm_up
from mulligan.tasks.countdown.answers import Answer, NoAnswer, read_answer
from mulligan.tasks.countdown.arithmetic import (
    NotArithmetic,
    find_equations,
    normalise,
    parse,
)
from mulligan.tasks.countdown.expressions import Puzzle, Term, solve
from mulligan.tasks.countdown.options import CountdownOptions, checked_options
from mulligan.tasks.countdown.puzzles import FixedPuzzles, Puzzles, SeededPuzzles, read_puzzles
from mulligan.tasks.splits import check_shares, splits_with
from mulligan.types import Demonstration, Message, Problem, Verdict

_DIGITS = re.compile(r"[0-9]+")


class Countdown(Task):
    """Reach a target from numbers, each used exactly once.

    Its options are the fields of ``CountdownOptions``.

    Raises:
        MulliganError: for an option with a wrong value, or a row that is not a problem.
    """

    name: ClassVar[str] = "countdown"
    reasons = (
        "passed",
        "no_answer",
        "not_an_equation",
        "wrong_numbers",
        "missed_target",
    )
    safe = True
    rules_changed = MappingProxyType(
        {
            2: "an answer has to be one equation and nothing else, in its <answer> tag or on its "
            "last line, where an equation anywhere in the text used to be enough"
        }
    )
    without_split = (
        "Give it one with task_options.fixed_splits: true, or with task_options.dev_share, the "
        "share of problems that is taken out of training for it, or use evaluate.split: test."
    )
    __signature__: ClassVar[Signature] = signature(CountdownOptions)

    def __init__(self, **options: Any) -> None:
        self.options = checked_options(options)
        check_shares(self.name, self.options.test_share, self.options.dev_share)
        self.splits = splits_with(float(self.options.fixed_splits) or self.options.dev_share)
        rows = None if self.options.rows is None else read_puzzles(self.options.rows)
        kind = FixedPuzzles if self.options.fixed_splits else SeededPuzzles
        self._puzzles: Puzzles = kind(self.options, rows)

    def problems(self, split: Split) -> Iterator[Problem]:
        """Return the problems of a split, always the same ones in the same order.

        Raises:
            MulliganError: if there are fewer of them than the split's size asks for.
        """
        options = self.options
        sizes = {"train": options.train_size, "dev": options.dev_size, "test": options.test_size}
        size, puzzles = sizes[split], self._puzzles.of(split)
        if size is None:
            return map(self._problem, puzzles)
        chosen = list(islice(puzzles, size))
        if len(chosen) < size:
            other = ", or set fixed_splits: true, whose supply does not depend on the seed"
            remedy = "" if options.fixed_splits else other
            raise MulliganError(
                f"Countdown has only {len(chosen)} different {split} problems with these options, "
                f"but {split}_size asks for {size}. Lower it, give more numbers or larger ones"
                f"{remedy}."
            )
        return map(self._problem, chosen)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Judge the equation that an answer gives."""
        try:
            return self._judge(problem, read_answer(answer))
        except NoAnswer as none:
            return Verdict.unparseable(none.reason, none.detail)

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers join the same numbers by the same operators to the same value."""
        del problem
        try:
            return read_answer(one).meaning == read_answer(other).meaning
        except NoAnswer:
            return False

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether any expression in the reflection is a solution, whatever is said of it.

        All of the reflection is looked at, thoughts and prose too: unlike an answer, it need not
        commit itself to an equation to give it away.
        """
        spans = find_equations(normalise(reflection))
        sides = (side.strip() for span in spans for side in span.text.split("="))
        # A parenthesis of the prose may enclose the equation: "(3 + 5 = 8)".
        readings = (t for s in sides for t in (s, s.removeprefix("("), s.removesuffix(")")))
        return any(self._solves(problem, text) for text in readings)

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        """Yield conversations for the warm-up, about training problems.

        Tags name the kind: ``answer``, ``think_first``, or the kind of reflection. Problems come
        back, with other mistakes, once every one had its turn. Rows that cannot be solved by
        search are left out.
        """
        return islice(self._demonstrations(seed), count)

    def _demonstrations(self, seed: int) -> Iterator[Demonstration]:
        options = self.options
        kinds, weights = zip(*options.reflection_shares.items(), strict=True)
        rng = random.Random(derive_seed(options.seed, "countdown mistakes", seed))
        for puzzle, solution in self._demonstrated(seed):
            problem = self._problem(puzzle)
            if rng.random() < options.answer_share:
                if options.think_first_share and rng.random() < options.think_first_share:
                    yield warm_up.think_first(problem, puzzle, solution, options.operators, rng)
                else:
                    yield warm_up.answer(problem, solution)
            else:
                kind = rng.choices(kinds, weights)[0]
                yield warm_up.after_reflection(
                    problem, puzzle, solution, kind, options.operators, rng
                )

    def _judge(self, problem: Problem, answer: Answer) -> Verdict:
        expression = answer.joined
        foreign = expression.operators - set(self.options.operators)
        numbers, target = problem.given["numbers"], problem.given["target"]
        if foreign:
            return Verdict.unparseable("not_an_equation", f"{min(foreign)!r} is not allowed here")
        if Counter(expression.numbers) != Counter(numbers):
            return Verdict.wrong("wrong_numbers", f"used {list(expression.numbers)} of {numbers}")
        for side in answer.sides:
            if side.value != target:
                return Verdict.wrong("missed_target", f"came to {side.value}, target {target}")
        return Verdict.right()

    def _solves(self, problem: Problem, text: str) -> bool:
        if sorted(_DIGITS.findall(text)) != sorted(map(str, problem.given["numbers"])):
            return False  # so that a text full of other equations need not be parsed
        try:
            expression = parse(text)
        except NotArithmetic:
            return False
        return len(expression.numbers) > 1 and self._judge(problem, Answer((expression,))).passed

    def _problem(self, puzzle: Puzzle) -> Problem:
        numbers = ", ".join(map(str, puzzle.numbers))
        question = self.options.question
        parts = {
            "{target}": str(puzzle.target),
            "{numbers}": numbers,
            "{operators}": " ".join(self.options.operators),
        }
        for name, value in parts.items():
            question = question.replace(name, value)
        messages: list[Message] = [{"role": "user", "content": question}]
        if self.options.system is not None:
            messages.insert(0, {"role": "system", "content": self.options.system})
        given = {"numbers": list(puzzle.numbers), "target": puzzle.target}
        reference = puzzle.solution.equation if puzzle.solution else None
        return Problem.create(messages, given, reference)

    def _demonstrated(self, seed: int) -> Iterator[tuple[Puzzle, Term]]:
        """Yield solved training puzzles without end, round after round; none if there is none."""
        solved = []
        for puzzle in self._puzzles.of("train", "demonstrations", seed):
            solution = puzzle.solution or solve(
                puzzle.numbers, puzzle.target, self.options.operators
            )
            if solution is not None:
                solved.append((puzzle, solution))
                yield puzzle, solution
        rng = random.Random(derive_seed(self.options.seed, "countdown rounds", seed))
        while solved:
            rng.shuffle(solved)
            yield from solved
