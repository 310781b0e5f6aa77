from collections.abc import Sequence

from mulligan.config import Generate
from mulligan.objectives.base import Learn
from mulligan.objectives.spans import after_reflections
from mulligan.types import Group, Span


class Retry(Learn):
    """The tokens of the retry: the answer learns, given a reflection that does not."""

    learns_retry = True
    one_prompt = False

    def spans(
        self, group: Group, advantages_G: Sequence[float], mask_truncated: bool
    ) -> list[Span]:
        """Return a span for each episode: reflection and retry, of which the retry learns."""
        return after_reflections(group, advantages_G, mask_truncated, learns=(False, True))

    def longest(self, generate: Generate) -> int:
        """Return the longest answer."""
        return generate.answer_tokens
