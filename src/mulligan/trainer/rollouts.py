"""A step's rollout: which failures, how much is sampled for each, with which seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import Verify, reflect, reflect_and_retry, try_afresh
from mulligan.objectives.base import Evidence
from mulligan.objectives.objective import Objective
from mulligan.randomness import derive_seed
from mulligan.trainer.failure_sources import FailureSource
from mulligan.types import Failure, Group, Sampling, ScoredGroup


@dataclass(frozen=True)
class Rollout:
    """What a step sampled."""

    scored: tuple[ScoredGroup, ...]
    """Every group in which something could be rewarded."""
    trained: tuple[ScoredGroup, ...]
    """Those that the loss sees."""
    sampled: int
    """Groups that were sampled."""
    refills: int
    """How often others were sampled in place of groups that teach nothing."""


@dataclass(frozen=True)
class Rollouts:
    """Samples and rewards the groups of a step.

    What they hold depends on weights, failures and the step's number only.

    Args:
        engine: generates.
        conversations: makes prompts.
        verify: judges.
        source: gives the failures.
        recipe: the run's.
        objective: says what is sampled, and what it is worth.
    """

    engine: Engine
    conversations: Conversations
    verify: Verify
    source: FailureSource
    recipe: Recipe
    objective: Objective

    def draw(self, step: int, evidence: Evidence) -> Rollout:
        """Return the rollout of a step; steps count from 1.

        Raises:
            MulliganError: a reward is out of its range, or the engine gave no whole groups.
        """
        settings = self.recipe.train
        failures = self.source.batch(step)
        scored = self.objective.score(self._sample(failures, step), evidence)
        if settings.dead_groups != "refill":
            return Rollout(tuple(scored), tuple(scored), len(failures), 0)
        refills = 0
        while (missing := settings.failures_per_step - sum(each.teaches for each in scored)) and (
            refills < settings.max_refills
        ):
            others = self.source.others(failures, missing, step, refills)
            if not others:
                break
            refills += 1
            scored += self.objective.score(self._sample(others, step, refills), evidence)
            failures += others
        teaching = tuple(each for each in scored if each.teaches)
        return Rollout(tuple(scored), teaching, len(failures), refills)

    @property
    def _seed(self) -> int:
        return self.recipe.seed_of("train")

    def _sample(self, failures: Sequence[Failure], *step: int) -> list[Group]:
        """Sample what the objective asks for; ``step`` is the step, and the refill where it is."""
        engine, conversations, size = self.engine, self.conversations, self.recipe.train.group_size
        thinking = self._sampling(self.recipe.generate.reflection_tokens, "reflect", *step)
        writing = self._sampling(self.recipe.generate.answer_tokens, "retry", *step)
        if self.objective.samples == "first try":
            return try_afresh(engine, conversations, self.verify, failures, size, writing)
        if self.objective.samples == "reflection":
            return reflect(engine, conversations, failures, size, thinking)
        return reflect_and_retry(
            engine, conversations, self.verify, failures, size, thinking, writing
        )

    def _sampling(self, max_tokens: int, *purpose: str | int) -> Sampling:
        seed = derive_seed(self._seed, *purpose)
        return Sampling(self.recipe.generate.temperature, max_tokens, seed)
