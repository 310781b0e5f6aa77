"""Laying sampled completions out as spans, and keeping those together that share a prompt."""

from collections.abc import Sequence

from mulligan.types import Completion, Span, TokenIds


def sampled_span(
    prompt_ids: TokenIds, completion: Completion, advantage: float, mask_truncated: bool
) -> Span:
    """Return a completion after its prompt, all of whose tokens learn.

    With ``mask_truncated``, none do where the token limit cut the completion off.
    """
    learns = not (mask_truncated and completion.finish_reason == "length")
    size = len(completion.token_ids)
    return Span(prompt_ids, completion.token_ids, (learns,) * size, advantage, completion.logprobs)


def by_prompt(spans: Sequence[Span]) -> list[list[Span]]:
    """Return spans with those of one prompt together, in order of their first ones."""
    together: dict[TokenIds, list[Span]] = {}
    for span in spans:
        together.setdefault(span.prompt_ids, []).append(span)
    return list(together.values())
