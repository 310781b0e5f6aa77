"""Reads arithmetic that a model has written: safely, exactly, and in bounded time.

An allow-list, not a filter over ``eval``: integers in ASCII digits, ``+ - * /``, parentheses and
unary minus. Values are exact fractions. Length, depth and the size of integers are bounded, so
the worst expression takes well under a millisecond.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 200
"""Characters of one equation."""
MAX_DEPTH = 30
"""Open parentheses and signs around one number."""
MAX_DIGITS = 9
"""Digits of one integer."""
MAX_TEXT = 10_000
"""Characters of a text that are searched: its end, where a long answer has its result."""

BINARY_OPERATORS = "+-*/"

_TOKEN = re.compile(r"[ \t]*(0|[1-9][0-9]*|[-+*/()])")
# Digits of every script, powers and control characters belong to a span though no parser takes
# them: they spoil the equation that they stand in, instead of cutting a valid piece out of it.
_SPAN = re.compile(
    r"(?:[\d+\-*/^√()= \t\x00-\x08\x0b-\x1f\x7f]|(?<=\d)[.,](?=\d)|%(?=[ \t]{0,3}[\d(]))+"
)
_JOINS_TWO = re.compile(r"[+*/^√%]|[\d)][ \t]*-")
_TRANSLATION = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "\r": "\n"}
)
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": ""}
_LATEX_MATHS = re.compile(r"\\[()\[\]]")
_LETTER_X = re.compile(r"(?<=[0-9)]) [xX] (?=[0-9(])")
_BULLET = re.compile(r"^[ \t]*[*•][ \t]+", re.MULTILINE)


class NotArithmetic(ValueError):  # noqa: N818 - says what the text is, not that a program failed
    """The text is not an expression or equation of the allowed kind, or has no value."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read: its value and what it is made of."""

    value: Fraction
    numbers: tuple[int, ...]
    """Every integer as it occurs, from left to right."""
    operators: frozenset[str]
    """Every operator used; a unary minus counts as ``-``."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text that is meant as arithmetic, well-formed or not."""

    start: int
    """Where it begins in the text it was found in."""
    text: str


def parse(text: str) -> Expression:
    """Read one expression.

    Raises:
        NotArithmetic: for anything outside the allow-list or its bounds, and for division by zero.
    """
    return _Parser(_tokens(text)).read()


def parse_equation(text: str) -> tuple[Expression, ...]:
    """Read expressions joined by ``=``; one expression alone is an equation with one side.

    Raises:
        NotArithmetic: if a side is not an expression, or no side joins two numbers.
    """
    if len(text) > MAX_LENGTH:
        raise NotArithmetic(f"longer than {MAX_LENGTH} characters")
    left = text.partition("=")[0]
    if left != text and left.count("(") > left.count(")") and text[0] + text[-1] == "()":
        text = text[1:-1]  # parentheses around the whole equation
    sides = tuple(parse(side) for side in text.split("="))
    if all(len(side.numbers) < 2 for side in sides):
        raise NotArithmetic("a number alone")
    return sides


def normalise(text: str) -> str:
    r"""Put common ways of writing operators (``×``, ``\times``, `` x ``) into ASCII.

    Digits of other scripts stay what they are, and so no equation. Of a text longer than
    ``MAX_TEXT`` only the end is kept.
    """
    text = text[-MAX_TEXT:].translate(_TRANSLATION)
    for command, replacement in _LATEX.items():
        text = text.replace(command, replacement)
    text = _LATEX_MATHS.sub("\n", text)
    return _BULLET.sub("", _LETTER_X.sub(" * ", text))


def find_equations(text: str) -> list[Span]:
    """Find every maximal stretch of a normalised text that joins numbers by operators.

    A stretch that touches a letter (``1e9``, ``3x + 2``) keeps that letter, and so cannot be
    parsed; a dash or an open parenthesis that leads over to words is left off.
    """
    spans = []
    for match in _SPAN.finditer(text):
        written = _trimmed(text, match.start(), match.end())
        if any(c.isdigit() for c in written) and _JOINS_TWO.search(written):
            spans.append(Span(match.start(), written))
    return spans


def _trimmed(text: str, start: int, end: int) -> str:
    """Return the span without what belongs to the prose around it."""
    span = text[start:end]
    before, after = text[start - 1 : start], text[end : end + 1]
    spoilt_before = before if _is_wordlike(before) or before == "." else ""
    spoilt_after = after if _is_wordlike(after) else ""
    if spoilt_after and span.endswith((" ", "\t", "(", "-")):
        # "= 19 (correct)" and "= 19 - done": the equation ended before the words.
        span, spoilt_after = span.rstrip(" \t(-"), ""
    if spoilt_before and span.startswith((" ", "\t", ")")):
        span, spoilt_before = span.lstrip(" \t)"), ""  # "(so) 3 + 5"
    inner = span.strip(" \t=")
    inner = inner.removeprefix("**").removesuffix("**").strip(" \t=")  # Markdown's bold
    if inner.startswith("*") and inner.endswith("*"):
        inner = inner.strip("* \t=")
    return spoilt_before + inner + spoilt_after


def _is_wordlike(character: str) -> bool:
    return character.isalnum() or character == "_"


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_LENGTH:
        raise NotArithmetic(f"longer than {MAX_LENGTH} characters")
    tokens, position, text = [], 0, text.rstrip(" \t")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotArithmetic(f"{text[position:].lstrip()[:1]!r} is not allowed")
        tokens.append(match[1])
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over tokens; values are computed on the way.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = integer | "(" sum ")" | "-" factor
    """

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [*tokens, ""]
        self._next = 0
        self._numbers: list[int] = []
        self._operators: set[str] = set()

    def read(self) -> Expression:
        value = self._sum(0)
        if self._tokens[self._next]:
            raise NotArithmetic(f"{self._tokens[self._next]!r} where an operator should stand")
        return Expression(value, tuple(self._numbers), frozenset(self._operators))

    def _take(self, *wanted: str) -> str | None:
        token = self._tokens[self._next]
        if token not in wanted:
            return None
        self._next += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while operator := self._take("+", "-"):
            self._operators.add(operator)
            term = self._product(depth)
            value = value + term if operator == "+" else value - term
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while operator := self._take("*", "/"):
            self._operators.add(operator)
            factor = self._factor(depth)
            if operator == "/" and not factor:
                raise NotArithmetic("division by zero")
            value = value * factor if operator == "*" else value / factor
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise NotArithmetic(f"nested deeper than {MAX_DEPTH}")
        if self._take("-"):
            self._operators.add("-")
            return -self._factor(depth + 1)
        if self._take("("):
            value = self._sum(depth + 1)
            if not self._take(")"):
                raise NotArithmetic("a parenthesis is not closed")
            return value
        return self._integer()

    def _integer(self) -> Fraction:
        token = self._tokens[self._next]
        if not token.isdigit():
            raise NotArithmetic(f"{token or 'the end'!r} where a number should stand")
        if len(token) > MAX_DIGITS:
            raise NotArithmetic(f"an integer of more than {MAX_DIGITS} digits")
        self._next += 1
        self._numbers.append(int(token))
        return Fraction(int(token))
