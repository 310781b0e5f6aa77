"""Ragged attention: many ranges of one stream, each over keys of its own, in one call.

A kernel's backward takes the ``out`` and ``lse`` of the whole softmax, of which the call may have
computed a part, so that calls over different keys can be merged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from mulligan.logprobs.blocks import Block, CpuFlashBlock, CudaFlashBlock, PlainBlock

BATCHED_SCORES = 1 << 18
"""Scores of a head up to which neighbouring ranges are padded and computed as one batch: it saves
calls where ranges are short, and where they are long it would only add padding."""


@dataclass(frozen=True)
class Ranges:
    """Queries in consecutive ranges, the i-th of which attends to the i-th range of keys."""

    queries: tuple[int, ...]
    """Queries in each range; there may be none."""
    keys: tuple[int, ...]
    causal: bool
    """Whether a query attends only to keys that are no later in their range. Queries and keys then
    have the same lengths."""
    groups: tuple[int, ...]
    """How many consecutive ranges each group has: these are batched together in any case."""
    device: torch.device

    @cached_property
    def cumulative_queries(self) -> Tensor:
        """Where each range of queries begins and the last one ends, int32."""
        return _cumulative(self.queries, self.device)

    @cached_property
    def cumulative_keys(self) -> Tensor:
        """Where each range of keys begins and the last one ends, int32."""
        return _cumulative(self.keys, self.device)

    @cached_property
    def batches(self) -> "tuple[Batch, ...]":
        """The ranges as rectangular blocks: padded together if causal, one by one if not."""
        ends_q = [0, *accumulate(self.queries)]
        ends_k = [0, *accumulate(self.keys)]
        runs = _joined(self.queries, self.groups) if self.causal else [1] * len(self.queries)
        return tuple(
            Batch.create(
                slice(ends_q[low], ends_q[high]),
                slice(ends_k[low], ends_k[high]),
                self.queries[low:high] if self.causal else (ends_q[high] - ends_q[low],),
                self.device,
            )
            for low, high in pairwise(accumulate(runs, initial=0))
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive ranges as the rows of one block, padded on the right to the longest."""

    queries: slice
    keys: slice
    lengths_B: tuple[int, ...]
    """Tokens of each row that attends to itself, or all queries of a row with keys of its own."""
    slots_S: Tensor | None
    """Place of each token in the padded [B * longest]; None: nothing to pad."""

    @classmethod
    def create(
        cls, queries: slice, keys: slice, lengths_B: Sequence[int], device: torch.device
    ) -> "Batch":
        """Lay out the rows; those that are empty are left out."""
        lengths_B = tuple(length for length in lengths_B if length)
        longest = max(lengths_B, default=0)
        if all(length == longest for length in lengths_B):
            return cls(queries, keys, lengths_B, None)
        slots = [row * longest + i for row, length in enumerate(lengths_B) for i in range(length)]
        return cls(queries, keys, lengths_B, torch.tensor(slots, device=device))

    def pad(self, stream_HSD: Tensor) -> Tensor:
        """Spread tokens over one row for each range, [B, H, longest, D]."""
        heads, _, dim = stream_HSD.shape
        rows, longest = len(self.lengths_B), max(self.lengths_B)
        stream_SHD = stream_HSD.transpose(0, 1)
        if self.slots_S is not None:
            padded = stream_SHD.new_zeros(rows * longest, heads, dim)
            stream_SHD = padded.index_copy_(0, self.slots_S, stream_SHD)
        return stream_SHD.reshape(rows, longest, heads, dim).transpose(1, 2)

    def unpad(self, padded_BHR: Tensor) -> Tensor:
        """Undo ``pad`` for [B, H, longest, ...]: [H, S, ...]."""
        flat = padded_BHR.transpose(1, 2).flatten(0, 1)
        if self.slots_S is not None:
            flat = flat.index_select(0, self.slots_S)
        return flat.transpose(0, 1)


class Kernel(Protocol):
    """Attention of q [H, Q, D] over k, v [Hkv, K, D]; H is a multiple of Hkv."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, ranges: Ranges, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return out [H, Q, D] and lse [H, Q] in fp32."""
        ...

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        ranges: Ranges,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the call's share of the gradients of q, k and v, in their shapes."""
        ...


