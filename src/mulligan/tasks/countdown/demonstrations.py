"""Conversations about Countdown for the supervised warm-up.

A mix, on purpose: a model that is taught right answers only writes bare answers where it should
reflect. Reflections therefore come in four kinds, from one that says nothing to one that finds
the answer, and the training that follows can choose between them.

For it to be able to, what a reflection says must matter. So a retry does as its reflection says,
also where that is wrong, and is left to luck where it says nothing to go by. If every retry were
right, the model would learn to pass over the reflection, and no reflection would be worth more
than another.
"""

import random
from dataclasses import dataclass

from mulligan.tasks.countdown.expressions import Puzzle, Term, join, random_term
from mulligan.tasks.demonstrations import vague
from mulligan.types import Demonstration, Problem

_TRIES = 50
_LARGEST_VALUE = 100  # of wrong expressions: larger ones teach a small model wrong arithmetic
_MISSED_SHARE = 0.75  # of wrong attempts: right numbers, wrong result
_CLAIM_SHARE = 0.6  # of those: claims that its result is the target, as small models do
_HINT_SHARE = 0.6  # of diagnoses: says which operators to use instead
_RIGHT_HINT_SHARE = 0.5  # of those: the right ones
_LUCK = 0.15  # share of right retries after a reflection that says nothing to go by
_MOST_TRIED = 2  # of a search that goes wrong or on: more would not fit a small token budget

_VAGUE = (
    "I did not check my result.",
    "I did not check my equation before I answered.",
    "I answered too quickly.",
    "I made a mistake in my calculation.",
    "My equation was wrong.",
    "My answer was not right.",
    "I was careless with the numbers.",
    "I guessed instead of calculating.",
    "I did not calculate the result.",
    "I did not think about which operators I need.",
    "I chose the wrong way to combine the numbers.",
    "I did not look at the target closely.",
    "I should have worked more carefully.",
    "I got the arithmetic wrong.",
)
_VAGUE_ENDINGS = (
    "I will be more careful.",
    "Next time I will check it.",
    "I need to try another way.",
    "I should compute the value first.",
    "I have to look at the numbers again.",
    "I will use each number once.",
    "I should compare it with the target.",
)
_HINTS = ("I should {}.", "I need to {}.", "I will {} instead.", "It is better to {}.")
_VERBS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}


@dataclass(frozen=True, slots=True)
class _Mistake:
    attempt: str
    diagnosis: str


def answer(problem: Problem, solution: Term) -> Demonstration:
    """Return a question and its right answer."""
    return Demonstration(problem, solution.equation, tags=("answer",))


def think_first(
    problem: Problem, puzzle: Puzzle, solution: Term, operators: str, rng: random.Random
) -> Demonstration:
    """Return a question and an answer that tries equations first, as a search that succeeds does.

    The right equation comes once more, on a line of its own, where the answer is read.
    """
    thought, found = _search(puzzle, solution, "searching_right", operators, rng)
    assert found is not None
    return Demonstration(problem, f"{thought}\n{found.equation}", tags=("think_first",))


def after_reflection(
    problem: Problem, puzzle: Puzzle, solution: Term, kind: str, operators: str, rng: random.Random
) -> Demonstration:
    """Return a wrong attempt, a reflection of the kind asked for, and the retry it leads to.

    A search that finds nothing else to try becomes a diagnosis, and is tagged as one.
    """
    mistake = _mistake(puzzle, operators, rng)
    wrong = _wrong_terms(puzzle, operators, rng)
    lucky = not wrong or rng.random() < _LUCK
    retry = solution if lucky else rng.choice(wrong)
    reflection = ""
    if kind == "vague":
        reflection = vague(_VAGUE, _VAGUE_ENDINGS, rng)
    elif kind.startswith("searching"):
        reflection, found = _search(puzzle, solution, kind, operators, rng)
        retry = found or retry
    if not reflection:
        kind, reflection = "diagnosing", mistake.diagnosis
        if rng.random() < _HINT_SHARE:
            retry = _hinted(solution, wrong, rng)
            reflection = f"{reflection} {_hint(retry, rng)}"
    return Demonstration(problem, mistake.attempt, reflection, retry.equation, (kind,))


def _hinted(solution: Term, wrong: list[Term], rng: random.Random) -> Term:
    """Choose what a hint leads to: the solution, or an expression with other operators."""
    other = [term for term in wrong if _verbs(term) != _verbs(solution)]
    return solution if not other or rng.random() < _RIGHT_HINT_SHARE else rng.choice(other)


def _mistake(puzzle: Puzzle, operators: str, rng: random.Random) -> _Mistake:
    if rng.random() < _MISSED_SHARE:
        for term in _wrong_terms(puzzle, operators, rng):
            return _missed(puzzle, term, rng)
    return _wrong_numbers(puzzle, operators, rng)


