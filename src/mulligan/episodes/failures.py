"""The failure store: what the untrained model got wrong."""

import hashlib
import json
from collections.abc import Set
from dataclasses import asdict
from pathlib import Path

from mulligan.episodes.epochs import batch_positions
from mulligan.errors import MulliganError
from mulligan.storage.records import RecordLog, find_records
from mulligan.types import Failure, Sampling


def failure_id(problem_id: str, sample: int, model: str, sampling: Sampling) -> str:
    """Return the id of a failed attempt: a hash of problem, sample and provenance."""
    content = [problem_id, sample, model, asdict(sampling)]
    canonical = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def find_failures(path: Path, ids: Set[str]) -> dict[str, Failure]:
    """Return the stored failures with some ids, by id; the others are not decoded.

    Raises:
        MulliganError: one of them cannot be read.
    """
    return find_records(path, Failure, lambda failure: failure.id, ids)


class FailureStore(RecordLog[Failure]):
    """Failures in the order in which they were stored; ``store[i]`` reads one of them."""

    def __init__(self, path: Path) -> None:
        """Open the store; an absent file is an empty one.

        Raises:
            MulliganError: a line that is not a failure, or an id that occurs twice.
        """
        super().__init__(path, Failure, lambda failure: failure.id)

    def require(self, batch_size: int) -> None:
        """Check that there is something to train on.

        Raises:
            MulliganError: nothing failed, or fewer failures than a batch are stored.
        """
        if not len(self):
            raise MulliganError(
                f"Nothing failed: {self.path} holds no failures, so there is nothing to learn "
                "from. Collect from more problems, take more samples per problem, or choose a "
                "harder task."
            )
        if len(self) < batch_size:
            raise MulliganError(
                f"Too few failures: {self.path} holds {len(self)}, and a batch takes "
                f"{batch_size}. Collect from more problems, or train with a batch of at most "
                f"{len(self)}."
            )

    def batch(self, seed: int, step: int, size: int) -> list[Failure]:
        """Return the failures of one training step; steps count from 0.

        The result depends on the arguments and the number of stored failures only. Every failure
        comes once per epoch, in an order of its epoch's own; no batch holds a failure twice; a
        batch that an epoch cannot fill goes on into the next one. Only the failures of the batch
        are read.

        Raises:
            MulliganError: fewer failures than a batch are stored.
        """
        self.require(size)
        return [self[int(position)] for position in batch_positions(len(self), seed, step, size)]
