"""One rectangular block of attention, with the log-sum-exp that lets blocks be merged.

A backward takes the ``out`` and ``lse`` of the whole softmax, of which the block may be a part.
"""

from typing import Protocol

import torch
from torch import Tensor


class Block(Protocol):
    """Attention of q [B, H, Q, D] over k, v [B, Hkv, K, D]; H is a multiple of Hkv."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return out [B, H, Q, D] and lse [B, H, Q] in fp32; ``causal`` needs Q == K."""
        ...

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the block's share of the gradients of q, k and v, in their shapes."""
        ...


class PlainBlock:
    """Matrix products and a softmax, on any device; scores of one block exist for a moment."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See ``Block.forward``."""
        scores = _scores(q, k, causal, scale)
        lse = torch.logsumexp(scores, dim=-1)
        weights = scores.sub_(lse.unsqueeze(-1)).exp_().to(q.dtype)
        out = (weights.flatten(2, 3) @ v).view_as(_fold(q, k)).flatten(1, 2)
        return out, lse.flatten(1, 2)

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Block.backward``."""
        scores = _scores(q, k, causal, scale)
        weights = scores.sub_(lse.view(scores.shape[:-1]).unsqueeze(-1)).exp_()
        grad_rows = _fold(grad_out, k).flatten(2, 3)
        delta = (grad_out.float() * out).sum(-1).view(scores.shape[:-1]).unsqueeze(-1)
        grad_v = weights.to(q.dtype).flatten(2, 3).transpose(-1, -2) @ grad_rows
        grad_weights = (grad_rows @ v.transpose(-1, -2)).view(scores.shape)
        grad_scores = weights.mul_(grad_weights - delta).mul_(scale).to(q.dtype).flatten(2, 3)
        grad_q = (grad_scores @ k).view_as(q)
        grad_k = grad_scores.transpose(-1, -2) @ _fold(q, k).flatten(2, 3)
        return grad_q, grad_k, grad_v


def _fold(q: Tensor, k: Tensor) -> Tensor:
    """Group the query heads by the key head that they share: [B, Hkv, H / Hkv, Q, D]."""
    batch, heads, length, dim = q.shape
    return q.view(batch, k.shape[1], heads // k.shape[1], length, dim)


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """Return scaled scores in fp32, [B, Hkv, H / Hkv, Q, K]."""
    folded = _fold(q, k)
    scores = (folded.flatten(2, 3) @ k.transpose(-1, -2)).float().mul_(scale)
    scores = scores.view(*folded.shape[:-1], k.shape[2])
    if causal:  # added: masked_fill_ takes a CPU ten times as long
        scores += scores.new_full((q.shape[2], k.shape[2]), -torch.inf).triu_(1)
    return scores


class CpuFlashBlock:
    """PyTorch's fused attention for CPUs, which never holds the scores of a block.

    Its backward in half precision is slow on many short blocks: with 8 completions of 150 tokens
    it takes three times as long as matrix products do, so those take the plain block.
    """

    SHORT = 256
    """Keys up to which a half-precision backward goes the plain way."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See ``Block.forward``."""
        repeats = q.shape[1] // k.shape[1]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, _repeat(k, repeats), _repeat(v, repeats), 0.0, causal, scale=scale
        )
        return out, lse

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Block.backward``."""
        if q.dtype != torch.float32 and k.shape[2] <= self.SHORT:
            return PlainBlock().backward(grad_out, q, k, v, out, lse, causal, scale)
        repeats = q.shape[1] // k.shape[1]
        grad_q, grad_k, grad_v = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out,
                q,
                _repeat(k, repeats),
                _repeat(v, repeats),
                out,
                lse,
                0.0,
                causal,
                scale=scale,
            )
        )
        return grad_q, _unrepeat(grad_k, repeats), _unrepeat(grad_v, repeats)


def _repeat(k: Tensor, repeats: int) -> Tensor:
    """Give every query head its own copy of the key head that it shares."""
    return k if repeats == 1 else k.repeat_interleave(repeats, dim=1)


def _unrepeat(grad_k: Tensor, repeats: int) -> Tensor:
    """Sum the gradients of the copies."""
    batch, heads, length, dim = grad_k.shape
    return grad_k.view(batch, heads // repeats, repeats, length, dim).sum(2)


class CudaFlashBlock:
    """PyTorch's fused attention for CUDA in half precision, which never holds the scores."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See ``Block.forward``."""
        repeats = q.shape[1] // k.shape[1]
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            q, _repeat(k, repeats), _repeat(v, repeats), 0.0, causal, scale=scale
        )
        return out, lse

    def backward(
        self,
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Block.backward``."""
        repeats = q.shape[1] // k.shape[1]
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        grad_q, grad_k, grad_v = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad_out,
            q,
            _repeat(k, repeats),
            _repeat(v, repeats),
            out,
            lse.contiguous(),
            None,
            None,
            q.shape[2],
            k.shape[2],
            0.0,
            causal,
            no_dropout,
            no_dropout,
            scale=scale,
        )
        return grad_q, _unrepeat(grad_k, repeats), _unrepeat(grad_v, repeats)
