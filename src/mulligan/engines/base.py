"""What an engine is: whoever generates tokens."""

from collections.abc import Sequence
from typing import Protocol

from mulligan.types import Completion, Sampling, TokenIds


class Engine(Protocol):
    """Generates completions for prompts of token ids. Knows no task.

    An engine reuses prefixes by itself within one policy version: the n samples of a prompt share
    it, and a prompt that continues an earlier prompt and its completion continues that cache.
    """

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in order.

        The result depends on the prompts, ``n`` and ``sampling`` (its seed included) only, not on
        what was generated before; but for rounding, where a prefix computed earlier is reused.

        Raises:
            MulliganError: a prompt plus ``max_tokens`` does not fit the model's context.
        """
        ...

    def forget(self) -> None:
        """Drop every cache: what follows equals, to the last bit, what a new engine gives.

        Work that may be cut off and done again calls this where it begins.
        """
        ...