def _wrong_terms(puzzle: Puzzle, operators: str, rng: random.Random) -> list[Term]:
    """Return expressions of the right numbers that miss the target, no two of one value."""
    found: dict[int, Term] = {}
    for _ in range(_TRIES):
        term = random_term(puzzle.numbers, operators, rng)
        if term and term.value != puzzle.target and term.value < _LARGEST_VALUE:
            found.setdefault(term.value, term)
    return list(found.values())


def _missed(puzzle: Puzzle, term: Term, rng: random.Random) -> _Mistake:
    claims = rng.random() < _CLAIM_SHARE
    difference = abs(term.value - puzzle.target)
    size = "big" if term.value > puzzle.target else "small"
    diagnosis = rng.choice(
        (
            f"{term.equation}, but I need {puzzle.target}. That is too {size}.",
            f"{term.text} is {term.value}, not {puzzle.target}. It is too {size} by {difference}.",
            f"My equation gives {term.value}, which is {difference} too {size}.",
            f"I need {puzzle.target}, but {term.equation}. This is too {size}.",
        )
    )
    result = puzzle.target if claims else term.value
    return _Mistake(f"{term.text} = {result}", diagnosis)


def _hint(term: Term, rng: random.Random) -> str:
    return rng.choice(_HINTS).format(" and ".join(_verbs(term)))


def _verbs(term: Term) -> list[str]:
    return list(dict.fromkeys(_VERBS[c] for c in term.text if c in _VERBS))


def _wrong_numbers(puzzle: Puzzle, operators: str, rng: random.Random) -> _Mistake:
    """Make an attempt that replaces a number, leaves one out or uses one again."""
    numbers = list(puzzle.numbers)
    given = ", ".join(map(str, numbers))
    chosen = rng.choice(numbers)
    ways = ["replace", "again"] if len(numbers) == 2 else ["replace", "again", "leave_out"]
    way = rng.choice(ways)
    if way == "leave_out":
        numbers.remove(chosen)
        diagnosis = rng.choice((f"I did not use {chosen}.", f"I left out {chosen}."))
    elif way == "again":
        numbers.append(chosen)
        diagnosis = rng.choice((f"I used {chosen} too often.", f"I may use {chosen} only once."))
        if puzzle.numbers.count(chosen) > 1:
            diagnosis = f"I used {chosen} too often."
    else:
        other = _other_number(puzzle, rng)
        numbers[numbers.index(chosen)] = other
        diagnosis = rng.choice(
            (
                f"I used {other}, but I only have {given}.",
                f"{other} is not one of my numbers. I have {given}.",
                f"I have to use {chosen} and not {other}.",
            )
        )
    text = _any_term(numbers, operators, rng)
    return _Mistake(f"{text} = {puzzle.target}", diagnosis)


def _other_number(puzzle: Puzzle, rng: random.Random) -> int:
    near = range(1, max(puzzle.numbers) + 4)
    return rng.choice([number for number in near if number not in puzzle.numbers])


def _any_term(numbers: list[int], operators: str, rng: random.Random) -> str:
    for _ in range(_TRIES):
        term = random_term(numbers, operators, rng)
        if term:
            return term.text
    return f" {operators[0]} ".join(map(str, numbers))


def _search(
    puzzle: Puzzle, solution: Term, kind: str, operators: str, rng: random.Random
) -> tuple[str, Term | None]:
    """Write down equations one after another; return them, and where the search ends well.

    Short enough for a small token budget. They come in a fixed order, so that only their values
    decide where the search ends. "is" keeps them apart from answers, in which small models write
    the target behind "=" whatever stands before it.
    """
    candidates = _candidates(puzzle, solution, operators, rng)
    place = next(i for i, term in enumerate(candidates) if term.value == puzzle.target)
    if kind == "searching_right":
        right = candidates[place]
        tried = candidates[max(0, place - _MOST_TRIED) : place]
        return " ".join([*map(_refused, tried), f"{right.text} is {right.value}, yes."]), right
    wrong = [term for term in candidates if term.value != puzzle.target]
    return " ".join(map(_refused, wrong[:_MOST_TRIED])), None


def _refused(term: Term) -> str:
    return f"{term.text} is {term.value}, no."


def _candidates(puzzle: Puzzle, solution: Term, operators: str, rng: random.Random) -> list[Term]:
    """Return what a search goes through, by operators; of two numbers the larger one first."""
    if len(puzzle.numbers) > 2:
        terms = [*_wrong_terms(puzzle, operators, rng), solution]
        return sorted(terms, key=lambda term: (_place(term, operators), term.text))
    larger, smaller = map(Term.number, sorted(puzzle.numbers, reverse=True))
    joined = [term for operator in operators if (term := join(larger, operator, smaller))]
    return [t for t in joined if t.value < _LARGEST_VALUE or t.value == puzzle.target]


def _place(term: Term, operators: str) -> int:
    """Return where a term's first operator stands among the allowed ones."""
    return operators.index(next(c for c in term.text if c in operators))
