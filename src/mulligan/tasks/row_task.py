"""What tasks made of a file of rows share: reading them, and dividing them into splits."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mulligan.errors import MulliganError
from mulligan.tasks.base import Split, Task
from mulligan.tasks.rows import Row, read_rows
from mulligan.tasks.splits import check_shares, split_of
from mulligan.types import Problem


@dataclass(kw_only=True, eq=False)
class RowTask(Task):
    """A task whose problems are the rows of a JSON, JSON-lines or Parquet file, or of the Hub.

    Every row has ``messages`` (chat messages, or the text of one user message). ``tools`` may be
    added, and ``wrong``, a list of answers that must not pass, which ``mulligan validate`` tries.

    Raises:
        MulliganError: a share is out of range.
    """

    without_split = (
        "Give it one with task_options.dev_share, the share of questions that is taken out of "
        "training for it (0.15, say), or with task_options.dev_path, or use evaluate.split: test."
    )

    path: str
    """The rows."""
    test_path: str | None = None
    """Rows of their own for the test split; by default ``path`` is divided."""
    test_share: float = 0.2
    """Share of the questions that are kept for the test split."""
    dev_path: str | None = None
    """Rows of their own for the dev split."""
    dev_share: float = 0.0
    """Share of the questions that are kept for the dev split; 0 for none."""

    def __post_init__(self) -> None:
        check_shares(self.path, self.test_share, self.dev_share)
        if self.test_path is None and not 0 < self.test_share < 1:
            raise MulliganError(
                f"test_share should be between 0 and 1, but is {self.test_share}: nothing is left "
                f"to {'train' if self.test_share else 'test'} on. Or give the task a test_path."
            )
        has_dev = self.dev_path is not None or self.dev_share > 0
        self.splits = ("train", "dev", "test") if has_dev else ("train", "test")

    @abstractmethod
    def problem(self, row: Row) -> Problem:
        """Make the problem of a row.

        Raises:
            MulliganError: a field is missing or wrong; names the row.
        """

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the rows' problems in their order, each once."""
        taken = {question(p) for other in _BEFORE[split] for p in self._own_file(other) or ()}
        own = self._own_file(split)
        found = self._share_of(split) if own is None else own
        return (problem for problem in found if question(problem) not in taken)

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Return the row's own examples of wrong answers."""
        return list(problem.given.get("wrong", ()))

    def _own_file(self, split: Split) -> Iterator[Problem] | None:
        path = {"test": self.test_path, "dev": self.dev_path}.get(split)
        return self._read(path) if path else None

    def _share_of(self, split: Split) -> Iterator[Problem]:
        """Yield the rows of ``path`` that a hash of their question puts into a split.

        The question alone decides: a row's split does not depend on the other rows.
        """
        test_share = 0.0 if self.test_path else self.test_share
        dev_share = 0.0 if self.dev_path else self.dev_share
        for problem in self._read(self.path):
            where = ("text_file split", question(problem))
            if split_of(*where, test_share=test_share, dev_share=dev_share) == split:
                yield problem

    def _read(self, source: str) -> Iterator[Problem]:
        seen = set()
        for row in read_rows(source):
            problem = self.problem(row)
            if problem.id not in seen:
                seen.add(problem.id)
                yield problem


_BEFORE: dict[Split, tuple[Split, ...]] = {"test": (), "dev": ("test",), "train": ("test", "dev")}
"""Where splits with files of their own share a question, the first of these keeps it."""


def question(problem: Problem) -> str:
    """Return what is asked, as one text: it decides a problem's split."""
    return json.dumps([problem.messages, problem.tools], sort_keys=True)


def asked(row: Row) -> tuple[Any, Any]:
    """Return a row's messages and tools.

    Raises:
        MulliganError: they are missing or malformed; names the row.
    """
    messages, tools = row.get("messages"), row.values.get("tools") or []
    if not _are_messages(messages):
        raise row.refuse("messages", "text, or a list of objects with role and content")
    for key in ("tools", "wrong"):
        if not isinstance(row.values.get(key) or [], list):
            raise row.refuse(key, "a list")
    return messages, tools


def _are_messages(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value)
    )
