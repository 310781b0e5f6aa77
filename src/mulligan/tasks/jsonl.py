"""A task in a JSON-lines file: what is asked, and what the answer should be.

Each line is an object with ``messages`` (chat messages, or the text of one user message) and
``reference``. ``tools`` may be added, ``wrong`` (a list of answers that must not pass, which
``mulligan validate`` tries), and any other field: a Python verifier finds it in ``problem.given``.
How an answer is compared with the reference is an option of the task.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar

from mulligan.errors import MulliganError, nearest
from mulligan.tasks.json_values import read_json, same_value
from mulligan.tasks.row_task import RowTask, asked
from mulligan.tasks.rows import Row
from mulligan.tasks.user_file import import_file
from mulligan.types import Problem, Verdict

Compare = Callable[[Problem, str], bool | Verdict]
"""Returns a verdict, or whether the answer is right."""


@dataclass(kw_only=True, eq=False)
class TextFile(RowTask):
    """Rows with a reference answer, and a verifier named by an option."""

    name: ClassVar[str] = "text_file"

    verifier: str
    """``exact`` (same text, but for space around it), ``numeric`` (the answer's last number equals
    the reference), ``json_equal`` (equal JSON values, alone or in a fenced block), ``regex`` (the
    reference is a pattern found in the answer), or ``file.py:function`` with
    ``function(problem, answer) -> bool | Verdict``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.compare = _verifier(self.verifier)

    def problem(self, row: Row) -> Problem:
        """Make the problem of a row, whose reference may be any JSON value."""
        messages, tools = asked(row)
        reference = row.get("reference")
        text = reference if isinstance(reference, str) else json.dumps(reference)
        given = {k: value for k, value in row.values.items() if k not in ("messages", "tools")}
        return Problem.create(
            messages,
            {**given, "reference": text},
            None if self.verifier == "regex" else text,  # a pattern does not match itself
            tools,
        )

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Compare the answer with the row's reference."""
        verdict = self.compare(problem, answer)
        if isinstance(verdict, bool):
            return Verdict.right() if verdict else Verdict.wrong()
        return verdict

    @property
    def compares_answers(self) -> bool:
        """Whether the verifier says what an answer amounts to."""
        return self.verifier in _MEANINGS

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers are the same text, number or JSON value, as the verifier reads them.

        Raises:
            MulliganError: the verifier is one that does not say what an answer amounts to.
        """
        if not self.compares_answers:
            return super().same_answer(problem, one, other)
        try:
            meanings = [_MEANINGS[self.verifier](text) for text in (one, other)]
        except ValueError:
            return False
        return None not in meanings and same_value(*meanings)


def _verifier(name: str) -> Compare:
    if ".py:" in name:
        path, _, function = name.rpartition(":")
        found: Compare | None = getattr(import_file(Path(path)), function, None)
        if not callable(found):
            raise MulliganError(f"{path} has no function {function!r} to verify with.")
        return found
    if name not in VERIFIERS:
        raise MulliganError(
            f"There is no verifier {name!r} ({nearest(name, VERIFIERS)}). A function of your own "
            f"is written file.py:function."
        )
    return VERIFIERS[name]


def _exact(problem: Problem, answer: str) -> bool:
    return answer.strip() == str(problem.given["reference"]).strip()


_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)


def _numeric(problem: Problem, answer: str) -> Verdict:
    """Compare the last number of the answer, exactly; thousands separators are allowed."""
    expected = _number(str(problem.given["reference"]))
    found = _number(answer)
    if expected is None:
        raise ValueError(f"the reference {problem.given['reference']!r} holds no number")
    if found is None:
        return Verdict.unparseable()
    return Verdict.right() if found == expected else Verdict.wrong()


def _number(text: str) -> Decimal | None:
    numbers = _NUMBER.findall(text)
    try:
        return Decimal(numbers[-1].replace(",", "")) if numbers else None
    except InvalidOperation:
        return None


def _json_equal(problem: Problem, answer: str) -> Verdict:
    """Compare as JSON values: the order of keys and the spacing do not matter."""
    expected = json.loads(problem.given["reference"])
    try:
        found = read_json(answer)
    except ValueError:
        return Verdict.unparseable()
    return Verdict.right() if same_value(found, expected) else Verdict.wrong()


def _regex(problem: Problem, answer: str) -> bool:
    """Search for the reference, a pattern of Python's ``re``, in the answer."""
    return re.search(problem.given["reference"], answer) is not None


VERIFIERS: dict[str, Compare] = {
    "exact": _exact,
    "numeric": _numeric,
    "json_equal": _json_equal,
    "regex": _regex,
}

_MEANINGS: dict[str, Callable[[str], Any]] = {
    "exact": str.strip,
    "numeric": _number,
    "json_equal": read_json,
}
"""What an answer amounts to, by the verifier that reads it."""
