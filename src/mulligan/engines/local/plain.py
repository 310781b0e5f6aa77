"""Generation without tricks: every row computes its whole prompt with transformers' own cache.

For models that cannot take the fast path. Rows run together only when their prompts are equally
long, so nothing is padded and models with a recurrent state are right too.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from mulligan.types import TokenIds

Draw = Callable[[Tensor, Sequence[int], int], tuple[list[int], list[float]]]
"""(logits [B, V], rows, step) to the tokens drawn and their log-probabilities."""
Sampled = tuple[list[int], list[float]]


def generate_plainly(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    max_tokens: int,
    eos_ids: frozenset[int],
    rows_that_fit: Callable[[int], int],
    draw: Draw,
) -> list[Sampled]:
    """Return tokens and log-probabilities for each prompt.

    Args:
        model: any causal language model of transformers.
        prompts: one row each.
        max_tokens: the longest completion.
        eos_ids: tokens that end a completion.
        rows_that_fit: how many rows of so many tokens fit in memory together.
        draw: how a token is drawn for rows, which are named by their place in ``prompts``.
    """
    results: dict[int, Sampled] = {}
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for length, group in groupby(by_length, key=lambda row: len(prompts[row])):
        rows = list(group)
        step = rows_that_fit(length + max_tokens)
        for at in range(0, len(rows), step):
            wave = rows[at : at + step]
            sampled = _wave(model, [prompts[row] for row in wave], wave, max_tokens, eos_ids, draw)
            results.update(zip(wave, sampled, strict=True))
    return [results[row] for row in range(len(prompts))]


def _wave(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    rows: Sequence[int],
    max_tokens: int,
    eos_ids: frozenset[int],
    draw: Draw,
) -> list[Sampled]:
    sampled: list[Sampled] = [([], []) for _ in rows]
    open_rows = set(range(len(rows)))
    cache = DynamicCache(config=model.config)
    inputs = torch.tensor(prompts, device=model.device)
    for step in range(max_tokens):
        out = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        tokens, logprobs = draw(out.logits[:, -1], rows, step)
        for at in list(open_rows):
            sampled[at][0].append(tokens[at])
            sampled[at][1].append(logprobs[at])
            if tokens[at] in eos_ids:
                open_rows.remove(at)
        if not open_rows:
            break
        inputs = torch.tensor(tokens, device=model.device)[:, None]
    return sampled
