"""Laying sampled completions out as spans, and keeping those together that share a prompt."""

from collections.abc import Sequence

from mulligan.types import Completion, Episode, Group, Span, TokenIds


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


def after_reflections(
    group: Group, advantages_G: Sequence[float], mask_truncated: bool, learns: tuple[bool, bool]
) -> list[Span]:
    """Return reflection and retry of each episode as one span after the group's prompt.

    What stands between them, the retry request, never learns. Where the chat template rewrites
    earlier turns, so that the retry's prompt does not go on from the reflection, each that learns
    is a span of its own.

    Args:
        group: its episodes have retries.
        advantages_G: one for each.
        mask_truncated: whether a completion that the token limit cut off learns nothing.
        learns: whether the reflection learns, and whether the retry does.
    """
    rows = zip(group.episodes, group.retry_prompts_G, advantages_G, strict=True)
    return [span for row in rows for span in _both(group, *row, mask_truncated, learns)]


def _both(
    group: Group,
    episode: Episode,
    retry_prompt: TokenIds,
    advantage: float,
    mask_truncated: bool,
    learns: tuple[bool, bool],
) -> list[Span]:
    reflection, retry = episode.reflection, episode.retry
    assert reflection is not None
    assert retry is not None
    thought = sampled_span(group.prompt_ids, reflection, advantage, mask_truncated)
    again = sampled_span(retry_prompt, retry, advantage, mask_truncated)
    before = (*group.prompt_ids, *reflection.token_ids)
    if retry_prompt[: len(before)] != before:
        return [span for span, on in zip((thought, again), learns, strict=True) if on]
    request = retry_prompt[len(before) :]
    first, second = learns
    unknown = thought.logprobs is None or again.logprobs is None
    return [
        Span(
            group.prompt_ids,
            (*reflection.token_ids, *request, *retry.token_ids),
            (
                *(first and each for each in thought.learns),
                *(False for _ in request),
                *(second and each for each in again.learns),
            ),
            advantage,
            None
            if unknown
            else (*(thought.logprobs or ()), *(0.0 for _ in request), *(again.logprobs or ())),
        )
    ]
