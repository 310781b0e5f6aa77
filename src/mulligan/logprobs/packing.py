"""One group as one stream of tokens, in which the shared prompt stands once.

The stream is ``[P | s_1 | ... | s_G]``. Every completion's positions go on from the prompt's end,
as if it stood alone behind the prompt. The last token of a completion predicts nothing that is
scored, so it is left out of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mulligan.types import TokenIds


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """The stream of one group, and where each completion token is predicted in it."""

    token_ids: TokenIds
    """The stream: the prompt, then every completion without its last token."""
    position_ids: tuple[int, ...]
    """Position of each token of the stream; each completion restarts at ``prompt_length``."""
    prompt_length: int
    segment_lengths_G: tuple[int, ...]
    """How many tokens of each completion are in the stream."""
    predictors: tuple[int, ...]
    """For each completion token, completion after completion, the place in the stream whose hidden
    state predicts it: the prompt's last token for the first one, its predecessor for the others."""
    targets: TokenIds
    """The completion tokens themselves, in the same order."""
    lengths_G: tuple[int, ...]
    """How many tokens each completion has; 0 for an empty one."""


def pack(prompt_ids: TokenIds, completions: Sequence[TokenIds]) -> PackedGroup:
    """Lay a group out as one stream.

    An empty completion has no place in the stream, no predictor and no target.

    Raises:
        ValueError: the prompt is empty, so that nothing predicts the first token.
    """
    if not prompt_ids:
        raise ValueError("a group needs a prompt of at least one token; got an empty one")
    token_ids, position_ids = list(prompt_ids), list(range(len(prompt_ids)))
    predictors: list[int] = []
    for completion in completions:
        if not completion:
            continue
        start = len(token_ids)
        seen = completion[:-1]
        predictors += [len(prompt_ids) - 1, *range(start, start + len(seen))]
        token_ids += seen
        position_ids += range(len(prompt_ids), len(prompt_ids) + len(seen))
    return PackedGroup(
        token_ids=tuple(token_ids),
        position_ids=tuple(position_ids),
        prompt_length=len(prompt_ids),
        segment_lengths_G=tuple(max(len(completion) - 1, 0) for completion in completions),
        predictors=tuple(predictors),
        targets=tuple(token for completion in completions for token in completion),
        lengths_G=tuple(len(completion) for completion in completions),
    )


def split_group(prompt_length: int, lengths_G: Sequence[int], max_tokens: int) -> list[slice]:
    """Cut a group into parts whose streams have at most ``max_tokens`` tokens.

    Each part computes the prompt anew; since the loss is a sum over completions, the sum of the
    parts' gradients is the gradient of the whole. A completion that does not fit with the prompt
    gets a part of its own, longer than the limit: it cannot be cut.

    Args:
        prompt_length: tokens of the prompt.
        lengths_G: tokens of each completion.
        max_tokens: the longest stream wanted.

    Returns:
        Slices over the group's completions, in order, covering each exactly once.
    """
    parts: list[slice] = []
    start, tokens = 0, prompt_length
    for index, length in enumerate(lengths_G):
        if index > start and tokens + length > max_tokens:
            parts.append(slice(start, index))
            start, tokens = index, prompt_length
        tokens += length
    return [*parts, slice(start, len(lengths_G))]
