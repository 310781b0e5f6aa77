from collections.abc import Sequence

from mulligan.config import Generate
from mulligan.objectives.base import Learn
from mulligan.objectives.spans import sampled_span
from mulligan.types import Group, Span


class FirstTry(Learn):
    """Fresh attempts at the problems of the failures, without failure or reflection: plain GRPO.

    The baseline of reinforcement learning from verifiable rewards. The problems are those of the
    stored failures, so that it and the method see the same ones.
    """

    samples = "first try"

    def spans(
        self, group: Group, advantages_G: Sequence[float], mask_truncated: bool
    ) -> list[Span]:
        """Return a span for each attempt; all share the problem's prompt."""
        return [
            sampled_span(group.prompt_ids, episode.retry, advantage, mask_truncated)
            for episode, advantage in zip(group.episodes, advantages_G, strict=True)
            if episode.retry is not None
        ]

    def longest(self, generate: Generate) -> int:
        """Return the longest answer."""
        return generate.answer_tokens
