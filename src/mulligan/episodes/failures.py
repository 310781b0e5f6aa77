"""The failure store: what the untrained model got wrong, and in which order training sees it."""

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog, find_records
from mulligan.types import Failure, Sampling

Positions = NDArray[np.uint64]

_FEW = 4096
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: the step of SplitMix64."""


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
                "from. Collect from more problems, take more samples a problem, or choose a "
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
        comes once an epoch, in an order of its epoch's own; no batch holds a failure twice; a
        batch that an epoch cannot fill goes on into the next one. Memory is constant in the
        number of failures, and only those of the batch are read.

        Raises:
            MulliganError: fewer failures than a batch are stored.
        """
        self.require(size)
        return [self[int(position)] for position in batch_positions(len(self), seed, step, size)]


def batch_positions(count: int, seed: int, step: int, size: int) -> Positions:
    """Return which of ``count`` things make up the batch of a step.

    All steps' batches, joined, are one permutation of the things after another. Where a batch
    crosses into the next epoch, that epoch's permutation is rearranged at its very start: what
    the batch holds already comes right after the batch.
    """
    epoch, offset = divmod(step * size, count)
    ahead = _opening(count, seed, epoch, size)
    here = _ordered(count, seed, epoch, ahead, np.arange(offset, min(offset + size, count)))
    if len(here) == size:
        return here
    return np.concatenate([here, _opening(count, seed, epoch + 1, size)[: size - len(here)]])


def _opening(count: int, seed: int, epoch: int, size: int) -> Positions:
    """Return the first ``size`` things of an epoch, in order.

    They depend on the end of the epoch before where a batch crosses over from it, which, in a
    store of less than two batches, depends in turn on its own opening. Epochs that begin with a
    batch depend on nothing, so the chain has at most ``size`` links, mostly one.
    """
    aligned = epoch - epoch % (size // np.gcd(count, size))
    first = int(aligned if count < 2 * size else max(aligned, epoch - 1))
    opening = permuted(np.arange(size), count, derive_seed(seed, "epoch", first))
    for number in range(first + 1, epoch + 1):
        carried = number * count % size  # how much of the crossing batch the epoch before fills
        tail = _ordered(count, seed, number - 1, opening, np.arange(count - carried, count))
        opening = permuted(np.arange(size), count, derive_seed(seed, "epoch", number))
        opening = _deferred(opening, tail, size - carried if carried else 0)
    return opening


def _ordered(
    count: int, seed: int, epoch: int, opening: Positions, places: NDArray[np.int64]
) -> Positions:
    """Return what stands at some places of an epoch whose opening is known."""
    order = permuted(places, count, derive_seed(seed, "epoch", epoch))
    early = places < len(opening)
    order[early] = opening[places[early]]
    return order


def _deferred(opening: Positions, tail: Positions, needed: int) -> Positions:
    """Move what ``tail`` holds behind the first ``needed`` other things; order stays otherwise."""
    fresh = np.flatnonzero(~np.isin(opening, tail))[:needed]
    return np.concatenate([opening[fresh], np.delete(opening, fresh)])


def permuted(places: NDArray[np.int64], count: int, seed: int) -> Positions:
    """Return where a seeded permutation of ``range(count)`` sends some places.

    Few things are sorted by a random number each. For many, nothing of their size is ever made: a
    Feistel network permutes the smallest square power of two that holds them, and a place that
    lands outside is sent on until it lands inside ("cycle walking": Black and Rogaway, Ciphers
    with Arbitrary Finite Domains, 2002).
    """
    if count <= _FEW:
        numbers = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + np.uint64(seed)
        return np.argsort(_mix(numbers), kind="stable")[places].astype(np.uint64)
    half = np.uint64(((count - 1).bit_length() + 1) // 2)
    keys = [np.uint64(derive_seed(seed, number)) for number in range(_ROUNDS)]
    result = places.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        result[outside] = _feistel(result[outside], half, keys)
        outside = outside[result[outside] >= count]
    return result


def _feistel(values: Positions, half: np.uint64, keys: Sequence[np.uint64]) -> Positions:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: Positions) -> Positions:
    """Scramble 64 bits (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
