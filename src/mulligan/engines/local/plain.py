"""Generation without tricks: every row computes its whole prompt with transformers' own cache.

For models that cannot take the fast path. Attention models run rows of unequal length together,
padded on the left; where padding would reach a recurrent state, or move positions, rows run
together only when they are equally long. A model with a cache of its own generates without one,
each token after a forward pass over all before it.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from mulligan.models.architecture import length_of_fixed_positions
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
    *,
    pad: bool,
) -> list[Sampled]:
    """Return tokens and log-probabilities for each prompt.

    Args:
        model: any causal language model of transformers.
        prompts: one row each.
        max_tokens: the longest completion.
        eos_ids: tokens that end a completion.
        rows_that_fit: how many rows of so many tokens fit in memory together.
        draw: how a token is drawn for rows, which are named by their place in ``prompts``.
        pad: whether rows of unequal length may run together, padded on the left.
    """
    results: dict[int, Sampled] = {}
    lengths = [len(prompt) for prompt in prompts]
    for wave in _waves(lengths, lambda length: rows_that_fit(length + max_tokens), pad):
        sampled = _wave(model, [prompts[row] for row in wave], wave, max_tokens, eos_ids, draw)
        results.update(zip(wave, sampled, strict=True))
    return [results[row] for row in range(len(prompts))]


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """Return a model's inputs for rows of tokens, each at the end of its line.

    Rows of equal length need no mask, and get none.
    """
    width = max(map(len, rows))
    padded = [[0] * (width - len(row)) + list(row) for row in rows]
    inputs = {"input_ids": torch.tensor(padded, device=device)}
    if any(len(row) < width for row in rows):
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        inputs["attention_mask"] = torch.tensor(mask, device=device)
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return inputs


def _waves(
    lengths: Sequence[int], rows_that_fit: Callable[[int], int], pad: bool
) -> Iterator[list[int]]:
    """Yield rows that run together, short ones first."""
    wave: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        fits = len(wave) < rows_that_fit(lengths[row])
        if wave and not (fits and (pad or lengths[row] == lengths[wave[0]])):
            yield wave
            wave = []
        wave.append(row)
    if wave:
        yield wave


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
    cache = _cache_option(model)
    forward = _Cached(model, prompts, cache) if cache else _Uncached(model, prompts)
    for step in range(max_tokens):
        tokens, logprobs = draw(forward.logits(), rows, step)
        for at in list(open_rows):
            sampled[at][0].append(tokens[at])
            sampled[at][1].append(logprobs[at])
            if tokens[at] in eos_ids:
                open_rows.remove(at)
        if not open_rows:
            break
        forward.add(tokens)
    return sampled


class _Cached:
    """Computes the prompts once, and one token of each row after that.

    Once more where the rows become so long that their positions change (longrope).
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[TokenIds], option: str) -> None:
        self._model = model
        self._option = option
        self._rows = [list(prompt) for prompt in prompts]
        self._limit = length_of_fixed_positions(model.config.get_text_config())
        self._start()

    def _start(self) -> None:
        self._cache = {self._option: DynamicCache(config=self._model.config)}
        self._inputs = left_padded(self._rows, self._model.device)

    def logits(self) -> Tensor:
        """Return the logits of the next token of each row, [B, V]."""
        out = self._model(**self._inputs, **self._cache, use_cache=True, **last_only(self._model))
        logits: Tensor = out.logits[:, -1]
        return logits

    def add(self, tokens: Sequence[int]) -> None:
        """Go on with a token for each row."""
        _append(self._rows, tokens)
        if self._limit is not None and len(self._rows[0]) == self._limit + 1:
            self._start()  # rows that may grow so long are equally long
            return
        self._inputs["input_ids"] = torch.tensor(tokens, device=self._model.device)[:, None]
        if "attention_mask" in self._inputs:
            mask = self._inputs["attention_mask"]
            self._inputs["attention_mask"] = torch.cat([mask, mask.new_ones(len(tokens), 1)], 1)
            self._inputs["position_ids"] = self._inputs["position_ids"][:, -1:] + 1


class _Uncached:
    """Computes everything anew for each token."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[TokenIds]) -> None:
        self._model = model
        self._rows = [list(prompt) for prompt in prompts]

    def logits(self) -> Tensor:
        """Return the logits of the next token of each row, [B, V]."""
        inputs = left_padded(self._rows, self._model.device)
        logits: Tensor = self._model(**inputs, use_cache=False, **last_only(self._model)).logits[
            :, -1
        ]
        return logits

    def add(self, tokens: Sequence[int]) -> None:
        """Go on with a token for each row."""
        _append(self._rows, tokens)


def _append(rows: Sequence[list[int]], tokens: Sequence[int]) -> None:
    for row, token in zip(rows, tokens, strict=True):
        row.append(token)


def _cache_option(model: PreTrainedModel) -> str | None:
    """Return what a model calls transformers' own cache, or ``None`` where it takes none."""
    if not type(model)._supports_default_dynamic_cache():  # type: ignore[attr-defined]
        return None
    takes = inspect.signature(model.forward).parameters
    return next((name for name in ("past_key_values", "cache_params") if name in takes), None)


def last_only(model: PreTrainedModel) -> dict[str, Any]:
    """Return the option that has the head compute the last position only, where there is one."""
    takes = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if takes else {}
