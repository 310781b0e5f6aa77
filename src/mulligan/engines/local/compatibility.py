"""Whether a model can attend over trunks and branches, found out before it is relied on.

Two questions: does its architecture name a kind of attention that is not computed here, and do a
few random tokens give the same logits both ways.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.engines.local.attention import StreamCache, stream_attention
from mulligan.engines.local.layout import Layout, NewTokens, SharedTrunks
from mulligan.engines.local.plain import left_padded
from mulligan.engines.local.prefix_cache import Block
from mulligan.models.architecture import may_be_padded, why_not_shared

logger = logging.getLogger("mulligan")

_TRUNK, _BRANCHES = 7, (3, 2)
"""Tokens of the examined prompt and of what follows it in two rows."""
_TOKENS = _TRUNK + sum(_BRANCHES)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Mean difference of logits, in their standard deviations, that rounding explains."""
_TOLERANCE_OF_HALF = 0.1
_MORE_DRAWS = 6
"""Further texts, asked of a model whose first one differs by more.

In half precision rounding alone makes such a text now and then (one of 36, on weights of which the
others differed by 0.04); a model that attends otherwise differs in all of them.
"""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a few tokens told about a model."""

    token_bytes: int
    """Keys and values of one token, all layers; an estimate where the fast path is refused."""
    reason: str | None
    """Why the model must generate plainly, if it must."""
    pads: bool
    """Whether rows of unequal length may run together there."""


@torch.no_grad()
def examine(model: PreTrainedModel) -> Examination:
    """Run a few random tokens through the fast path and through the model's own attention."""
    pads = _padding_holds(model)
    reason = why_not_shared(model, _TOKENS)
    block = Block(1, _TRUNK)
    if reason is None:
        reason = _why_not_as_plain(model, block)
    if reason is not None:
        return Examination(_estimated_token_bytes(model), reason, pads)
    return Examination(block.nbytes // _TRUNK, None, pads)


def _why_not_as_plain(model: PreTrainedModel, block: Block) -> str | None:
    """Return how the fast path differs from the model's own attention, or ``None``."""

    def differs(ids: Tensor) -> float:
        trunk_ids, first, second = torch.split(ids, [_TRUNK, *_BRANCHES])
        with stream_attention(model):
            shared = _shared(model, block, trunk_ids, torch.cat([first, second]))
        plain = torch.cat([_plain(model, trunk_ids, branch) for branch in (first, second)])
        return _difference(shared, plain)

    # Whatever a foreign architecture may raise here, the answer is the plain path.
    try:
        difference = _typical(differs, model)
    except Exception as error:
        logger.debug("The fast path failed on %s", type(model).__name__, exc_info=True)
        return f"its attention cannot share a trunk ({type(error).__name__}: {error})"
    if difference <= _tolerance(model):
        return None
    return f"its logits would change by {difference:.2g} standard deviations"


def _padding_holds(model: PreTrainedModel) -> bool:
    """Whether a row padded on the left has the logits that it has alone."""
    if not may_be_padded(model, _TOKENS):
        return False

    def differs(ids: Tensor) -> float:
        rows = [ids[:_TRUNK].tolist(), ids.tolist()]
        both = model(**left_padded(rows, ids.device), use_cache=False).logits
        alone = model(input_ids=ids[None, :_TRUNK], use_cache=False).logits[0]
        return _difference(both[0, -_TRUNK:].float(), alone.float())

    try:
        return _typical(differs, model) <= _tolerance(model)
    except Exception:  # a foreign architecture may take no positions
        logger.debug("Padding failed on %s", type(model).__name__, exc_info=True)
        return False


def _typical(differs: Callable[[Tensor], float], model: PreTrainedModel) -> float:
    """Return by how much a text differs; of several, the median, where the first one differs."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        ids = torch.randint(model.config.vocab_size, (_TOKENS,), generator=generator)
        return ids.to(model.device)

    first = differs(draw())
    if first <= _tolerance(model):
        return first
    return median([first, *(differs(draw()) for _ in range(_MORE_DRAWS))])


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().mean() / expected.std())


def _tolerance(model: PreTrainedModel) -> float:
    return _TOLERANCE.get(model.dtype, _TOLERANCE_OF_HALF)


def _shared(model: PreTrainedModel, trunk: Block, trunk_ids: Tensor, branches: Tensor) -> Tensor:
    """Return logits of both branches after one shared trunk, shape [tokens, V]."""
    layout = Layout.build(trunk, NewTokens(0, [0], [_TRUNK]), model)
    forward(model, trunk_ids, layout)
    own = Block(len(_BRANCHES), max(_BRANCHES))
    trunks = SharedTrunks(trunk, [0, 0], [_TRUNK, _TRUNK])
    layout = Layout.build(own, NewTokens(0, [0, 0], _BRANCHES), model, trunks)
    return forward(model, branches, layout)


def forward(model: PreTrainedModel, ids: Tensor, layout: Layout) -> Tensor:
    """Return logits of a stream of tokens, shape [N, V], and file its keys and values."""
    logits: Tensor = model(
        input_ids=ids[None],
        position_ids=layout.positions_N[None],
        past_key_values=StreamCache(layout),
        use_cache=True,
        layout=layout,
    ).logits
    return logits[0].float()


def _plain(model: PreTrainedModel, trunk_ids: Tensor, branch: Tensor) -> Tensor:
    ids = torch.cat([trunk_ids, branch])[None]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[0, _TRUNK:].float()


def _estimated_token_bytes(model: PreTrainedModel) -> int:
    """Return what keys and values of one token take if every layer keeps full heads."""
    config = model.config.get_text_config()
    size = torch.finfo(model.dtype).bits // 8
    layers = getattr(config, "num_hidden_layers", 1)
    return int(2 * layers * getattr(config, "hidden_size", 1) * size)
