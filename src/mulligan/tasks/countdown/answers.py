r"""Which equation of an answer counts, and what it says.

An answer is one equation and nothing else, in one of two places:

- inside the last ``<answer>`` tag, where the answer has one: all that stands in it;
- else on the last line: all of it, but for a label (``Answer:``, ``The answer is``, ``So``).

What a model thinks first, between ``<think>`` and ``</think>``, is not part of its answer. Closing
punctuation and common mark-up (backticks, bold, ``$``, ``\boxed{}``) are passed over. Anything
else beside the equation spoils it: a text that names a right equation and rejects it, or goes on
after it, has not answered with it.
"""

import re
from dataclasses import dataclass

from mulligan.tasks.countdown.arithmetic import (
    Expression,
    NotArithmetic,
    normalise,
    parse_equation,
)

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.IGNORECASE | re.DOTALL)
_END_OF_THOUGHT = re.compile(r"</think>", re.IGNORECASE)
_TAG = re.compile(r"<answer>", re.IGNORECASE)
_END_TAG = re.compile(r"</answer>", re.IGNORECASE)
_LABEL = re.compile(
    r"[*_ ]{0,4}(?:(?:so|thus|hence|therefore|the|my|final|new|right|correct)[ ,]{1,3}){0,5}"
    r"(?:answer|equation|solution|result)(?: is)?[*_ ]{0,4}:?[*_ ]{0,4}"
    r"|(?:so|thus|hence|therefore)[ ,]{1,3}",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKUP = ("**", "*", "__", "_", "`", "$")
_SYMBOL = re.compile(r"[=+*^\x00-\x08\x0b-\x1f\x7f]")
_WORD = re.compile(r"""(?:^|\s)["'(]?[^\W\d_]+(?:['’-][^\W\d_]+)*["').,;:!?…]*(?=\s|$)""")


class NoAnswer(ValueError):  # noqa: N818 - says what the text is, not that a program failed
    """The text holds no answer that could be judged."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """The equation that an answer gives."""

    sides: tuple[Expression, ...]
    """What stands on either side of every ``=``."""

    @property
    def joined(self) -> Expression:
        """The first side that joins numbers."""
        return next(side for side in self.sides if len(side.numbers) > 1)

    @property
    def meaning(self) -> tuple[object, ...]:
        """What the equation says, whatever order it is written in."""
        values = {side.value for side in self.sides}
        return sorted(self.joined.numbers), self.joined.operators, values


def read_answer(text: str) -> Answer:
    """Read the equation that a text answers with.

    Raises:
        NoAnswer: there is none; ``reason`` tells prose (``no_answer``) from something that was
            meant as an equation (``not_an_equation``).
    """
    part, equation = _answer_part(text)
    try:
        return Answer(parse_equation(_plain(equation)))
    except NotArithmetic as error:
        raise NoAnswer(_why_unreadable(part), str(error)) from None


def _answer_part(text: str) -> tuple[str, str]:
    """Return the part of a text that answers, and what of it should be an equation."""
    text = normalise(_BOXED.sub(r"\1", _after_thought(text)))
    if _TAG.search(text):
        content = _END_TAG.split(_TAG.split(text)[-1])[0]
        return content, content
    lines = [line for line in text.splitlines() if any(map(str.isalnum, line))]
    last = lines[-1] if lines else text
    label = _LABEL.match(last.strip())
    return last, last.strip()[label.end() :] if label else last


def _after_thought(text: str) -> str:
    """Return what follows the last thought; of one that never ends, nothing."""
    return _THOUGHT.sub("", _END_OF_THOUGHT.split(text)[-1])


def _plain(equation: str) -> str:
    """Return an equation without mark-up around it and closing punctuation."""
    equation = equation.strip().rstrip(".!").rstrip()
    for mark in _MARKUP:
        if len(equation) > 2 * len(mark) and equation.startswith(mark) and equation.endswith(mark):
            equation = equation[len(mark) : -len(mark)].strip()
    return equation.rstrip(".!").rstrip()


def _why_unreadable(text: str) -> str:
    """Tell prose, in which nothing was answered, from something that was meant as an answer."""
    has_symbols = _SYMBOL.search(text) or any(character.isnumeric() for character in text)
    is_prose = not text.strip() or _WORD.search(text)
    return "no_answer" if is_prose and not has_symbols else "not_an_equation"
