"""Attention of a stream of tokens over a shared trunk and each row's own branch.

Saves: n samples read one copy of their prompt's keys and values, in one matrix product a group;
and no token is computed for padding, since rows of different lengths form one flat stream. On CPU
batched matrix products are also several times faster here than the fused attention kernel, which
is made for long queries.
Does not apply: sliding windows shorter than the span, soft-capped scores, attention sinks, or
models that do not go through transformers' attention interface; those take the plain path.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel

from mulligan.engines.local.prefix_cache import Block

NAME = "mulligan_trunk_and_branches"
_REFUSED = ("softcap", "s_aux", "position_bias")
"""What an attention may ask for that is not computed here."""
_FUSED_FROM = 768
"""New tokens of a row from which on the fused kernel is faster than batched products."""


class UnsupportedAttentionError(Exception):
    """The model's attention asks for something that is not computed here."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each token of one forward pass stands.

    The stream holds N tokens: those of the first row, then those of the second, and so on. B rows
    take part, at most S tokens each; G trunks of P columns, branches of T columns. Rows of a group
    are laid side by side, R at most, to read their trunk together.
    """

    own: Block
    trunk: Block | None
    rows: slice
    """The slots of ``own`` that take part."""
    groups: slice
    """The slots of ``trunk`` that take part."""
    slots_N: Tensor
    columns_N: Tensor
    positions_N: Tensor
    padded_BS: Tensor | None
    """Row and place to stream; ``None`` where every row has exactly one token."""
    packed_N: Tensor | None
    """Stream to row and place, flat."""
    grouped_GR: Tensor | None
    """Group and place in it to row; ``None`` where rows already lie in that order."""
    ungrouped_B: Tensor | None
    group_size: int
    width: int
    """S."""
    columns: int
    """T: all of the branches' block for one new token a row, else those that are in use."""
    trunk_columns: int
    """P."""
    bias_BSK: Tensor | None
    """0 where a token sees a key and -inf where not, keys of the trunk first, shape [B, S, P + T];
    ``None`` where nothing precedes long rows, and the fused kernel's causal attention does."""

    @classmethod
    def build(
        cls,
        own: Block,
        first: int,
        starts: Sequence[int],
        counts: Sequence[int],
        model: PreTrainedModel,
        trunk: Block | None = None,
        group_of_row: Sequence[int] = (),
        trunk_lengths: Sequence[int] = (),
    ) -> "Layout":
        """Lay out ``counts[b]`` tokens for slot ``first + b``, from column ``starts[b]`` on.

        Args:
            own: the block that takes the new keys and values; it grows where it must.
            first: the first slot that takes part.
            starts: column of each row's first new token.
            counts: new tokens of each row.
            model: tells the device and the type to compute in.
            trunk: the block that holds the shared trunks.
            group_of_row: the trunk slot of each row.
            trunk_lengths: tokens of each row's trunk.
        """
        device, dtype = model.device, model.dtype
        start_B, count_B = np.asarray(starts), np.asarray(counts)
        rows, width = len(count_B), int(count_B.max())
        row_N = np.repeat(np.arange(rows), count_B)
        place_N = np.arange(len(row_N)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        column_N = start_B[row_N] + place_N
        position_N = column_N + (np.asarray(trunk_lengths)[row_N] if trunk is not None else 0)
        padded = packed = None
        if width > 1 or len(row_N) != rows:
            packed = row_N * width + place_N
            padded = np.zeros(rows * width, dtype=np.int64)
            padded[packed] = np.arange(len(row_N))
        used = int((start_B + count_B).max())
        own.reserve(used)
        # Products over a part of a block copy it first, which pays where there is much to multiply.
        columns = own.columns if width == 1 else used
        fused = trunk is None and not start_B.any() and width >= _FUSED_FROM
        groups, grouped, ungrouped, size, span = slice(0, 0), None, None, 1, 0
        if trunk is not None:
            groups, grouped, ungrouped, size = _group(np.asarray(group_of_row))
            span = trunk.columns

        def tensor(array: Any) -> Any:
            return None if array is None else torch.as_tensor(array, device=device)

        bias = None
        if not fused:
            lengths = np.asarray(trunk_lengths) if trunk is not None else np.zeros(rows)
            bias = _bias(
                tensor(start_B), tensor(count_B), tensor(lengths), width, columns, span, dtype
            )
        return cls(
            own=own,
            trunk=trunk,
            rows=slice(first, first + rows),
            groups=groups,
            slots_N=tensor(row_N + first),
            columns_N=tensor(column_N),
            positions_N=tensor(position_N),
            padded_BS=tensor(padded),
            packed_N=tensor(packed),
            grouped_GR=tensor(grouped),
            ungrouped_B=tensor(ungrouped),
            group_size=size,
            width=width,
            columns=columns,
            trunk_columns=span,
            bias_BSK=bias,
        )


def _group(group_B: np.ndarray) -> tuple[slice, np.ndarray | None, np.ndarray | None, int]:
    """Lay rows of a group side by side: trunk slots, group place to row, row to place, R."""
    first, last = int(group_B.min()), int(group_B.max())
    group_B = group_B - first
    size_G = np.bincount(group_B)
    size = int(size_G.max())
    order = np.argsort(group_B, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(size_G) - size_G, size_G)
    ungrouped = np.empty(len(order), dtype=np.int64)
    ungrouped[order] = group_B[order] * size + place
    groups = slice(first, last + 1)
    if len(order) == len(size_G) * size and (ungrouped == np.arange(len(order))).all():
        return groups, None, None, size
    grouped = np.zeros(len(size_G) * size, dtype=np.int64)
    grouped[ungrouped] = np.arange(len(order))
    return groups, grouped, ungrouped, size


def _bias(
    start_B: Tensor,
    count_B: Tensor,
    trunk_B: Tensor,
    width: int,
    columns: int,
    span: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return 0 where a row's s-th new token sees a key and -inf where not: [B, S, P + T]."""
    device = start_B.device
    place_S = torch.arange(width, device=device)
    # A row with fewer new tokens than S repeats its last: what it computes there is thrown away.
    last_BS = start_B[:, None] + torch.minimum(place_S, (count_B[:, None] - 1).clamp(min=0))
    sees_own = torch.arange(columns, device=device) <= last_BS[:, :, None]
    sees_trunk = torch.arange(span, device=device) < trunk_B[:, None, None]
    sees = torch.cat([sees_trunk.expand(-1, width, -1), sees_own], dim=-1)
    return torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, -torch.inf)


class StreamCache(Cache):
    """What a transformers model takes for its cache: it files keys and values into a block."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layers=[])
        self._layout = layout

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the stream's keys and values, shape [1, heads, N, head size]."""
        layout = self._layout
        key, value = key_states[0].transpose(0, 1), value_states[0].transpose(0, 1)
        layout.own.write(layer_idx, key, value, layout.slots_N, layout.columns_N)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: the stream's positions are always given."""
        return 0


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    layout: Layout,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend from a stream of tokens, shape [1, heads, N, head size], as the layout says."""
    refused = [name for name in _REFUSED if kwargs.get(name) is not None]
    if refused or attention_mask is not None:
        raise UnsupportedAttentionError(", ".join(refused) or "an attention mask")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    query_NHD = query[0].transpose(0, 1)
    if layout.padded_BS is not None:
        query_NHD = query_NHD[layout.padded_BS]
    query_BSHD = torch.unflatten(query_NHD, 0, (-1, layout.width))
    own, columns = layout.own, slice(0, layout.columns)
    keys = own.keys[layer][layout.rows, :, columns]
    values = own.values[layer][layout.rows, :, columns]
    if layout.bias_BSK is None:
        out_BSHD = _causal(query_BSHD, keys, values, scale)
    else:
        out_BSHD = _over_trunk_and_branch(query_BSHD, keys, values, scale, layer, layout)
    out_NHD = out_BSHD.flatten(0, 1)
    if layout.packed_N is not None:
        out_NHD = out_NHD[layout.packed_N]
    return out_NHD[None], None


AttentionInterface.register(NAME, attend)


@contextmanager
def stream_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend by layouts, and give it back its own attention afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _causal(query_BSHD: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attend within fresh rows; what stands behind a row's end is never seen by it."""
    per_key = query_BSHD.shape[2] // keys.shape[1]
    return F.scaled_dot_product_attention(
        query_BSHD.transpose(1, 2),
        keys.repeat_interleave(per_key, dim=1),
        values.repeat_interleave(per_key, dim=1),
        is_causal=True,
        scale=scale,
    ).transpose(1, 2)


def _over_trunk_and_branch(
    query_BSHD: Tensor, keys: Tensor, values: Tensor, scale: float, layer: int, layout: Layout
) -> Tensor:
    """One softmax over the keys of the trunk, read group by group, and of the row's own branch."""
    assert layout.bias_BSK is not None
    rows, width, heads, size = query_BSHD.shape
    kv_heads, span = keys.shape[1], layout.trunk_columns
    # Query heads that share a key head stand beside the S places: Q of them a key head.
    query_BHQD = (
        torch.unflatten(query_BSHD, 2, (kv_heads, -1))
        .permute(0, 2, 3, 1, 4)
        .reshape(rows, kv_heads, -1, size)
    )
    per_key = heads // kv_heads
    bias = layout.bias_BSK[:, None, None]
    # Products in half precision come rounded, and scaling by a power of two keeps them as they
    # are; the softmax sums in float32 whatever it reads. So wider scores would only take time.
    scores = query_BHQD.new_empty(rows, kv_heads, per_key, width, span + layout.columns)

    def put(product_BHQK: Tensor, part: slice) -> None:
        """Scale and mask in one pass, into the part's place."""
        product = torch.unflatten(product_BHQK, 2, (per_key, width))
        torch.add(bias[..., part], product, alpha=scale, out=scores[..., part])

    put(_matmul(query_BHQD, keys.transpose(2, 3)), slice(span, None))
    if span:
        assert layout.trunk is not None
        trunk_keys = layout.trunk.keys[layer][layout.groups]
        grouped = _matmul(_gather(query_BHQD, layout), trunk_keys.transpose(2, 3))
        put(_scatter(grouped, layout), slice(0, span))
    weights_BHQK = torch.softmax(scores, dim=-1, out=scores).flatten(2, 3)
    out_BHQD = _matmul(weights_BHQK[..., span:].contiguous(), values)
    if span:
        assert layout.trunk is not None
        trunk_values = layout.trunk.values[layer][layout.groups]
        trunk_weights = _gather(weights_BHQK[..., :span], layout).contiguous()
        grouped = _matmul(trunk_weights, trunk_values)
        out_BHQD = out_BHQD + _scatter(grouped, layout)
    out = torch.unflatten(out_BHQD, 2, (per_key, width)).permute(0, 3, 1, 2, 4)
    return out.reshape(rows, width, heads, -1)


def _gather(rows_BHQX: Tensor, layout: Layout) -> Tensor:
    """Lay the rows of a group side by side: [G, H, R·Q, X]."""
    if layout.grouped_GR is not None:
        rows_BHQX = rows_BHQX[layout.grouped_GR]
    if layout.group_size == 1:
        return rows_BHQX
    return torch.unflatten(rows_BHQX, 0, (-1, layout.group_size)).transpose(1, 2).flatten(2, 3)


def _scatter(groups_GHQX: Tensor, layout: Layout) -> Tensor:
    """Undo ``_gather``: [B, H, Q, X]."""
    if layout.group_size > 1:
        apart = torch.unflatten(groups_GHQX, 2, (layout.group_size, -1))
        groups_GHQX = apart.transpose(1, 2).flatten(0, 1)
    if layout.ungrouped_B is not None:
        groups_GHQX = groups_GHQX[layout.ungrouped_B]
    return groups_GHQX


def _matmul(left_BHQX: Tensor, right_BHXY: Tensor) -> Tensor:
    """Multiply matrices, batched over rows and heads, without copying the right side."""
    product = torch.bmm(left_BHQX.flatten(0, 1), right_BHXY.flatten(0, 1))
    return torch.unflatten(product, 0, left_BHQX.shape[:2])
