"""PyTorch's ragged flash attention on a CPU, a range at a time, so that calls to it can be tested.

What runs above it, ``torch.nn.attention.varlen`` included, is what runs above the CUDA kernel, and
what that kernel refuses is refused here (``mha_varlen_fwd`` and ``_bwd`` in PyTorch's sources).
"""

from contextlib import contextmanager
from itertools import pairwise

import torch
from torch.nn.attention import varlen  # noqa: F401  (it registers the operators)


@contextmanager
def flash_on_cpu():
    """Give the two operators an implementation for CPUs; yields the names of those called."""
    calls = []
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", _recorded(_forward, calls), "CPU")
    library.impl("_flash_attention_backward", _recorded(_backward, calls), "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _recorded(operator, calls):
    def call(*arguments, **named):
        calls.append(operator.__name__.strip("_"))
        return operator(*arguments, **named)

    return call


def _forward(q, k, v, ends_q, ends_k, max_q, max_k, dropout, causal, debug_mask, **named):
    _check(q, k, v, ends_q, ends_k, max_q, max_k, named)
    assert dropout == 0.0
    assert not debug_mask
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], q.shape[0])
    for own, keys in _ranges(ends_q, ends_k):
        scores = _scores(q[own], k[keys], causal, named["scale"])
        lse[:, own] = scores.logsumexp(-1)
        weights = scores.softmax(-1)
        out[own] = torch.einsum("hqk,khd->qhd", weights, _every_head(v[keys], q)).to(q.dtype)
    return out, lse, torch.zeros(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)


def _backward(
    grad_out,
    q,
    k,
    v,
    out,
    lse,
    ends_q,
    ends_k,
    max_q,
    max_k,
    dropout,
    causal,
    state,
    unused,
    **named,
):
    _check(q, k, v, ends_q, ends_k, max_q, max_k, named)
    assert dropout == 0.0
    assert (state.dtype, state.shape) == (torch.uint64, (2,))
    assert grad_out.shape == out.shape == q.shape
    assert grad_out.dtype == out.dtype == q.dtype
    assert (lse.dtype, lse.shape) == (torch.float32, (q.shape[1], q.shape[0]))
    assert lse.is_contiguous()
    found = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for own, keys in _ranges(ends_q, ends_k):
        g, key, value = grad_out[own].float(), _every_head(k[keys], q), _every_head(v[keys], q)
        weights = (_scores(q[own], k[keys], causal, named["scale"]) - lse[:, own, None]).exp()
        delta = (g * out[own].float()).sum(-1).T.unsqueeze(-1)
        grad_weights = torch.einsum("qhd,khd->hqk", g, value)
        grad_scores = weights * (grad_weights - delta) * named["scale"]
        gradients = (
            torch.einsum("hqk,khd->qhd", grad_scores, key),
            _each_key_head(torch.einsum("hqk,qhd->khd", grad_scores, q[own].float()), k),
            _each_key_head(torch.einsum("hqk,qhd->khd", weights, g), k),
        )
        for whole, place, gradient in zip(found, (own, keys, keys), gradients, strict=True):
            whole[place] = gradient.to(q.dtype)
    return found


def _check(q, k, v, ends_q, ends_k, max_q, max_k, named):
    """What the CUDA kernel requires."""
    assert (named["window_size_left"], named["window_size_right"]) == (-1, -1)
    assert q.dtype in (torch.float16, torch.bfloat16)
    for tensor, heads, ends in ((q, q.shape[1], ends_q), (k, k.shape[1], ends_k)):
        assert tensor.shape == (int(ends[-1]), heads, q.shape[-1])
    for tensor in (q, k, v):
        assert tensor.dtype == q.dtype
        assert tensor.stride(-1) == 1
    assert v.shape == k.shape
    assert q.shape[1] % k.shape[1] == 0
    assert q.shape[-1] % 8 == 0
    assert q.shape[-1] <= 256
    for ends, longest in ((ends_q, max_q), (ends_k, max_k)):
        assert ends.dtype == torch.int32
        assert ends.is_contiguous()
        assert longest >= int(ends.diff().max())
    assert len(ends_q) == len(ends_k) > 1
    if max_q == 1 and q.shape[1] > k.shape[1]:  # a way of its own, with one query in each range
        assert len(q) == len(ends_q) - 1


def _ranges(ends_q, ends_k):
    """Yield the places of each range's queries and keys."""
    for (low_q, high_q), (low_k, high_k) in zip(
        pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True
    ):
        yield slice(low_q, high_q), slice(low_k, high_k)


def _scores(q, k, causal, scale):
    """Scaled scores of one range, [H, Q, K]."""
    scores = torch.einsum("qhd,khd->hqk", q.float(), _every_head(k, q)) * scale
    if causal:
        future = torch.ones(len(q), len(k), dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores


def _every_head(k, q):
    """A key head for each query head, in full precision."""
    return k.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def _each_key_head(gradient, k):
    """Sum over the query heads that share a key head."""
    return gradient.unflatten(1, (k.shape[1], -1)).sum(2)
