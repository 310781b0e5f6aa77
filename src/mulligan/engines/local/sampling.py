"""Drawing the next token: one uniform number against the cumulative distribution.

Avoids noise for every logit of a large vocabulary (a third of a step when drawn the usual way);
the cumulative sum is taken over blocks of tokens first and within the one chosen block after.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 128
"""Tokens of a vocabulary block: near the square root of common sizes, so both sums are short."""

_AT_ONCE = 1 << 22
"""Logits of the rows that a CPU draws for together: 16 MiB of float32. A block of more than 32 MiB
would be the system's again after every token (see `mulligan.models.heap`)."""


def uniforms(seed: int, rows: Sequence[tuple[int, int]], length: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), shape [rows, length], row (i, j) from a stream of its own.

    A row's numbers depend on the seed, i and j only: Philox counts from (i, j, 0), so streams do
    not overlap and no row's draws depend on when another row ends.
    """
    numbers = np.empty((len(rows), length))
    for at, (i, j) in enumerate(rows):
        stream = np.random.Philox(key=seed % 2**64, counter=[0, 0, j, i])
        numbers[at] = np.random.Generator(stream).random(length)
    return numbers


def draw(logits_BV: Tensor, temperature: float, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits_BV: the model's logits, any float type.
        temperature: greater than 0 divides the logits; 0 takes the most likely token.
        uniforms_B: one float64 number in [0, 1) a row.

    Returns:
        tokens [B] and their log-probabilities [B] (float32) under the distribution drawn from; at
        temperature 0 under the model's own distribution.
    """
    parts = 1 if logits_BV.is_cuda else min(-(-logits_BV.numel() // _AT_ONCE), len(logits_BV))
    rows = zip(logits_BV.tensor_split(parts), uniforms_B.tensor_split(parts), strict=True)
    tokens, logprobs = zip(*(_draw(logits, temperature, own) for logits, own in rows), strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw(logits_BV: Tensor, temperature: float, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    weights_BV = logits_BV.to(torch.float32, copy=True)
    if temperature > 0:
        torch.softmax(weights_BV.div_(temperature), dim=-1, out=weights_BV)
        token_B1 = _invert_in_blocks(weights_BV, uniforms_B[:, None])
    else:
        token_B1 = _largest(weights_BV)
        torch.softmax(weights_BV, dim=-1, out=weights_BV)
    return token_B1[:, 0], weights_BV.gather(1, token_B1).log()[:, 0]


def _invert_in_blocks(weights_BV: Tensor, uniforms_B1: Tensor) -> Tensor:
    """Return the token at which the cumulative weight passes the uniform, shape [B, 1]."""
    blocks_BKW = _in_blocks(weights_BV)
    mass_BK = blocks_BKW.sum(dim=-1).double()
    block_B1, rest_B1 = _invert(mass_BK, uniforms_B1)
    index = block_B1[:, :, None].expand(-1, -1, _BLOCK)
    inside_BW = blocks_BKW.gather(1, index)[:, 0].double()
    return block_B1 * _BLOCK + _invert(inside_BW, rest_B1)[0]


def _largest(logits_BV: Tensor) -> Tensor:
    """Return the index of each row's largest logit, the first one of equals, shape [B, 1].

    Avoids ``argmax`` over a whole row, which in bfloat16 took a CPU 20 times as long.
    """
    blocks_BKW = _in_blocks(logits_BV, -torch.inf)
    block_B1 = blocks_BKW.amax(dim=-1).argmax(dim=-1, keepdim=True)
    index = block_B1[:, :, None].expand(-1, -1, _BLOCK)
    inside_BW = blocks_BKW.gather(1, index)[:, 0]
    return block_B1 * _BLOCK + inside_BW.argmax(dim=-1, keepdim=True)


def _in_blocks(weights_BV: Tensor, fill: float = 0.0) -> Tensor:
    """Return the weights as [B, blocks, block size], filled up at the end."""
    missing = -weights_BV.shape[1] % _BLOCK
    if missing:
        weights_BV = F.pad(weights_BV, (0, missing), value=fill)
    return weights_BV.view(weights_BV.shape[0], -1, _BLOCK)


def _invert(weights_BK: Tensor, uniforms_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index at which the cumulative weight passes the uniform, and what is left of it.

    What is left is again uniform in [0, 1): the place within the chosen index's own weight. An
    index of weight zero is never chosen, because the sum does not rise there.
    """
    cumulative_BK = weights_BK.cumsum(dim=-1)
    # Rounding may lift a product with a uniform near 1 up to the total, past every index.
    target_B1 = uniforms_B1.clamp(max=1 - 1e-12) * cumulative_BK[:, -1:]
    index_B1 = torch.searchsorted(cumulative_BK, target_B1, right=True)
    weight_B1 = weights_BK.gather(1, index_B1)
    before_B1 = cumulative_BK.gather(1, index_B1) - weight_B1
    return index_B1, ((target_B1 - before_B1) / weight_B1).clamp(0.0, 1 - 1e-12)
