"""A run's episodes and trials, a page at a time: memory does not grow with their number.

A page is read from the end of the file towards its beginning, so that the newest come first, and
says where the next one begins. A filter that seldom matches stops after some megabytes and says
how far it came: the next page goes on from there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mulligan.episodes.conversation import question
from mulligan.episodes.failures import find_failures
from mulligan.errors import MulliganError
from mulligan.report.markup import visible
from mulligan.storage.lines import lines_backwards
from mulligan.storage.run_folder import RunFolder

Source = Literal["training", "before", "after"]

PAGE = 20
SCANNED = 64 * 2**20
"""Bytes that one page reads at most."""
LONGEST = 4000
"""Characters of one text that are sent; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which episodes are shown; an empty field asks for nothing."""

    status: str = ""
    """``passed``, ``failed``, ``unparseable`` or ``error``, of the last answer."""
    reason: str = ""
    leaked: bool | None = None
    """Whether the reflection contains a passing answer; known for trials only."""
    text: str = ""
    """Part of anything that is written in it, in any case."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some episodes, the newest first."""

    rows: list[dict[str, Any]]
    older: int | None
    """Where the next page begins; None at the end of the file."""


def browse(run: RunFolder, source: Source, wanted: Wanted, before: int | None = None) -> Page:
    """Read a page of what a run was trained or evaluated on.

    Args:
        run: the run.
        source: training episodes, or the trials before or after training.
        wanted: which of them.
        before: where the page begins, as the page before it said; None is the newest.

    Raises:
        MulliganError: a line is not a record.
    """
    is_training = source == "training"
    path = run.newest_round.episodes if is_training else run.evaluation(source)
    as_row = _episode_row if is_training else _trial_row
    rows: list[dict[str, Any]] = []
    scanned = 0
    for begin, line in lines_backwards(path, before):
        scanned += len(line)
        if _may_hold(line, wanted.text):
            row = as_row(_parsed(line, path))
            if _is_wanted(row, wanted):
                rows.append({**row, "place": begin})
        if len(rows) == PAGE or scanned >= SCANNED:
            return Page(rows, begin or None)
    return Page(rows, None)


def failed_attempt(run: RunFolder, failure_id: str) -> dict[str, Any] | None:
    """Return the question and the wrong answer that an episode began with.

    Raises:
        MulliganError: the stored failure cannot be read.
    """
    found = find_failures(run.newest_round.failures, {failure_id}).get(failure_id)
    if found is None:
        return None
    attempt = found.attempt
    return {
        "question": _cut(question(attempt.problem)),
        "answer": _cut(attempt.completion.text),
        "reason": attempt.verdict.reason,
    }


def _may_hold(line: bytes, text: str) -> bool:
    """Whether a search may succeed: plain text is looked for before anything is decoded."""
    plain = text.isascii() and text.isalnum()  # else JSON may have written it otherwise
    return not plain or text.lower().encode() in line.lower()


def _is_wanted(row: Mapping[str, Any], wanted: Wanted) -> bool:
    if wanted.status and row["status"] != wanted.status:
        return False
    if wanted.reason and row["reason"] != wanted.reason:
        return False
    if wanted.leaked is not None and row["leaked"] is not wanted.leaked:
        return False
    return not wanted.text or any(wanted.text.lower() in text.lower() for text in _texts(row))


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    return (row[name] for name in ("question", "answer", "reflection", "retry") if row[name])


def _episode_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training episode; version 0.1.0 nested what is flat today."""
    inner = line.get("episode", line)
    verdict = inner.get("verdict") or {}
    return {
        "step": line.get("step"),
        "failure": inner.get("failure_id"),
        "question": None,
        "answer": None,
        "reflection": _said(inner.get("reflection")),
        "retry": _said(inner.get("retry")),
        "status": verdict.get("status", ""),
        "reason": verdict.get("reason", ""),
        "reward": line.get("reward"),
        "advantage": line.get("advantage"),
        "leaked": None,
    }


def _trial_row(line: Mapping[str, Any]) -> dict[str, Any]:
    first = line.get("first_try") or {}
    retry = line.get("after_reflection") or None
    verdict = (retry or first).get("verdict") or {}
    return {
        "step": None,
        "failure": None,
        "question": _cut(str(line.get("question", ""))),
        "answer": _said(first),
        "reflection": _cut(line["reflection"]) if line.get("reflection") else None,
        "retry": _said(retry),
        "status": verdict.get("status", ""),
        "reason": verdict.get("reason", ""),
        "reward": None,
        "advantage": None,
        "leaked": line.get("leaked"),
    }


def _said(completion: Mapping[str, Any] | None) -> str | None:
    return None if not completion else _cut(str(completion.get("text", "")))


def _cut(text: str) -> str:
    text = visible(text)
    rest = len(text) - LONGEST
    return text if rest <= 0 else f"{text[:LONGEST]} … {rest:,} more characters"


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MulliganError(f"{path} holds a line that is not a record: {error}.") from error
    if not isinstance(row, dict):
        raise MulliganError(f"{path} holds a line that is not a record.")
    return row
