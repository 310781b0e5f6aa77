r"""Countdown: reach a target from given numbers, each used exactly once.

Problems come from a seeded generator, or from rows in the form of
``Jiayi-Pan/Countdown-Tasks-3to4``.

Where a text holds several equations, one counts: the last one inside the last ``<answer>`` tag;
else the first one after the last ``Answer:`` or ``\boxed{``; else the last one. So listing many
does not help. Its expression is the first side that joins numbers, and whatever stands on the
other sides of ``=`` has to equal the target too: an equation that claims a wrong result misses it.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar

from mulligan.errors import MulliganError, nearest
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.tasks.countdown import demonstrations as warm_up
from mulligan.tasks.countdown.arithmetic import (
    BINARY_OPERATORS,
    Expression,
    NotArithmetic,
    find_equations,
    normalise,
    parse,
    parse_equation,
)
from mulligan.tasks.countdown.expressions import Puzzle, Term, random_term, solve
from mulligan.tasks.rows import Row, read_rows
from mulligan.tasks.splits import WITHOUT_DEV_SHARE, check_shares, split_of, splits_with
from mulligan.types import Demonstration, Message, Problem, Verdict

COUNTS: Mapping[int, float] = MappingProxyType({2: 0.5, 3: 0.5})
LARGEST = 10**6
"""Bound of numbers and targets, far inside what the parser reads."""
MOST_NUMBERS = 8
QUESTION = (
    "Make {target} from {numbers}: use each number once with {operators}. Answer with one equation."
)
"""How a problem is put, unless an option says otherwise."""
_TRIES = 20_000
"""Draws without a new problem after which the problems of a kind count as used up."""

_TAG = re.compile(r"<answer>", re.IGNORECASE)
_END_TAG = re.compile(r"</answer>", re.IGNORECASE)
_MARKER = re.compile(r"\banswer\b[*_ ]{0,4}(?:is[*_ ]{0,4})?:|\\boxed\{", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")
_SYMBOL = re.compile(r"[=+*^\x00-\x08\x0b-\x1f\x7f]")
_WORD = re.compile(r"""(?:^|\s)["'(]?[^\W\d_]+(?:['’-][^\W\d_]+)*["').,;:!?…]*(?=\s|$)""")


class Countdown(Task):
    """Reach a target from numbers, each used exactly once.

    Args:
        counts: how many numbers a problem has, with weights: ``{2: 0.7, 3: 0.3}``; or equally
            likely counts: ``[3, 4]``.
        smallest_number: the smallest number given.
        largest_number: the largest number given.
        smallest_target: the smallest target.
        largest_target: the largest target.
        operators: the allowed ones of ``+-*/``; with another one an answer is no equation here.
        seed: decides the problems, their order and the split.
        test_share: the share of all possible problems that belongs to the test split. Problems
            with the same target and the same numbers in any order are always in the same split.
        dev_share: the share that belongs to the dev split, taken out of training; 0: no dev split.
        test_size: how many test problems there are, no two alike but for the order of numbers.
        dev_size: how many dev problems there are, likewise.
        train_size: how many training problems there are; ``None``: as many as can be had.
        rows: path of a JSON, JSON lines or Parquet file, or a Hub id, whose rows (``nums``,
            ``target``) are used. Counts and bounds then play no part.
        question: how a problem is put; ``{target}``, ``{numbers}`` and ``{operators}`` stand for
            its parts.
        system: a system message before the question; ``None`` for none.
        answer_share: the share of demonstrations that are a question and its answer.
        reflection_shares: weights of the kinds of reflection in the other demonstrations;
            a kind left out does not occur.

    Raises:
        MulliganError: for an option with a wrong value, or a row that is no problem.
    """

    name: ClassVar[str] = "countdown"
    reasons: ClassVar[tuple[str, ...]] = (
        "passed",
        "no_answer",
        "not_an_equation",
        "wrong_numbers",
        "missed_target",
    )
    safe: ClassVar[bool] = True
    without_split = WITHOUT_DEV_SHARE

    def __init__(
        self,
        *,
        counts: Mapping[int, float] | Sequence[int] = COUNTS,
        smallest_number: int = 1,
        largest_number: int = 20,
        smallest_target: int = 1,
        largest_target: int = 60,
        operators: str = "+-*",
        seed: int = 0,
        test_share: float = 0.3,
        test_size: int = 200,
        dev_share: float = 0.0,
        dev_size: int = 200,
        train_size: int | None = None,
        rows: str | None = None,
        question: str = QUESTION,
        system: str | None = None,
        answer_share: float = 0.4,
        reflection_shares: Mapping[str, float] = warm_up.REFLECTION_SHARES,
    ) -> None:
        self._weights = _checked_counts(counts)
        self._numbers = _checked_range("number", smallest_number, largest_number)
        self._targets = _checked_range("target", smallest_target, largest_target)
        self._operators = _checked_operators(operators)
        self._seed = _whole("seed", seed, -(2**63), 2**63)
        self._test_share = _fraction("test_share", test_share)
        self._dev_share = _fraction("dev_share", dev_share)
        check_shares("countdown", self._test_share, self._dev_share)
        self.splits = splits_with(self._dev_share)
        self._sizes: dict[Split, int | None] = {
            "test": _whole("test_size", test_size, 1, 10**9),
            "dev": _whole("dev_size", dev_size, 1, 10**9),
            "train": None if train_size is None else _whole("train_size", train_size, 1, 10**9),
        }
        if system is not None and not isinstance(system, str):
            raise _wrong_option("system", "a text or null", system)
        self._system = system
        self._question = _checked_question(question)
        self._answer_share = _fraction("answer_share", answer_share)
        self._reflection_shares = _checked_shares(reflection_shares)
        self._rows = None if rows is None else _read_puzzles(rows)

    def problems(self, split: Split) -> Iterator[Problem]:
        """Return the problems of a split, always the same ones in the same order.

        Raises:
            MulliganError: if there are fewer of them than the split's size asks for.
        """
        size, puzzles = self._sizes[split], self._puzzles(split)
        if size is None:
            return map(self._problem, puzzles)
        chosen = list(islice(puzzles, size))
        if len(chosen) < size:
            raise MulliganError(
                f"Countdown has only {len(chosen)} different {split} problems with these options, "
                f"but {split}_size asks for {size}; lower it, give more numbers or larger ones, "
                "or change test_share"
            )
        return map(self._problem, chosen)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Judge the equation in an answer; see the head of this file for which one counts."""
        text = _answer_part(normalise(answer))
        equation = _answer_equation(text)
        if equation is None:
            return Verdict.unparseable(_why_unreadable(text))
        try:
            sides = parse_equation(equation)
        except NotArithmetic as error:
            return Verdict.unparseable("not_an_equation", str(error))
        return self._judge(problem, sides)

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers join the same numbers by the same operators to the same value."""
        del problem
        first, second = _read(one), _read(other)
        return first is not None and first == second

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether any expression in the reflection is a solution, whatever is said of it."""
        spans = find_equations(normalise(reflection))
        sides = (side.strip() for span in spans for side in span.text.split("="))
        # A parenthesis of the prose may enclose the equation: "(3 + 5 = 8)".
        readings = (t for s in sides for t in (s, s.removeprefix("("), s.removesuffix(")")))
        return any(self._solves(problem, text) for text in readings)

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        """Yield conversations for the warm-up, about training problems.

        Tags name the kind: ``answer``, or the kind of reflection. Problems come back, with other
        mistakes, once every one had its turn. Rows that cannot be solved by search are left out.
        """
        return islice(self._demonstrations(seed), count)

    def _demonstrations(self, seed: int) -> Iterator[Demonstration]:
        kinds, weights = zip(*self._reflection_shares.items(), strict=True)
        rng = random.Random(derive_seed(self._seed, "countdown mistakes", seed))
        for puzzle, solution in self._demonstrated(seed):
            problem = self._problem(puzzle)
            if rng.random() < self._answer_share:
                yield warm_up.answer(problem, solution)
            else:
                kind = rng.choices(kinds, weights)[0]
                yield warm_up.mended(problem, puzzle, solution, kind, self._operators, rng)

    def _judge(self, problem: Problem, sides: tuple[Expression, ...]) -> Verdict:
        expression = next(side for side in sides if len(side.numbers) > 1)
        foreign = expression.operators - set(self._operators)
        numbers, target = problem.given["numbers"], problem.given["target"]
        if foreign:
            return Verdict.unparseable("not_an_equation", f"{min(foreign)!r} is not allowed here")
        if Counter(expression.numbers) != Counter(numbers):
            return Verdict.wrong("wrong_numbers", f"used {list(expression.numbers)} of {numbers}")
        for side in sides:
            if side.value != target:
                return Verdict.wrong("missed_target", f"came to {side.value}, target {target}")
        return Verdict.right()

    def _solves(self, problem: Problem, text: str) -> bool:
        if sorted(_DIGITS.findall(text)) != sorted(map(str, problem.given["numbers"])):
            return False  # spares a text full of other equations the parsing of each
        try:
            expression = parse(text)
        except NotArithmetic:
            return False
        return len(expression.numbers) > 1 and self._judge(problem, (expression,)).passed

    def _problem(self, puzzle: Puzzle) -> Problem:
        numbers = ", ".join(map(str, puzzle.numbers))
        question = self._question
        parts = {
            "{target}": str(puzzle.target),
            "{numbers}": numbers,
            "{operators}": " ".join(self._operators),
        }
        for name, value in parts.items():
            question = question.replace(name, value)
        messages: list[Message] = [{"role": "user", "content": question}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        given = {"numbers": list(puzzle.numbers), "target": puzzle.target}
        reference = puzzle.solution.equation if puzzle.solution else None
        return Problem.create(messages, given, reference)

    def _split(self, puzzle: Puzzle) -> Split:
        """Tell a puzzle's split from what it is, so that no puzzle can be in both."""
        shares = {"test_share": self._test_share, "dev_share": self._dev_share}
        return split_of(self._seed, "countdown split", *puzzle.key, **shares)

    def _puzzles(self, split: Split, *purpose: int | str) -> Iterator[Puzzle]:
        """Yield different puzzles of a split; the purpose decides which ones, in which order."""
        rng = random.Random(derive_seed(self._seed, "countdown", split, *purpose))
        seen: set[tuple[int, ...]] = set()

        def is_new(puzzle: Puzzle) -> bool:
            # In training another order of the numbers is another problem; elsewhere it is the same.
            identity = puzzle.key if split != "train" else (*puzzle.numbers, puzzle.target)
            if identity in seen or self._split(puzzle) != split:
                return False
            seen.add(identity)
            return True

        if self._rows is not None:
            return filter(is_new, rng.sample(self._rows, len(self._rows)))
        return self._generated(rng, is_new)

    def _generated(self, rng: random.Random, is_new: Callable[[Puzzle], bool]) -> Iterator[Puzzle]:
        """Draw until the puzzles of some count are used up, for then the mix would change."""
        counts, weights = list(self._weights), list(self._weights.values())
        while True:
            count = rng.choices(counts, weights)[0]
            draws = (self._draw(count, rng) for _ in range(_TRIES))
            puzzle = next((drawn for drawn in draws if drawn and is_new(drawn)), None)
            if puzzle is None:
                return
            yield puzzle

    def _draw(self, count: int, rng: random.Random) -> Puzzle | None:
        numbers = tuple(rng.choice(self._numbers) for _ in range(count))
        solution = random_term(numbers, self._operators, rng)
        if solution is None or solution.value not in self._targets:
            return None
        return Puzzle(numbers, solution.value, solution)

    def _demonstrated(self, seed: int) -> Iterator[tuple[Puzzle, Term]]:
        """Yield solved training puzzles without end, round after round; none if there is none."""
        solved = []
        for puzzle in self._puzzles("train", "demonstrations", seed):
            solution = puzzle.solution or solve(puzzle.numbers, puzzle.target, self._operators)
            if solution is not None:
                solved.append((puzzle, solution))
                yield puzzle, solution
        rng = random.Random(derive_seed(self._seed, "countdown rounds", seed))
        while solved:
            rng.shuffle(solved)
            yield from solved


def _answer_part(text: str) -> str:
    """Return what stands in the last ``<answer>`` tag, closed or not; without one, everything."""
    return _END_TAG.split(_TAG.split(text)[-1])[0] if _TAG.search(text) else text


def _answer_equation(text: str) -> str | None:
    """Return the equation of a normalised text that counts, well-formed or not."""
    equations = find_equations(text)
    markers = list(_MARKER.finditer(text))
    announced = [e for e in equations if markers and e.start >= markers[-1].end()]
    if announced:
        return announced[0].text
    return equations[-1].text if equations else None


def _read(answer: str) -> tuple[Any, ...] | None:
    """Return what an answer says, whatever the order it is written in; ``None`` for no equation."""
    equation = _answer_equation(_answer_part(normalise(answer)))
    if equation is None:
        return None
    try:
        sides = parse_equation(equation)
    except NotArithmetic:
        return None
    joined = next(side for side in sides if len(side.numbers) > 1)
    values = {side.value for side in sides}
    return sorted(joined.numbers), joined.operators, joined.value, values


def _why_unreadable(text: str) -> str:
    """Tell prose, in which nothing was answered, from something that was meant as an answer."""
    has_symbols = _SYMBOL.search(text) or any(character.isnumeric() for character in text)
    is_prose = not text.strip() or _WORD.search(text)
    return "no_answer" if is_prose and not has_symbols else "not_an_equation"


def _read_puzzles(source: str) -> list[Puzzle]:
    puzzles = [_puzzle(row) for row in read_rows(source)]
    if not puzzles:
        raise MulliganError(f"{source!r} has no rows; expected rows with 'nums' and 'target'")
    return puzzles


def _puzzle(row: Row) -> Puzzle:
    numbers, target = row.get("nums"), row.get("target")
    if (
        not isinstance(numbers, list)
        or not 2 <= len(numbers) <= MOST_NUMBERS
        or not all(_is_whole(number) and 0 <= number <= LARGEST for number in numbers)
    ):
        raise row.refuse("nums", f"a list of 2 to {MOST_NUMBERS} whole numbers, 0 to {LARGEST}")
    if not _is_whole(target) or abs(target) > LARGEST:
        raise row.refuse("target", f"a whole number of at most {LARGEST}")
    return Puzzle(tuple(numbers), target)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _wrong_option(name: str, expected: str, came: Any) -> MulliganError:
    return MulliganError(f"Countdown option {name!r} should be {expected}, but is {came!r}")


def _checked_question(question: Any) -> str:
    if isinstance(question, str) and "{target}" in question and "{numbers}" in question:
        return question
    raise _wrong_option("question", "a text with {target} and {numbers} in it", question)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if not _is_whole(value) or not low <= value <= high:
        raise _wrong_option(name, f"a whole number from {low} to {high}", value)
    return int(value)


def _fraction(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise _wrong_option(name, "a number from 0 to 1", value)
    return float(value)


def _checked_range(what: str, smallest: Any, largest: Any) -> range:
    low = _whole(f"smallest_{what}", smallest, 1, LARGEST)
    return range(low, _whole(f"largest_{what}", largest, low, LARGEST) + 1)


def _checked_counts(counts: Any) -> dict[int, float]:
    """Return weights by count; a list means equal weights, and JSON's keys are texts."""
    weights = dict.fromkeys(counts, 1.0) if isinstance(counts, list | tuple) else counts
    if isinstance(weights, Mapping):
        weights = {int(c) if str(c).isdecimal() else c: share for c, share in weights.items()}
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(_is_whole(count) and 2 <= count <= MOST_NUMBERS for count in weights)
        or not all(_is_weight(weight) for weight in weights.values())
        or not any(weights.values())
    ):
        expected = f"counts from 2 to {MOST_NUMBERS} with weights, as {{2: 0.7, 3: 0.3}}, or a list"
        raise _wrong_option("counts", expected, counts)
    return dict(weights)


def _checked_operators(operators: Any) -> str:
    if (
        not isinstance(operators, str)
        or not operators
        or len(set(operators)) < len(operators)
        or not set(operators) <= set(BINARY_OPERATORS)
    ):
        raise _wrong_option("operators", f"some of {BINARY_OPERATORS!r}, each once", operators)
    return operators


def _checked_shares(shares: Any) -> dict[str, float]:
    if not isinstance(shares, Mapping) or not any(shares.values()):
        raise _wrong_option("reflection_shares", "kinds of reflection with weights", shares)
    for kind, weight in shares.items():
        if kind not in warm_up.REFLECTION_SHARES:
            hint = nearest(str(kind), warm_up.REFLECTION_SHARES)
            raise MulliganError(f"Countdown knows no reflections of kind {kind!r}; {hint}")
        if not _is_weight(weight):
            raise _wrong_option(f"reflection_shares.{kind}", "a number of at least 0", weight)
    return dict(shares)
