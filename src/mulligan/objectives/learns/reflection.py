from collections.abc import Sequence

from mulligan.config import Generate
from mulligan.objectives.base import Learn
from mulligan.objectives.spans import sampled_span
from mulligan.types import Group, Span


class Reflection(Learn):
    """The tokens of the reflection, and no others: the method."""

    def spans(
        self, group: Group, advantages_G: Sequence[float], mask_truncated: bool
    ) -> list[Span]:
        """Return a span for each reflection; all share the conversation before it."""
        return [
            sampled_span(group.prompt_ids, episode.reflection, advantage, mask_truncated)
            for episode, advantage in zip(group.episodes, advantages_G, strict=True)
            if episode.reflection is not None
        ]

    def longest(self, generate: Generate) -> int:
        """Return the longest reflection."""
        return generate.reflection_tokens
