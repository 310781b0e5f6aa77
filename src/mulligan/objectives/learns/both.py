from collections.abc import Sequence

from mulligan.config import Generate
from mulligan.objectives.base import Learn
from mulligan.objectives.spans import after_reflections
from mulligan.types import Group, Span


class Both(Learn):
    """The tokens of the reflection and of the retry, and of nothing between them."""

    learns_retry = True

    def spans(
        self, group: Group, advantages_G: Sequence[float], mask_truncated: bool
    ) -> list[Span]:
        """Return a span for each episode: reflection and retry, which both learn."""
        return after_reflections(group, advantages_G, mask_truncated, learns=(True, True))

    def longest(self, generate: Generate) -> int:
        """Return the longest reflection and answer together."""
        return generate.reflection_tokens + generate.answer_tokens
