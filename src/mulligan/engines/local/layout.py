"""Where each token of one forward pass stands, in three parts.

The stream holds N tokens: those of the first row, then those of the second, and so on. B rows take
part, at most S tokens each; G trunks of P columns, branches of T columns. Rows of a group are laid
side by side, R at most, to read their trunk together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.engines.local.prefix_cache import Block

_FUSED_FROM = 768
"""New tokens of a row from which on the fused kernel is faster than batched products."""


@dataclass(frozen=True, slots=True)
class NewTokens:
    """What is to be computed: ``counts[b]`` tokens for slot ``first + b``."""

    first: int
    starts: Sequence[int]
    """Column of each row's first new token."""
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class SharedTrunks:
    """What the rows have in common with others."""

    block: Block
    slot_of_row: Sequence[int]
    lengths: Sequence[int]
    """Tokens of each row's trunk."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The new tokens, one after another, and the same as rows of equal width."""

    rows: slice
    """The slots that take part."""
    slots_N: Tensor
    columns_N: Tensor
    width: int
    """S."""
    padded_BS: Tensor | None
    """Row and place to stream; ``None`` where every row has exactly one token."""
    packed_N: Tensor | None
    """Stream to row and place, flat."""

    @classmethod
    def of(cls, new: NewTokens, device: torch.device) -> "Stream":
        """Lay the new tokens out."""
        count_B = np.asarray(new.counts)
        rows, width = len(count_B), int(count_B.max())
        row_N = np.repeat(np.arange(rows), count_B)
        place_N = np.arange(len(row_N)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        padded = packed = None
        if width > 1 or len(row_N) != rows:
            packed = row_N * width + place_N
            padded = np.zeros(rows * width, dtype=np.int64)
            padded[packed] = np.arange(len(row_N))
        return cls(
            rows=slice(new.first, new.first + rows),
            slots_N=_tensor(row_N + new.first, device),
            columns_N=_tensor(np.asarray(new.starts)[row_N] + place_N, device),
            width=width,
            padded_BS=_optional(padded, device),
            packed_N=_optional(packed, device),
        )


@dataclass(frozen=True, slots=True)
class Groups:
    """Which rows read the same trunk."""

    block: Block
    slots: slice
    """The slots of the block that take part."""
    size: int
    """R."""
    grouped_GR: Tensor | None
    """Group and place in it to row; ``None`` where rows are in that order already."""
    ungrouped_B: Tensor | None

    @classmethod
    def of(cls, trunks: SharedTrunks, device: torch.device) -> "Groups":
        """Lay rows of a group side by side."""
        group_B = np.asarray(trunks.slot_of_row)
        first, last = int(group_B.min()), int(group_B.max())
        group_B = group_B - first
        size_G = np.bincount(group_B)
        size = int(size_G.max())
        order = np.argsort(group_B, kind="stable")
        place = np.arange(len(order)) - np.repeat(np.cumsum(size_G) - size_G, size_G)
        ungrouped = np.empty(len(order), dtype=np.int64)
        ungrouped[order] = group_B[order] * size + place
        slots = slice(first, last + 1)
        if len(order) == len(size_G) * size and (ungrouped == np.arange(len(order))).all():
            return cls(trunks.block, slots, size, None, None)
        grouped = np.zeros(len(size_G) * size, dtype=np.int64)
        grouped[ungrouped] = np.arange(len(order))
        return cls(trunks.block, slots, size, _tensor(grouped, device), _tensor(ungrouped, device))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each token of one forward pass stands."""

    own: Block
    stream: Stream
    groups: Groups | None
    """``None`` where rows share nothing."""
    positions_N: Tensor
    columns: int
    """T: all of the branches' block for one new token per row, else those that are in use."""
    bias_BSK: Tensor | None
    """0 where a token sees a key and -inf where not, keys of the trunk first, shape [B, S, P + T];
    ``None`` where nothing precedes long rows, and the fused kernel's causal attention does."""

    @property
    def trunk_columns(self) -> int:
        """P."""
        return 0 if self.groups is None else self.groups.block.columns

    @classmethod
    def build(
        cls,
        own: Block,
        new: NewTokens,
        model: PreTrainedModel,
        trunks: SharedTrunks | None = None,
    ) -> "Layout":
        """Lay out new tokens.

        Args:
            own: the block that takes the new keys and values; it grows where it must.
            new: what is to be computed.
            model: tells the device and the type to compute in.
            trunks: what the rows share with others.
        """
        stream = Stream.of(new, model.device)
        groups = None if trunks is None else Groups.of(trunks, model.device)
        lengths_B = np.zeros(len(new.counts), np.int64) if trunks is None else trunks.lengths
        trunk_B = _tensor(np.asarray(lengths_B), model.device)
        used = max(start + count for start, count in zip(new.starts, new.counts, strict=True))
        own.reserve(used)
        # Products over a part of a block copy it first, which pays where there is much to multiply.
        columns = own.columns if stream.width == 1 else used
        fused = trunks is None and not any(new.starts) and stream.width >= _FUSED_FROM
        span = 0 if groups is None else groups.block.columns
        return cls(
            own=own,
            stream=stream,
            groups=groups,
            positions_N=stream.columns_N + trunk_B[stream.slots_N - new.first],
            columns=columns,
            bias_BSK=None if fused else _bias(new, trunk_B, columns, span, model.dtype),
        )


def _bias(new: NewTokens, trunk_B: Tensor, columns: int, span: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where a row's s-th new token sees a key and -inf where not: [B, S, P + T]."""
    device = trunk_B.device
    start_B, count_B = (_tensor(np.asarray(each), device) for each in (new.starts, new.counts))
    width = max(new.counts)
    place_S = torch.arange(width, device=device)
    # A row with fewer new tokens than S repeats its last: what it computes there is thrown away.
    last_BS = start_B[:, None] + torch.minimum(place_S, (count_B[:, None] - 1).clamp(min=0))
    sees_own = torch.arange(columns, device=device) <= last_BS[:, :, None]
    sees_trunk = torch.arange(span, device=device) < trunk_B[:, None, None]
    sees = torch.cat([sees_trunk.expand(-1, width, -1), sees_own], dim=-1)
    return torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, -torch.inf)


def _tensor(array: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(array, device=device)


def _optional(array: Any, device: torch.device) -> Tensor | None:
    return None if array is None else _tensor(array, device)
