"""Conversations about Countdown for the supervised warm-up.

A mix, on purpose: a model that is taught right answers only writes bare answers where it should
reflect. Reflections therefore come in four kinds, from one that says nothing to one that finds
the answer, and the training that follows can choose between them.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mulligan.tasks.countdown_expressions import Puzzle, Term, random_term
from mulligan.types import Demonstration, Problem

REFLECTION_SHARES: Mapping[str, float] = MappingProxyType(
    {"vague": 1 / 3, "diagnosing": 1 / 3, "searching": 1 / 6, "searching_right": 1 / 6}
)
"""``vague`` admits a mistake; ``diagnosing`` says what was wrong; ``searching`` tries other
equations in vain; ``searching_right`` tries until one is right."""

_TRIES = 50
_MISSED_SHARE = 0.75  # of wrong attempts: right numbers, wrong result
_CLAIM_SHARE = 0.6  # of those: claims that its result is the target, as small models do
_HINT_SHARE = 0.5  # of diagnoses of those: says which operators to use instead
_VAGUE_ENDING_SHARE = 0.5

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
_SEARCH_OPENINGS = ("", "", "Let me try others. ", "I try again: ", "Other ways: ")
_VERBS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}


@dataclass(frozen=True, slots=True)
class _Mistake:
    attempt: str
    diagnosis: str
    value: int | None = None
    """What the attempt's expression comes to, where it uses the right numbers."""


def answer(problem: Problem, solution: Term) -> Demonstration:
    """Return a question and its right answer."""
    return Demonstration(problem, solution.equation, tags=("answer",))


def mended(
    problem: Problem, puzzle: Puzzle, solution: Term, kind: str, operators: str, rng: random.Random
) -> Demonstration:
    """Return a wrong attempt, a reflection of the kind asked for, and a right retry.

    A search that finds nothing else to try becomes a diagnosis, and is tagged as one.
    """
    mistake = _mistake(puzzle, solution, operators, rng)
    reflection = ""
    if kind == "vague":
        reflection = _vague(rng)
    elif kind.startswith("searching"):
        ending = solution if kind == "searching_right" else None
        reflection = _search(puzzle, mistake, ending, operators, rng)
    if not reflection:
        kind, reflection = "diagnosing", mistake.diagnosis
    return Demonstration(problem, mistake.attempt, reflection, solution.equation, (kind,))


def _mistake(puzzle: Puzzle, solution: Term, operators: str, rng: random.Random) -> _Mistake:
    if rng.random() < _MISSED_SHARE:
        for term in _wrong_terms(puzzle, operators, rng):
            return _missed(puzzle, term, solution, rng)
    return _wrong_numbers(puzzle, operators, rng)


def _wrong_terms(puzzle: Puzzle, operators: str, rng: random.Random) -> list[Term]:
    """Return expressions of the right numbers that miss the target, no two of one value."""
    found: dict[int, Term] = {}
    for _ in range(_TRIES):
        term = random_term(puzzle.numbers, operators, rng)
        if term and term.value != puzzle.target:
            found.setdefault(term.value, term)
    return list(found.values())


def _missed(puzzle: Puzzle, term: Term, solution: Term, rng: random.Random) -> _Mistake:
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
    if rng.random() < _HINT_SHARE:
        diagnosis = f"{diagnosis} {_hint(solution, rng)}"
    result = puzzle.target if claims else term.value
    return _Mistake(f"{term.text} = {result}", diagnosis, term.value)


def _hint(solution: Term, rng: random.Random) -> str:
    verbs = dict.fromkeys(_VERBS[c] for c in solution.text if c in _VERBS)
    return rng.choice(_HINTS).format(" and ".join(verbs))


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


def _vague(rng: random.Random) -> str:
    sentence = rng.choice(_VAGUE)
    if rng.random() < _VAGUE_ENDING_SHARE:
        return f"{sentence} {rng.choice(_VAGUE_ENDINGS)}"
    return sentence


def _search(
    puzzle: Puzzle, mistake: _Mistake, ending: Term | None, operators: str, rng: random.Random
) -> str:
    """Write down other equations with their values, short enough for a small token budget."""
    fresh = [t for t in _wrong_terms(puzzle, operators, rng) if t.value != mistake.value]
    most = 3 if len(puzzle.numbers) == 2 else 2
    wrong = rng.randint(1, most - 1 if ending else most)
    tried = [f"{term.equation}, no." for term in fresh[:wrong]]
    if ending:
        tried.append(f"{ending.equation}, yes.")
    return rng.choice(_SEARCH_OPENINGS) + " ".join(tried) if tried else ""
