"""Drift without any data set: divergence on the task's prompts and on English, and perplexity.

How much a model forgets is predicted by how far it moved on the prompts it was trained on (Shenfeld
et al., RL's Razor, 2509.04259). English that no training saw comes with Python itself: the topics
of its documentation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mulligan.engines.base import Engine
from mulligan.evaluation.forgetting.records import Checkpoint, Drift, Estimate, Perplexity, Stage
from mulligan.evaluation.statistics import Interval, resample_sums
from mulligan.types import Sampling, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mulligan.logprobs.divergence import Compared

WINDOW = 256
"""Tokens of English that are read together: a piece is compared given those before it."""

Text = tuple[TokenIds, TokenIds]
"""What comes before, and the tokens that are compared."""
Models = Mapping[Checkpoint, "PreTrainedModel"]
Tick = Callable[[int], None]


def stages(checkpoints: Sequence[Checkpoint]) -> list[Stage]:
    """Return each step between checkpoints, then the whole way where it has several steps."""
    steps = list(pairwise(checkpoints))
    return steps if len(steps) < 2 else [*steps, (checkpoints[0], checkpoints[-1])]


def english(
    tokenizer: "PreTrainedTokenizerBase", tokens: int, context: int | None = None
) -> list[Text]:
    """Return windows of Python's own documentation, as many as hold ``tokens`` tokens.

    The first token of a window is context only. Topics are taken in the order of their names. A
    window is shorter where the model's ``context`` is.
    """
    from pydoc_data.topics import topics

    size = WINDOW if context is None else min(WINDOW, context - 1)
    windows: list[Text] = []
    found = 0
    for name in sorted(topics):
        ids = tokenizer.encode(topics[name], add_special_tokens=False)
        for start in range(0, len(ids) - 1, size):
            if found >= tokens:
                return windows
            piece = tuple(ids[start : start + size + 1])[: tokens - found + 1]
            windows.append((piece[:1], piece[1:]))
            found += len(piece) - 1
    return windows


def answers(engine: Engine, prompts: Sequence[TokenIds], max_tokens: int, seed: int) -> list[Text]:
    """Return a model's own answers to prompts, at temperature 1: its distribution as it is."""
    made = engine.generate(prompts, 1, Sampling(1.0, max_tokens, seed))
    return [(tuple(p), row[0].token_ids) for p, row in zip(prompts, made, strict=True)]


def compare(models: Models, texts: Sequence[Text], tick: Tick) -> "list[Compared]":
    """Compare all checkpoints on each text."""
    from mulligan.logprobs.divergence import compare_models

    found = []
    for before, after in texts:
        found.append(compare_models(list(models.values()), before, after))
        tick(len(after))
    return found


def english_drifts(
    checkpoints: Sequence[Checkpoint], found: "Sequence[Compared]"
) -> Iterator[Drift]:
    """Yield how far checkpoints are apart on English."""
    for first, second in stages(checkpoints):
        i, j = checkpoints.index(first), checkpoints.index(second)
        yield Drift(
            first, second, "english", _tokens(found), _mean(found, i, j), _mean(found, j, i)
        )


def task_drifts(
    checkpoints: Sequence[Checkpoint], found: "Mapping[Checkpoint, Sequence[Compared]]"
) -> Iterator[Drift]:
    """Yield how far checkpoints are apart on the task, each direction on its own answers.

    ``found[c]`` compares all checkpoints on what checkpoint ``c`` answers.
    """
    for first, second in stages(checkpoints):
        i, j = checkpoints.index(first), checkpoints.index(second)
        tokens = _tokens(found[first]) + _tokens(found[second])
        forward, backward = _mean(found[first], i, j), _mean(found[second], j, i)
        yield Drift(first, second, "task", tokens, forward, backward)


def perplexities(
    checkpoints: Sequence[Checkpoint], found: "Sequence[Compared]"
) -> Iterator[Perplexity]:
    """Yield each checkpoint's perplexity; windows are resampled for its interval."""
    counts = [each.tokens for each in found]
    for place, checkpoint in enumerate(checkpoints):
        surprise = resample_sums([each.surprise_M[place] for each in found], counts).interval()
        value = Estimate(*(math.exp(each) for each in _parts(surprise)))
        yield Perplexity(checkpoint, _tokens(found), value)


def _mean(found: "Sequence[Compared]", i: int, j: int) -> Estimate:
    sums = [each.divergence_MM[i][j] for each in found]
    return Estimate(*_parts(resample_sums(sums, [each.tokens for each in found]).interval()))


def _parts(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _tokens(found: "Sequence[Compared]") -> int:
    return sum(each.tokens for each in found)
