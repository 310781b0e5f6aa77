"""Countdown puzzles and the expressions that people would write for them.

Like in the game, every intermediate result is a positive whole number, and parentheses stand only
where they are needed. Answers of a model are not bound to that: they are read by ``arithmetic``.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

_SUM, _PRODUCT, _NUMBER = 0, 1, 2
_MOST_TO_SOLVE = 4


@dataclass(frozen=True, slots=True)
class Term:
    """An expression with its value."""

    value: int
    text: str
    level: int = _NUMBER
    """How tightly it binds: a sum least, a number most."""

    @classmethod
    def number(cls, value: int) -> Self:
        """Return the expression that is one number."""
        return cls(value, str(value))

    @property
    def equation(self) -> str:
        """The expression and its value: ``3 * 5 + 4 = 19``."""
        return f"{self.text} = {self.value}"


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Numbers, in the order in which they are asked, and a target."""

    numbers: tuple[int, ...]
    target: int
    solution: Term | None = None
    """An expression that reaches the target, where one is known."""

    @property
    def key(self) -> tuple[int, ...]:
        """What makes two puzzles the same but for the order of their numbers."""
        return (*sorted(self.numbers), self.target)


def join(left: Term, operator: str, right: Term) -> Term | None:
    """Join two expressions; ``None`` where the result is not a positive whole number."""
    if operator == "+":
        return Term(left.value + right.value, f"{left.text} + {right.text}", _SUM)
    if operator == "-":
        if left.value <= right.value:
            return None
        text = f"{left.text} - {_within(right, _PRODUCT)}"
        return Term(left.value - right.value, text, _SUM)
    if operator == "*":
        text = f"{_within(left, _PRODUCT)} * {_within(right, _PRODUCT)}"
        return Term(left.value * right.value, text, _PRODUCT)
    if left.value % right.value:
        return None
    text = f"{_within(left, _PRODUCT)} / {_within(right, _NUMBER)}"
    return Term(left.value // right.value, text, _PRODUCT)


def _within(term: Term, level: int) -> str:
    return term.text if term.level >= level else f"({term.text})"


def random_term(numbers: Sequence[int], operators: str, rng: random.Random) -> Term | None:
    """Join all numbers in a random way; ``None`` where that way leads nowhere."""
    terms = [Term.number(number) for number in numbers]
    while len(terms) > 1:
        left = terms.pop(rng.randrange(len(terms)))
        right = terms.pop(rng.randrange(len(terms)))
        joined = join(left, rng.choice(operators), right)
        if joined is None:
            return None
        terms.append(joined)
    return terms[0]


def solve(numbers: Sequence[int], target: int, operators: str) -> Term | None:
    """Find an expression that reaches the target, by trying all; for up to four numbers.

    Returns:
        A solution; ``None`` where there is none, where every one needs a negative or broken
        intermediate result, or where there are too many numbers to try.
    """
    if len(numbers) > _MOST_TO_SOLVE or min(numbers) < 1:
        return None
    return _search([Term.number(number) for number in numbers], target, operators)


def _search(terms: list[Term], target: int, operators: str) -> Term | None:
    if len(terms) == 1:
        return terms[0] if terms[0].value == target else None
    for i, j in combinations(range(len(terms)), 2):
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        for left, right in ((terms[i], terms[j]), (terms[j], terms[i])):
            for operator in operators:
                joined = join(left, operator, right)
                found = _search([*rest, joined], target, operators) if joined else None
                if found:
                    return found
    return None
