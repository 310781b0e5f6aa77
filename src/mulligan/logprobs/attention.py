"""Attention over a packed stream in which each group's prompt stands once.

What it saves: a group's prompt is attended to by all of its completions in one call, without a mask
and without copies; nothing larger than the tokens themselves is kept for the backward. It reaches
every model that uses transformers' ``AttentionInterface``. When it does not apply (attention
dropout, soft-capped scores, sliding windows shorter than the span, attention sinks) it says so by
raising.

How: three ragged calls, however many groups there are. Each prompt attends to itself; the
completion tokens of each group attend to its prompt; each completion attends to itself. The two
calls that share queries are merged by their log-sum-exps:

    lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

Backward, a softmax's gradient is a sum over keys once the merged ``out`` and ``lse`` are known
(FlashAttention-2, arXiv 2307.08691, algorithm 2), so each call runs its ordinary backward on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mulligan.logprobs.kernels import Ranges, choose_kernel

NAME = "mulligan_shared_prompt"
"""What the implementation is called in a model's configuration."""


class NotShareableError(Exception):
    """This attention layer does something that the shared prompt does not reproduce."""


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """Where prompts and completions are in a packed stream, for every layer of one forward.

    All prompts come first, then all completions, group after group.
    """

    prompt_tokens: int
    """Tokens of all prompts."""
    prompts: Ranges
    """Each prompt attends to itself."""
    shared: Ranges
    """The completion tokens of each group attend to its prompt."""
    own: Ranges
    """Each completion attends to itself."""
    span: int
    """The longest distance over which a token attends."""

    @classmethod
    def create(
        cls, groups: Sequence[tuple[int, Sequence[int]]], device: torch.device
    ) -> "StreamLayout":
        """Lay out groups, each a prompt's length and those of its completions in the stream."""
        prompts = tuple(length for length, _ in groups)
        segments = [[length for length in lengths_G if length] for _, lengths_G in groups]
        completed = tuple(sum(lengths_G) for lengths_G in segments)
        own = tuple(length for lengths_G in segments for length in lengths_G)
        single, counts = (1,) * len(groups), tuple(map(len, segments))
        return cls(
            prompt_tokens=sum(prompts),
            prompts=Ranges(prompts, prompts, True, single, device),
            shared=Ranges(completed, prompts, False, single, device),
            own=Ranges(own, own, True, counts, device),
            span=max(p + max(g, default=0) for p, g in zip(prompts, segments, strict=True)),
        )


class SharedPromptAttention(torch.autograd.Function):
    """Attention of a packed stream: q [H, T, D], k and v [Hkv, T, D] -> out [H, T, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: StreamLayout, scale: float
    ) -> Tensor:
        """Attend in three calls; keep only what grows with the tokens."""
        kernel, P = choose_kernel(q), layout.prompt_tokens
        (q_P, q_S), (k_P, k_S), (v_P, v_S) = (x.tensor_split((P,), dim=1) for x in (q, k, v))
        out, lse = kernel.forward(q_P, k_P, v_P, layout.prompts, scale)
        if layout.own.queries:
            shared = kernel.forward(q_S, k_P, v_P, layout.shared, scale)
            own = kernel.forward(q_S, k_S, v_S, layout.own, scale)
            out_S, lse_S = _merge(*shared, *own)
            out, lse = torch.cat((out, out_S), dim=1), torch.cat((lse, lse_S), dim=1)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Run each call's backward on the merged out and lse, and add up."""
        q, k, v, out, lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        kernel, P = choose_kernel(q), layout.prompt_tokens
        (g_P, g_S), (q_P, q_S), (k_P, k_S), (v_P, v_S), (out_P, out_S), (lse_P, lse_S) = (
            x.tensor_split((P,), dim=1) for x in (grad_out, q, k, v, out, lse)
        )
        dq, dk, dv = kernel.backward(g_P, q_P, k_P, v_P, out_P, lse_P, layout.prompts, scale)
        if layout.own.queries:
            shared = kernel.backward(g_S, q_S, k_P, v_P, out_S, lse_S, layout.shared, scale)
            own = kernel.backward(g_S, q_S, k_S, v_S, out_S, lse_S, layout.own, scale)
            dq = torch.cat((dq, shared[0] + own[0]), dim=1)
            dk = torch.cat((dk + shared[1], own[1]), dim=1)
            dv = torch.cat((dv + shared[2], own[2]), dim=1)
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
    stream_layout: StreamLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' ``AttentionInterface`` asks.

    Without a layout this is transformers' own ``sdpa``, so that a model may keep the implementation
    for generation and for the recomputations of gradient checkpointing.

    Raises:
        NotShareableError: with a layout, where the layer asks for more than plain causal attention.
    """
    if stream_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    _refuse_extras(dropout, stream_layout.span, kwargs)
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(device, enabled=False):
        out: Tensor = SharedPromptAttention.apply(  # type: ignore[no-untyped-call]
            query[0], key[0], value[0], stream_layout, scale
        )
    return out.unsqueeze(0).transpose(1, 2), None


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
