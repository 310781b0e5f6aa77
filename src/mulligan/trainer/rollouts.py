"""A step's rollout: which failures, how much is sampled for each, with which seeds."""

from dataclasses import dataclass

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.rollout import Verify, reflect, reflect_and_retry, try_afresh
from mulligan.objectives.base import Sampled
from mulligan.randomness import derive_seed
from mulligan.types import Group, Sampling


@dataclass(frozen=True)
class Rollouts:
    """Samples the groups of a step; what they hold depends on weights, failures and step only.

    Args:
        engine: generates.
        conversations: makes prompts.
        verify: judges.
        store: the failures.
        recipe: the run's.
        samples: what is sampled for each failure.
    """

    engine: Engine
    conversations: Conversations
    verify: Verify
    store: FailureStore
    recipe: Recipe
    samples: Sampled

    def groups(self, step: int) -> list[Group]:
        """Return the groups of a step, counted from 1."""
        settings, seed = self.recipe.train, self.recipe.seed_of("train")
        failures = self.store.batch(seed, step - 1, settings.failures_per_step)
        engine, conversations, size = self.engine, self.conversations, settings.group_size
        thinking = self._sampling(self.recipe.generate.reflection_tokens, "reflect", step)
        writing = self._sampling(self.recipe.generate.answer_tokens, "retry", step)
        if self.samples == "first try":
            return try_afresh(engine, conversations, self.verify, failures, size, writing)
        if self.samples == "reflection":
            return reflect(engine, conversations, failures, size, thinking)
        return reflect_and_retry(
            engine, conversations, self.verify, failures, size, thinking, writing
        )

    def _sampling(self, max_tokens: int, purpose: str, step: int) -> Sampling:
        seed = derive_seed(self.recipe.seed_of("train"), purpose, step)
        return Sampling(self.recipe.generate.temperature, max_tokens, seed)
