"""Attention over a packed group in which the prompt's keys and values exist once.

What it saves: a group's prompt is attended to by all completions in one call, without a mask and
without copies; nothing larger than the tokens themselves is kept for the backward. It reaches every
model that uses transformers' ``AttentionInterface``. When it does not apply (attention dropout,
soft-capped scores, sliding windows shorter than the span, attention sinks) it says so by raising.

How: three blocks. The prompt attends to itself; all completion tokens attend to the prompt; each
completion attends to itself. The two blocks that share queries are merged by their log-sum-exps:

    lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

Backward, a softmax's gradient is a sum over keys once the merged ``out`` and ``lse`` are known
(FlashAttention-2, arXiv 2307.08691, algorithm 2), so each block runs its ordinary backward on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mulligan.logprobs.kernels import choose_kernel

NAME = "mulligan_shared_prompt"
"""What the implementation is called in a model's configuration."""


class NotShareableError(Exception):
    """This attention layer does something that the shared prompt does not reproduce."""


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """Where prompt and completions are in a packed stream, for every layer of one forward."""

    prompt_length: int
    lengths_G: tuple[int, ...]
    """Tokens of each completion in the stream; none is empty."""
    slots_S: Tensor | None
    """Place of each of the S completion tokens in the padded [G * Rmax]; None: nothing to pad."""

    @classmethod
    def create(
        cls, prompt_length: int, segment_lengths_G: Sequence[int], device: torch.device
    ) -> "GroupLayout":
        """Lay out the segments that are not empty."""
        lengths_G = tuple(length for length in segment_lengths_G if length)
        longest = max(lengths_G, default=0)
        if all(length == longest for length in lengths_G):
            return cls(prompt_length, lengths_G, None)
        slots = [row * longest + i for row, length in enumerate(lengths_G) for i in range(length)]
        return cls(prompt_length, lengths_G, torch.tensor(slots, device=device))

    @property
    def span(self) -> int:
        """The longest distance over which a token attends."""
        return self.prompt_length + max(self.lengths_G, default=0)

    def pad(self, stream_1HSD: Tensor) -> Tensor:
        """Spread completion tokens over one row for each completion, [G, H, Rmax, D]."""
        _, heads, _, dim = stream_1HSD.shape
        rows, longest = len(self.lengths_G), max(self.lengths_G)
        stream_SHD = stream_1HSD[0].transpose(0, 1)
        if self.slots_S is not None:
            padded = stream_SHD.new_zeros(rows * longest, heads, dim)
            stream_SHD = padded.index_copy_(0, self.slots_S, stream_SHD)
        return stream_SHD.reshape(rows, longest, heads, dim).transpose(1, 2)

    def unpad(self, padded_GHR: Tensor) -> Tensor:
        """Undo ``pad`` for [G, H, Rmax, ...]: [1, H, S, ...]."""
        flat = padded_GHR.transpose(1, 2).flatten(0, 1)
        if self.slots_S is not None:
            flat = flat.index_select(0, self.slots_S)
        return flat.transpose(0, 1).unsqueeze(0)


class SharedPromptAttention(torch.autograd.Function):
    """Attention of a packed stream: q [1, H, T, D], k and v [1, Hkv, T, D] -> out [1, H, T, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: GroupLayout, scale: float
    ) -> Tensor:
        """Attend in three blocks; keep only what grows with the tokens."""
        kernel, P = choose_kernel(q), layout.prompt_length
        (q_P, q_S), (k_P, k_S), (v_P, v_S) = (x.tensor_split((P,), dim=2) for x in (q, k, v))
        out, lse = kernel.forward(q_P, k_P, v_P, True, scale)
        if layout.lengths_G:
            shared = kernel.forward(q_S, k_P, v_P, False, scale)
            own = kernel.forward(
                layout.pad(q_S), layout.pad(k_S), layout.pad(v_S), causal=True, scale=scale
            )
            out_S, lse_S = _merge(*shared, *(layout.unpad(x) for x in own))
            out, lse = torch.cat((out, out_S), dim=2), torch.cat((lse, lse_S), dim=2)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Run each block's backward on the merged out and lse, and add up."""
        q, k, v, out, lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        kernel, P = choose_kernel(q), layout.prompt_length
        (g_P, g_S), (q_P, q_S), (k_P, k_S), (v_P, v_S), (out_P, out_S), (lse_P, lse_S) = (
            x.tensor_split((P,), dim=2) for x in (grad_out, q, k, v, out, lse)
        )
        dq, dk, dv = kernel.backward(g_P, q_P, k_P, v_P, out_P, lse_P, True, scale)
        if layout.lengths_G:
            shared = kernel.backward(g_S, q_S, k_P, v_P, out_S, lse_S, False, scale)
            own = kernel.backward(
                layout.pad(g_S),
                layout.pad(q_S),
                layout.pad(k_S),
                layout.pad(v_S),
                layout.pad(out_S),
                layout.pad(lse_S.unsqueeze(-1)).squeeze(-1),
                causal=True,
                scale=scale,
            )
            dq_S, dk_S, dv_S = (layout.unpad(x) for x in own)
            dq = torch.cat((dq, shared[0] + dq_S), dim=2)
            dk = torch.cat((dk + shared[1], dk_S), dim=2)
            dv = torch.cat((dv + shared[2], dv_S), dim=2)
        return dq, dk, dv, None, None


def _merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Join two softmaxes over disjoint keys into the softmax over both."""
    lse = torch.logaddexp(lse_a, lse_b)
    weight_a = torch.exp(lse_a - lse).unsqueeze(-1)
    out = torch.lerp(out_b.float(), out_a.float(), weight_a)
    return out.to(out_a.dtype), lse


def shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    group_layout: GroupLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' ``AttentionInterface`` asks.

    Without a layout this is transformers' own ``sdpa``, so that a model may keep the implementation
    for generation and for the recomputations of gradient checkpointing.

    Raises:
        NotShareableError: with a layout, where the layer asks for more than plain causal attention.
    """
    if group_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    _refuse_extras(dropout, group_layout.span, kwargs)
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(device, enabled=False):
        out: Tensor = SharedPromptAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, group_layout, scale
        )
    return out.transpose(1, 2), None


def _refuse_extras(dropout: float, span: int, kwargs: dict[str, Any]) -> None:
    """Raise for whatever a layer may ask beyond plain causal attention."""
    if dropout > 0:
        raise NotShareableError(f"attention dropout of {dropout}")
    window = kwargs.get("sliding_window")
    if window is not None and window < span:
        raise NotShareableError(f"a sliding window of {window} tokens over a span of {span}")
    for name in ("softcap", "s_aux", "position_bias", "head_mask", "cache"):
        if kwargs.get(name) is not None:
            raise NotShareableError(f"attention with {name}")


AttentionInterface.register(NAME, shared_prompt_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
