"""Groups as one stream of tokens, in which each prompt stands once.

The stream of n groups is ``[P_1 | ... | P_n | s_11 | ... | s_1G | s_21 | ...]``: prompts first, so
that all prompts are one piece of the stream, and all completions another. Every completion's
positions go on from its prompt's end, as if it stood alone behind the prompt. The last token of a
completion predicts nothing that is scored, so it is left out of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mulligan.types import TokenIds

Scored = Sequence[Sequence[bool]]
"""For each completion, which of its tokens are scored; the others need no vocabulary head."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt and the completions that follow it."""

    prompt_ids: TokenIds
    completions: Sequence[TokenIds]
    """Ragged; there may be empty ones."""
    scored: Scored | None = None
    """All tokens by default."""

    @property
    def tokens(self) -> int:
        """Tokens of prompt and completions."""
        return len(self.prompt_ids) + sum(map(len, self.completions))


@dataclass(frozen=True, slots=True)
class PackedStream:
    """The stream of some groups, and where each completion token is predicted in it."""

    token_ids: TokenIds
    """The stream: every prompt, then every completion without its last token."""
    position_ids: tuple[int, ...]
    """Position of each token of the stream; each completion restarts at its prompt's length."""
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    """For each group, tokens of its prompt and of each of its completions in the stream."""
    predictors: tuple[int, ...]
    """For each completion token, completion after completion, the place in the stream whose hidden
    state predicts it: the prompt's last token for the first one, its predecessor for the others."""
    targets: TokenIds
    """The completion tokens themselves, in the same order."""


def pack(groups: Sequence[PromptGroup]) -> PackedStream:
    """Lay groups out as one stream.

    An empty completion has no place in the stream, no predictor and no target.

    Raises:
        ValueError: a prompt is empty, so that nothing predicts the first token.
    """
    require_prompts(groups)
    token_ids = [token for group in groups for token in group.prompt_ids]
    position_ids = [place for group in groups for place in range(len(group.prompt_ids))]
    predictors: list[int] = []
    prompt_end = 0
    for group in groups:
        length = len(group.prompt_ids)
        prompt_end += length
        for completion in filter(None, group.completions):
            start, seen = len(token_ids), completion[:-1]
            predictors += [prompt_end - 1, *range(start, start + len(seen))]
            token_ids += seen
            position_ids += range(length, length + len(seen))
    return PackedStream(
        token_ids=tuple(token_ids),
        position_ids=tuple(position_ids),
        groups=tuple(
            (len(each.prompt_ids), tuple(max(len(ids) - 1, 0) for ids in each.completions))
            for each in groups
        ),
        predictors=tuple(predictors),
        targets=tuple(token for each in groups for ids in each.completions for token in ids),
    )


def require_prompts(groups: Sequence[PromptGroup]) -> None:
    """Refuse an empty prompt: nothing would predict the first token."""
    if not all(group.prompt_ids for group in groups):
        raise ValueError("a group needs a prompt of at least one token; got an empty one")


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


def join_groups(tokens_N: Sequence[int], max_tokens: int) -> list[slice]:
    """Put consecutive groups together, up to ``max_tokens`` tokens; a larger one stands alone.

    Args:
        tokens_N: tokens of each group.
        max_tokens: the longest stream wanted.

    Returns:
        Slices over the groups, in order, covering each exactly once.
    """
    streams: list[slice] = []
    start = total = 0
    for index, tokens in enumerate(tokens_N):
        if index > start and total + tokens > max_tokens:
            streams.append(slice(start, index))
            start, total = index, 0
        total += tokens
    return [*streams, slice(start, len(tokens_N))] if tokens_N else []
