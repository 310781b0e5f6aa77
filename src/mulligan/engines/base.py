"""What an engine is: something that generates tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mulligan.errors import MulliganError
from mulligan.types import Completion, Sampling, TokenIds

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine can do."""

    token_ids: bool
    """Takes prompts as token ids, and returns the ids that it sampled."""
    logprobs: bool
    """Returns the log-probability of each token that it sampled."""
    weights: bool
    """Takes new weights."""
    exact: bool
    """Its log-probs are the trainer's but for rounding, so a loss needs no importance weights."""
    divisible: bool = False
    """Several processes can share a call: it is a ``DivisibleEngine``."""


class Engine(Protocol):
    """Generates completions for prompts of token ids. Knows no task.

    An engine reuses prefixes by itself within one policy version: the n samples of a prompt share
    it, and a prompt that continues an earlier prompt and its completion continues that cache.
    """

    @property
    def abilities(self) -> Abilities:
        """What it can do."""
        ...

    @property
    def policy_version(self) -> int:
        """The version of the weights that it generates with; 0 for those it was made with."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens of a prompt and its completion together; ``None`` where it knows no limit."""
        ...

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

    def update_weights(self, policy: "nn.Module", version: int) -> None:
        """Take over the policy's weights as this version, and reset every cache.

        Raises:
            MulliganError: the engine cannot take these weights.
        """
        ...

    def reset_cache(self) -> None:
        """Drop every cache: what follows equals, to the last bit, what a new engine gives.

        Work that may be cut off and done again calls this where it begins.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds, such as its server; a second call does nothing."""
        ...


class DivisibleEngine(Engine, Protocol):
    """An engine of which each process has one, so that they can share the prompts of a call."""

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling, *, first: int = 0
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in order.

        Args:
            prompts: those of one process.
            n: completions of each.
            sampling: of the whole call.
            first: the place in the whole call of the first of these prompts, on which what is
                drawn for it depends.
        """
        ...


def require_trainable(kind: str, abilities: Abilities) -> None:
    """Check that an engine can serve a training run.

    Raises:
        MulliganError: it takes no weights, or no token ids.
    """
    lacking = [
        what
        for what, can in (
            ("take new weights", abilities.weights),
            ("take and return token ids", abilities.token_ids),
        )
        if not can
    ]
    if lacking:
        raise MulliganError(
            f"Training needs an engine that generates with the newest weights and returns the "
            f"tokens it sampled; the engine {kind!r} cannot {' or '.join(lacking)}. "
            "Use engine.kind=local or engine.kind=vllm."
        )


def require_token_ids(engine: Engine) -> None:
    """Check that what an engine gives can be stored as failures to train on.

    Raises:
        MulliganError: it takes and returns text.
    """
    if not engine.abilities.token_ids:
        raise MulliganError(
            "Failures are collected to be trained on, which needs the tokens that were sampled, "
            "and this server returns text only. Collect with engine.kind=local, or with a server "
            "that returns token ids, such as vLLM; `mulligan evaluate` works with this one."
        )


def require_version(engine: Engine, version: int) -> None:
    """Check that an engine generates with the weights of a version.

    Raises:
        MulliganError: it holds others.
    """
    if engine.policy_version != version:
        raise MulliganError(
            f"The engine generates with weights of version {engine.policy_version}, but this step "
            f"needs version {version}. Nothing of the step is kept; go on with --resume."
        )
