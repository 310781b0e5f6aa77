"""Ragged attention spelt out: one softmax over a mask, in fp64."""

import torch

from mulligan.logprobs.kernels import Ranges

SCALE = 0.3


def make_ranges(queries, keys=None, device="cpu"):
    """Ranges that attend to themselves, causally, or to other keys, with a group for each."""
    own = keys is None
    return Ranges(
        tuple(queries),
        tuple(queries if own else keys),
        own,
        (1,) * len(queries),
        torch.device(device),
    )


def make_tensors(ranges, dim=8, dtype=torch.float32, device="cpu"):
    """Six query heads over two key heads: q, k, v and the gradient of the output."""
    torch.manual_seed(sum(ranges.queries) * 100 + sum(ranges.keys))
    q, grad_out = torch.randn(2, 6, sum(ranges.queries), dim)
    k, v = torch.randn(2, 2, sum(ranges.keys), dim)
    return tuple(x.to(device, dtype) for x in (q, k, v, grad_out))


def visible(ranges):
    """Which query sees which key, [Q, K]."""
    mask = torch.zeros(sum(ranges.queries), sum(ranges.keys), dtype=torch.bool)
    row = column = 0
    for queries, keys in zip(ranges.queries, ranges.keys, strict=True):
        block = torch.ones(queries, keys, dtype=torch.bool)
        mask[row : row + queries, column : column + keys] = block.tril() if ranges.causal else block
        row, column = row + queries, column + keys
    return mask


def spelt_out(ranges, q, k, v, grad_out):
    """Output, log-sum-exps and the gradients of q, k and v."""
    q, k, v = (x.double().cpu().requires_grad_() for x in (q, k, v))
    scores = SCALE * q @ k.repeat_interleave(3, dim=0).transpose(-1, -2)
    scores = scores.masked_fill(~visible(ranges), -torch.inf)
    out = scores.softmax(-1) @ v.repeat_interleave(3, dim=0)
    gradients = torch.autograd.grad(out, (q, k, v), grad_out.double().cpu())
    return out.detach(), scores.logsumexp(-1).detach(), gradients


def errors(kernel, ranges, tensors):
    """The largest error of each of out, lse, dq, dk and dv, as a share of its largest value."""
    q, k, v, grad_out = tensors
    expected_out, expected_lse, expected_gradients = spelt_out(ranges, *tensors)
    out, lse = kernel.forward(q, k, v, ranges, SCALE)
    found = kernel.backward(grad_out, q, k, v, out, lse, ranges, SCALE)
    pairs = zip((out, lse, *found), (expected_out, expected_lse, *expected_gradients), strict=True)
    return [
        ((a.double().cpu() - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs
    ]
