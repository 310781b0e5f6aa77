"""Keys and values of tokens that were computed once, and which token ids they belong to.

Saves: a prompt's keys and values are computed once and held in memory once, however many samples
share it; a conversation that goes on computes its new tokens only.
Does not apply: across weights (the engine forgets everything when the policy changes), or to models
that do not keep one key and value per token and layer (they take the plain path).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mulligan.types import TokenIds

GROWTH = 32
"""Columns that a block grows by: attention reads unused ones too, and growing copies the block."""
_numbers = count()


class Block:
    """Keys and values of many rows of tokens, each row left-aligned.

    A row keeps its number for life, while its slot, its place in the tensors, may change: rows that
    still grow are kept in front, so that computing over them is a view and never a copy.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.number = next(_numbers)
        """Counts blocks as they are made, so that the older is known from the newer."""
        self.rows = rows
        self.columns = columns
        self.keys: dict[int, Tensor] = {}
        """Layer to keys, shape [slots, key-value heads, columns, head size]; zero where unused."""
        self.values: dict[int, Tensor] = {}
        self.slot_of_row = np.arange(rows)
        self.row_in_slot = np.arange(rows)

    def reserve(self, columns: int) -> None:
        """Make room for rows of so many tokens, and a few more so that it is seldom needed."""
        if columns <= self.columns:
            return
        added = -(-columns // GROWTH) * GROWTH - self.columns
        self.columns += added
        for side in (self.keys, self.values):
            for layer in side:
                # One layer at a time, so that only one is in memory twice.
                side[layer] = F.pad(side[layer], (0, 0, 0, added))

    @property
    def nbytes(self) -> int:
        """Memory of all keys and values."""
        return sum(t.nbytes for side in (self.keys, self.values) for t in side.values())

    def write(self, layer: int, key: Tensor, value: Tensor, slots: Tensor, columns: Tensor) -> None:
        """Store one key and value per token: shapes [N, heads, head size], [N], [N]."""
        for side, states in ((self.keys, key), (self.values, value)):
            if layer not in side:
                shape = (self.rows, states.shape[1], self.columns, states.shape[2])
                side[layer] = states.new_zeros(shape)
            side[layer][slots, :, columns] = states

    def copy_rows(
        self,
        slots: Sequence[int],
        source: "Block",
        rows: Sequence[int],
        width: int,
        at: int = 0,
    ) -> None:
        """Copy the first ``width`` columns of another block's rows into slots, from ``at`` on."""
        origins = source.slot_of_row[list(rows)].tolist()
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for layer, states in theirs.items():
                if layer not in mine:
                    shape = (self.rows, states.shape[1], self.columns, states.shape[3])
                    mine[layer] = states.new_zeros(shape)
                mine[layer][slots, :, at : at + width] = states[origins, :, :width]

    def swap(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Exchange the contents of two equally long lists of slots."""
        if not left:
            return
        to, fro = [*left, *right], [*right, *left]
        for side in (self.keys, self.values):
            for states in side.values():
                states[to] = states[fro]
        self.row_in_slot[to] = self.row_in_slot[fro]
        self.slot_of_row[self.row_in_slot[to]] = to


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """A row of a block that others continue: the part of a prompt that samples share."""

    block: Block
    row: int
    length: int
    """Tokens in it; 0 is not used."""

    @property
    def slot(self) -> int:
        """Where the row is now."""
        return int(self.block.slot_of_row[self.row])


@dataclass(frozen=True, slots=True, order=True)
class KnownSequence:
    """Token ids whose keys and values are known: those of a trunk, then those of a branch."""

    ids: TokenIds
    trunk: Trunk = field(compare=False)
    branch: Block = field(compare=False)
    row: int = field(compare=False)
    """The branch's row in its block."""

    def copy_to(self, block: Block, slot: int, length: int) -> None:
        """Copy the first ``length`` tokens, of trunk and branch, into one row of a block."""
        shared = min(length, self.trunk.length)
        if shared:
            block.copy_rows([slot], self.trunk.block, [self.trunk.row], shared)
        if length > shared:
            block.copy_rows([slot], self.branch, [self.row], length - shared, at=shared)


@dataclass(frozen=True, slots=True)
class Match:
    """The longest known beginning of a prompt."""

    sequence: KnownSequence
    length: int
    """How many of the prompt's ids are known."""


class PrefixStore:
    """All sequences whose keys and values are in memory, sorted by their ids."""

    def __init__(self) -> None:
        self._sequences: list[KnownSequence] = []
        self._users: Counter[Block] = Counter()
        """How many sequences stand on each block."""

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: KnownSequence) -> None:
        """Remember a sequence; one with the same ids is replaced."""
        at = bisect_left(self._sequences, sequence)
        if at < len(self._sequences) and self._sequences[at].ids == sequence.ids:
            self._leave(self._sequences[at])
            self._sequences[at] = sequence
        else:
            self._sequences.insert(at, sequence)
        self._users.update({sequence.trunk.block, sequence.branch})

    def longest(self, ids: TokenIds) -> Match | None:
        """Return the sequence that shares the longest beginning with ``ids``.

        In a sorted list the longest common beginning is with a neighbour of the place where ``ids``
        would be inserted. The ids themselves are compared, so what is reused really is a prefix.
        """
        at = bisect_left(self._sequences, ids, key=lambda sequence: sequence.ids)
        near = self._sequences[max(0, at - 1) : at + 1]
        matches = [Match(sequence, common_length(sequence.ids, ids)) for sequence in near]
        best = max(matches, key=lambda match: match.length, default=None)
        return best if best is not None and best.length > 0 else None

    def blocks(self) -> list[Block]:
        """Return every block in use, oldest first."""
        return sorted(self._users, key=lambda block: block.number)

    def drop(self, blocks: Iterable[Block]) -> None:
        """Forget every sequence that needs one of these blocks."""
        gone = set(blocks)
        if not gone:
            return
        kept = []
        for sequence in self._sequences:
            if sequence.trunk.block in gone or sequence.branch in gone:
                self._leave(sequence)
            else:
                kept.append(sequence)
        self._sequences = kept

    def clear(self) -> None:
        """Forget everything."""
        self._sequences.clear()
        self._users.clear()

    def _leave(self, sequence: KnownSequence) -> None:
        """Count a sequence out of its blocks."""
        for block in {sequence.trunk.block, sequence.branch}:
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]


def common_length(left: TokenIds, right: TokenIds) -> int:
    """Return how many ids two sequences have in common from their start."""
    least, most = 0, min(len(left), len(right))
    while least < most:  # comparing slices of tuples costs less than making arrays of them
        middle = (least + most + 1) // 2
        if left[least:middle] == right[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least
