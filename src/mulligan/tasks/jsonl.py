"""A task in a JSON-lines file: what is asked, and what the answer should be.

Each line is an object with ``messages`` (chat messages, or the text of one user message) and
``reference``. ``tools`` may be added, ``wrong`` (a list of answers that must not pass, which
``mulligan validate`` tries), and any other field: a Python verifier finds it in ``problem.given``.
How an answer is compared with the reference is an option of the task.
"""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar

from mulligan.errors import MulliganError, nearest
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.tasks.user_file import import_file
from mulligan.types import Problem, Verdict

Compare = Callable[[Problem, str], bool | Verdict]
"""Returns a verdict, or whether the answer is right."""


class TextFile(Task):
    """Problems from a JSON-lines file, with a verifier named by an option.

    Args:
        path: The file, one problem a line.
        verifier: ``exact`` (same text, but for space around it), ``numeric`` (the answer's last
            number equals the reference), ``json_equal`` (equal JSON values, alone or in a fenced
            block), ``regex`` (the reference is a pattern found in the answer), or
            ``file.py:function`` with ``function(problem, answer) -> bool | Verdict``.
        test_path: A file of its own for the test split; by default the file is divided.
        test_share: Share of the file's questions that are kept for the test split.
    """

    name: ClassVar[str] = "text_file"

    def __init__(
        self, path: str, verifier: str, test_path: str | None = None, test_share: float = 0.2
    ) -> None:
        if not 0 < test_share < 1:
            raise MulliganError(f"test_share should lie between 0 and 1, not at {test_share}.")
        self.path = Path(path)
        self.test_path = Path(test_path) if test_path else None
        self.test_share = test_share
        self.reference_passes = verifier != "regex"
        self.compare = _verifier(verifier)

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the file's problems in its order, each once."""
        if self.test_path is None:
            return (p for p in self._read(self.path) if self._split_of(p) == split)
        if split == "test":
            return self._read(self.test_path)
        held_out = {_question(problem) for problem in self._read(self.test_path)}
        return (p for p in self._read(self.path) if _question(p) not in held_out)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Compare the answer with the row's reference."""
        verdict = self.compare(problem, answer)
        if isinstance(verdict, bool):
            return Verdict.right() if verdict else Verdict.wrong()
        return verdict

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Return the row's own examples of wrong answers."""
        return list(problem.given.get("wrong", ()))

    def _split_of(self, problem: Problem) -> Split:
        """Divide by the question alone: the split of a row does not depend on the other rows."""
        place = derive_seed("text_file split", _question(problem)) / 2**63
        return "test" if place < self.test_share else "train"

    def _read(self, path: Path) -> Iterator[Problem]:
        seen = set()
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                problem = self._problem(line, f"{path}, line {number}")
                if problem.id not in seen:
                    seen.add(problem.id)
                    yield problem

    def _problem(self, line: str, where: str) -> Problem:
        row = _row(line, where)
        reference = row["reference"]
        text = reference if isinstance(reference, str) else json.dumps(reference)
        given = {key: value for key, value in row.items() if key not in ("messages", "tools")}
        return Problem.create(
            row["messages"],
            {**given, "reference": text},
            text if self.reference_passes else None,
            row.get("tools", ()),
        )


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


_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def _json_equal(problem: Problem, answer: str) -> Verdict:
    """Compare as JSON values: the order of keys and the spacing do not matter."""
    expected = json.loads(problem.given["reference"])
    fenced = _FENCED.findall(answer)
    try:
        found = json.loads(fenced[-1] if fenced else answer)
    except (ValueError, RecursionError):
        return Verdict.unparseable()
    return Verdict.right() if _same(found, expected) else Verdict.wrong()


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values, in which ``true`` is not 1, and 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _regex(problem: Problem, answer: str) -> bool:
    """Search for the reference, a pattern of Python's ``re``, in the answer."""
    return re.search(problem.given["reference"], answer) is not None


VERIFIERS: dict[str, Compare] = {
    "exact": _exact,
    "numeric": _numeric,
    "json_equal": _json_equal,
    "regex": _regex,
}


def _question(problem: Problem) -> str:
    return json.dumps([problem.messages, problem.tools], sort_keys=True)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except OSError as error:
        raise MulliganError(f"The task file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise MulliganError(f"The task file {path} is not UTF-8 text: {error}.") from error


def _row(line: str, where: str) -> dict[str, Any]:
    """Return the row of a line, or say what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MulliganError(f"{where}: not a line of JSON ({error}).") from error
    if not isinstance(row, dict):
        raise MulliganError(f"{where}: expected an object, found {type(row).__name__}.")
    missing = [key for key in ("messages", "reference") if key not in row]
    if missing:
        raise MulliganError(f"{where}: the row has no {' and no '.join(missing)}.")
    if not _are_messages(row["messages"]):
        raise MulliganError(
            f"{where}: messages should be text, or a list of objects with role and content."
        )
    for key in ("tools", "wrong"):
        if not isinstance(row.get(key, []), list):
            raise MulliganError(f"{where}: {key} should be a list.")
    return row


def _are_messages(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value)
    )
