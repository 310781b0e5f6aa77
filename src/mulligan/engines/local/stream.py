"""The model over a flat stream of tokens that belong to rows of a block of keys and values.

Prompts of different lengths are computed as one flat stream, without padding and without the
vocabulary head.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.engines.local.attention import StreamCache
from mulligan.engines.local.layout import Layout, NewTokens, SharedTrunks
from mulligan.engines.local.prefix_cache import Block, Trunk
from mulligan.types import TokenIds

_STREAM_TOKENS = 1024
"""Tokens of one prefill pass: enough for full speed, few enough that the
scores of their attention take little memory."""
_PADDED_TOKENS = 2 * _STREAM_TOKENS
"""Bound for the tokens of a pass were all its rows as long as the longest: attention pads them."""


class Stream:
    """Computes what is missing of the rows of a block.

    Args:
        model: attends by layouts (see ``attention.stream_attention``).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def prefill(
        self,
        block: Block,
        starts: Sequence[int],
        tokens: Sequence[TokenIds],
        trunks: Sequence[Trunk] | None,
    ) -> None:
        """Compute keys and values of ``tokens[b]`` for slot b of the block, from ``starts[b]`` on.

        Args:
            block: where they go.
            starts: columns that are filled already.
            tokens: what to compute.
            trunks: what each row continues, all of one block; ``None`` where rows begin anew.
        """
        done = [0] * len(tokens)
        for first, counts in _passes([len(t) for t in tokens]):
            part = range(first, first + len(counts))
            at = [starts[b] + done[b] for b in part]
            stream = [
                t
                for b, count in zip(part, counts, strict=True)
                for t in tokens[b][done[b] : done[b] + count]
            ]
            layout = self._layout(block, first, at, counts, trunks and [trunks[b] for b in part])
            self._forward(stream, layout, head=False)
            for b, count in zip(part, counts, strict=True):
                done[b] += count

    def decode(
        self, block: Block, starts: Sequence[int], tokens: Sequence[int], trunks: Sequence[Trunk]
    ) -> Tensor:
        """Return logits after one more token of each row, shape [B, V]."""
        layout = self._layout(block, 0, starts, [1] * len(tokens), trunks)
        return self._forward(tokens, layout, head=True)

    def _layout(
        self,
        block: Block,
        first: int,
        starts: Sequence[int],
        counts: Sequence[int],
        trunks: Sequence[Trunk] | None,
    ) -> Layout:
        shared = None
        if trunks is not None:
            slots, lengths = [t.slot for t in trunks], [t.length for t in trunks]
            shared = SharedTrunks(trunks[0].block, slots, lengths)
        return Layout.build(block, NewTokens(first, starts, counts), self._model, shared)

    def _forward(self, tokens: Sequence[int], layout: Layout, head: bool) -> Tensor:
        """Run the model over a stream; the head scores every token, or next to none."""
        device = self._model.device
        out = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=layout.positions_N[None],
            past_key_values=StreamCache(layout),
            use_cache=True,
            logits_to_keep=0 if head else 1,
            layout=layout,
        )
        logits: Tensor = out.logits[0]
        return logits


def _passes(lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Split rows of tokens into passes: the first row, and how many tokens of it and the next.

    Neighbouring rows go together while their tokens fit; a longer row goes alone, in pieces.
    """
    first, counts = 0, list[int]()
    for row, length in enumerate(lengths):
        padded = (len(counts) + 1) * max([length, *counts])
        if counts and (sum(counts) + length > _STREAM_TOKENS or padded > _PADDED_TOKENS):
            if any(counts):
                yield first, counts
            first, counts = row, []
        pieces, rest = divmod(length, _STREAM_TOKENS)
        for _ in range(pieces):
            yield row, [_STREAM_TOKENS]
        counts.append(rest)
    if any(counts):
        yield first, counts
