"""Failures from production, as text: kept until a model is trained on them.

Whoever answered had a tokenizer of its own, or none that is known, so the token ids are made when
a run takes the failures: by the tokenizer of the model that is trained.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mulligan.episodes.conversation import Conversations
from mulligan.storage.records import RecordLog
from mulligan.types import Attempt, Failure, Problem, Sampling, Verdict


@dataclass(frozen=True, slots=True)
class Reported:
    """An answer that was given in use, and the verifier's word on it."""

    id: str
    """Hash of problem and answer: the same failure is stored once."""
    problem: Problem
    answer: str
    verdict: Verdict
    model: str
    """Who answered, as the log names it; empty where it does not."""
    source: str
    """Where it came from: ``gateway.jsonl, line 12``."""

    @classmethod
    def of(
        cls, problem: Problem, answer: str, verdict: Verdict, *, model: str, source: str
    ) -> "Reported":
        """Make a record and its id."""
        content = json.dumps([problem.id, answer]).encode()
        key = hashlib.sha256(content).hexdigest()[:16]
        return cls(key, problem, answer, verdict, model, source)


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of failures from production."""

    path: Path

    @property
    def failures(self) -> Path:
        """What failed."""
        return self.path / "failures.jsonl"

    @property
    def unverified(self) -> Path:
        """What could not be judged: neither passes nor failures, and not trained on."""
        return self.path / "unverified.jsonl"


def open_reported(path: Path) -> RecordLog[Reported]:
    """Open a file of a store."""
    return RecordLog(path, Reported, lambda record: record.id)


def as_failure(reported: Reported, conversations: Conversations, sampling: Sampling) -> Failure:
    """Return a failure as a run stores it, in the tokens of the model that is trained."""
    attempt = Attempt(
        reported.problem,
        conversations.attempt(reported.problem),
        conversations.understand(conversations.written(reported.answer)),
        reported.verdict,
    )
    return Failure(reported.id, attempt, reported.model, sampling)