class BlockKernel:
    """Ragged attention by rectangular blocks: the CPU's, and the fallback elsewhere.

    Ranges that attend to themselves are padded into batches (see ``Ranges.batches``); those that
    attend to other keys are computed one after the other. So a stream with one group is computed
    by three blocks, and a stream with several gives each the sums that it has alone.
    """

    def __init__(self, block: Block) -> None:
        self.block = block

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, ranges: Ranges, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See ``Kernel.forward``."""
        found = [
            self._forward_batch(batch, q, k, v, ranges.causal, scale)
            for batch in _with_queries(ranges)
        ]
        outs, lses = zip(*found, strict=True)
        return _joined_tokens(outs), _joined_tokens(lses)

    def _forward_batch(
        self, batch: Batch, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        pad_keys = batch.pad if causal else _alone
        q, k, v = q[:, batch.queries], k[:, batch.keys], v[:, batch.keys]
        out, lse = self.block.forward(batch.pad(q), pad_keys(k), pad_keys(v), causal, scale)
        return batch.unpad(out), batch.unpad(lse)

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        ranges: Ranges,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Kernel.backward``."""
        dq, dk, dv = [], [], []
        for batch in ranges.batches:
            if not batch.lengths_B:
                dk.append(torch.zeros_like(k[:, batch.keys]))
                dv.append(torch.zeros_like(v[:, batch.keys]))
                continue
            pad_keys, unpad_keys = (
                (batch.pad, batch.unpad) if ranges.causal else (_alone, _no_longer_alone)
            )
            grads = self.block.backward(
                batch.pad(grad_out[:, batch.queries]),
                batch.pad(q[:, batch.queries]),
                pad_keys(k[:, batch.keys]),
                pad_keys(v[:, batch.keys]),
                batch.pad(out[:, batch.queries]),
                batch.pad(lse[:, batch.queries].unsqueeze(-1)).squeeze(-1),
                ranges.causal,
                scale,
            )
            dq.append(batch.unpad(grads[0]))
            dk.append(unpad_keys(grads[1]))
            dv.append(unpad_keys(grads[2]))
        return _joined_tokens(dq), _joined_tokens(dk), _joined_tokens(dv)


class VarlenKernel:
    """PyTorch's ragged flash attention for CUDA in half precision: any number of ranges at once."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, ranges: Ranges, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See ``Kernel.forward``."""
        out, lse, _ = torch.ops.torch_attn._varlen_attn(
            q.transpose(0, 1),
            k.transpose(0, 1),
            v.transpose(0, 1),
            *_varlen_lengths(ranges),
            ranges.causal,
            scale=scale,
            enable_gqa=q.shape[0] != k.shape[0],
        )
        return out.transpose(0, 1), lse

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        ranges: Ranges,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Kernel.backward``."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        dq, dk, dv = torch.ops.torch_attn._varlen_attn_backward(
            grad_out.transpose(0, 1),
            q.transpose(0, 1),
            k.transpose(0, 1),
            v.transpose(0, 1),
            out.transpose(0, 1),
            lse.contiguous(),
            *_varlen_lengths(ranges),
            ranges.causal,
            no_dropout,
            scale=scale,
        )
        return dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1)


def choose_kernel(q: Tensor) -> Kernel:
    """Return the fastest kernel that takes these queries.

    On CUDA, half precision goes through fused kernels, which need a card of compute capability 8
    and heads of at most 256 in multiples of 8. What they do not take, such as float32, has its
    scores materialised a batch at a time.
    """
    if q.device.type == "cpu":
        return BlockKernel(CpuFlashBlock())
    if not _flash_takes(q):
        return BlockKernel(PlainBlock())
    return VarlenKernel() if has_varlen() else BlockKernel(CudaFlashBlock())


def _flash_takes(q: Tensor) -> bool:
    half = q.dtype in (torch.float16, torch.bfloat16)
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    if q.device.type != "cuda" or not (half and fits):
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


@cache
def has_varlen() -> bool:
    """Whether this PyTorch has ragged attention with grouped heads, which 2.13 has.

    Its operators exist once their module is imported, which takes a second and so waits until a
    GPU needs it.
    """
    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return False
    return "enable_gqa" in str(torch.ops.torch_attn._varlen_attn.default._schema)


def _varlen_lengths(ranges: Ranges) -> tuple[Tensor, Tensor, int, int]:
    """Return the cumulative and the largest lengths of queries and keys.

    A largest length of 1 would take a decoding path, which expects a query in every range.
    """
    return (
        ranges.cumulative_queries,
        ranges.cumulative_keys,
        max(2, *ranges.queries),
        max(ranges.keys),
    )


def _cumulative(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _joined(lengths: Sequence[int], groups: Sequence[int]) -> list[int]:
    """Return how many consecutive ranges go into each batch: whole groups, as scores allow."""
    runs: list[int] = []
    longest = place = 0
    for count in groups:
        own = max(lengths[place : place + count], default=0)
        place += count
        together = max(longest, own)
        if runs and (runs[-1] + count) * together**2 <= BATCHED_SCORES:
            runs[-1] += count
            longest = together
        else:
            runs.append(count)
            longest = own
    return runs


def _with_queries(ranges: Ranges) -> Iterator[Batch]:
    return (batch for batch in ranges.batches if batch.lengths_B)


def _joined_tokens(pieces: Sequence[Tensor]) -> Tensor:
    """Put pieces of [H, S, ...] behind each other."""
    return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces), dim=1)


def _alone(stream_HKD: Tensor) -> Tensor:
    return stream_HKD.unsqueeze(0)


def _no_longer_alone(row_1HKD: Tensor) -> Tensor:
    return row_1HKD.squeeze(0)
