"""Attention of a stream of tokens over a shared trunk and each row's own branch.

Saves: n samples read one copy of their prompt's keys and values, in one product per group;
and no token is computed for padding, since rows of different lengths form one flat stream. On CPU
batched matrix products are also several times faster here than the fused attention kernel, which
is made for long queries.
Does not apply: sliding windows shorter than the span, soft-capped scores, attention sinks, or
models that do not go through transformers' attention interface; those take the plain path.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel

from mulligan.engines.local.layout import Groups, Layout

NAME = "mulligan_trunk_and_branches"
_REFUSED = ("softcap", "s_aux", "position_bias")
"""What an attention may ask for that is not computed here."""


class UnsupportedAttentionError(Exception):
    """The model's attention asks for something that is not computed here."""


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
        stream = layout.stream
        layout.own.write(layer_idx, key, value, stream.slots_N, stream.columns_N)
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
    stream, own, columns = layout.stream, layout.own, slice(0, layout.columns)
    if stream.padded_BS is not None:
        query_NHD = query_NHD[stream.padded_BS]
    query_BSHD = torch.unflatten(query_NHD, 0, (-1, stream.width))
    keys = own.keys[layer][stream.rows, :, columns]
    values = own.values[layer][stream.rows, :, columns]
    if layout.bias_BSK is None:
        out_BSHD = _causal(query_BSHD, keys, values, scale)
    else:
        out_BSHD = _over_trunk_and_branch(query_BSHD, keys, values, scale, layer, layout)
    out_NHD = out_BSHD.flatten(0, 1)
    if stream.packed_N is not None:
        out_NHD = out_NHD[stream.packed_N]
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
    # On a CPU, products in half precision come rounded, and scaling by a power of two keeps them as
    # they are; the softmax sums in float32 whatever it reads. So wider scores would only take time.
    # A GPU gives the sums as they are, in float32, and rounds once, at the end.
    shape = rows, kv_heads, per_key, width, span + layout.columns
    scores = query_BHQD.new_empty(shape, dtype=_product_dtype(query_BHQD))

    def put(product_BHQK: Tensor, part: slice) -> None:
        """Scale and mask in one pass, into the part's place."""
        product = torch.unflatten(product_BHQK, 2, (per_key, width))
        torch.add(bias[..., part], product, alpha=scale, out=scores[..., part])

    put(_matmul(query_BHQD, keys.transpose(2, 3)), slice(span, None))
    groups = layout.groups
    if groups is not None:
        trunk_keys = groups.block.keys[layer][groups.slots]
        grouped = _matmul(_gather(query_BHQD, groups), trunk_keys.transpose(2, 3))
        put(_scatter(grouped, groups), slice(0, span))
    weights_BHQK = torch.softmax(scores, dim=-1, out=scores).flatten(2, 3)
    weights_BHQK = weights_BHQK.to(values.dtype)
    out_BHQD = _matmul(weights_BHQK[..., span:].contiguous(), values)
    if groups is not None:
        trunk_values = groups.block.values[layer][groups.slots]
        trunk_weights = _gather(weights_BHQK[..., :span], groups).contiguous()
        grouped = _matmul(trunk_weights, trunk_values)
        out_BHQD = out_BHQD + _scatter(grouped, groups)
    out = torch.unflatten(out_BHQD, 2, (per_key, width)).permute(0, 3, 1, 2, 4)
    return out.reshape(rows, width, heads, -1).to(query_BSHD.dtype)


def _gather(rows_BHQX: Tensor, groups: Groups) -> Tensor:
    """Lay the rows of a group side by side: [G, H, R·Q, X]."""
    if groups.grouped_GR is not None:
        rows_BHQX = rows_BHQX[groups.grouped_GR]
    if groups.size == 1:
        return rows_BHQX
    return torch.unflatten(rows_BHQX, 0, (-1, groups.size)).transpose(1, 2).flatten(2, 3)


def _scatter(groups_GHQX: Tensor, groups: Groups) -> Tensor:
    """Undo ``_gather``: [B, H, Q, X]."""
    if groups.size > 1:
        apart = torch.unflatten(groups_GHQX, 2, (groups.size, -1))
        groups_GHQX = apart.transpose(1, 2).flatten(0, 1)
    if groups.ungrouped_B is not None:
        groups_GHQX = groups_GHQX[groups.ungrouped_B]
    return groups_GHQX


def _matmul(left_BHQX: Tensor, right_BHXY: Tensor) -> Tensor:
    """Multiply matrices, batched over rows and heads, without copying the right side."""
    left, right = left_BHQX.flatten(0, 1), right_BHXY.flatten(0, 1)
    wide = _product_dtype(left) != left.dtype
    product = _summed_in_float32(left, right) if wide else torch.bmm(left, right)
    return torch.unflatten(product, 0, left_BHQX.shape[:2])


def _product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type that products come in: float32 where the device gives them unrounded."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if tensor.is_cuda and half else tensor.dtype


def _summed_in_float32(left_NQX: Tensor, right_NXY: Tensor) -> Tensor:
    """Multiply matrices of half precision without rounding the sums; only GPUs can."""
    return torch.bmm(left_NQX, right_NXY, out_dtype=torch.float32)
