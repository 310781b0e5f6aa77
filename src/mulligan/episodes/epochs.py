"""Which failures the batch of a step holds: each once per epoch, in an order of the epoch's own."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mulligan.randomness import derive_seed

Positions = NDArray[np.int64]

SAME_IN_FORMAT_1 = 4096
"""Runs of format 1 ordered larger stores by another permutation."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: the step of SplitMix64."""


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
    opening = shuffled(count, derive_seed(seed, "epoch", first))[:size]
    for number in range(first + 1, epoch + 1):
        carried = number * count % size  # how much of the crossing batch the epoch before fills
        tail = _ordered(count, seed, number - 1, opening, np.arange(count - carried, count))
        opening = shuffled(count, derive_seed(seed, "epoch", number))[:size]
        opening = _deferred(opening, tail, size - carried if carried else 0)
    return opening


def _ordered(
    count: int, seed: int, epoch: int, opening: Positions, places: NDArray[np.int64]
) -> Positions:
    """Return what stands at some places of an epoch whose opening is known."""
    order = shuffled(count, derive_seed(seed, "epoch", epoch))[places]
    early = places < len(opening)
    order[early] = opening[places[early]]
    return order


def _deferred(opening: Positions, tail: Positions, needed: int) -> Positions:
    """Move what ``tail`` holds behind the first ``needed`` other things; order stays otherwise."""
    fresh = np.flatnonzero(~np.isin(opening, tail))[:needed]
    return np.concatenate([opening[fresh], np.delete(opening, fresh)])


@lru_cache(maxsize=3)  # a batch asks for its own epoch, and for the ones beside it
def shuffled(count: int, seed: int) -> Positions:
    """Return a seeded permutation of ``range(count)``: things sorted by a random number each.

    The numbers are SplitMix64's rather than numpy's, whose streams may change between versions.
    A million things take 8 MB and a tenth of a second per epoch.
    """
    numbers = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + np.uint64(seed)
    order = np.argsort(_mix(numbers), kind="stable")
    order.flags.writeable = False
    return order


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
