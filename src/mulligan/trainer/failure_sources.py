"""Which failures a training step learns from: stored ones, or fresh ones of the present policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.collect import Collected, as_failure, chunks, try_problems
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.epochs import shuffled
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.rollout import Verify
from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Attempt, Failure, Problem, Sampling


class FailureSource(Protocol):
    """Gives the failures of each step; they depend on the weights and the arguments only."""

    def batch(self, step: int) -> list[Failure]:
        """Return the failures of a step; steps count from 1."""
        ...

    def others(self, seen: Sequence[Failure], wanted: int, step: int, refill: int) -> list[Failure]:
        """Return failures that the step has not seen yet, as many as there are of those wanted."""
        ...


@dataclass(frozen=True)
class StoredFailures:
    """Failures that were collected before training, each once an epoch."""

    store: FailureStore
    seed: int
    size: int
    """Failures in a step."""

    def batch(self, step: int) -> list[Failure]:
        """Return the failures of a step; steps count from 1.

        Raises:
            MulliganError: fewer failures than a step takes are stored.
        """
        return self.store.batch(self.seed, step - 1, self.size)

    def others(self, seen: Sequence[Failure], wanted: int, step: int, refill: int) -> list[Failure]:
        """Return failures that the step has not seen yet, as many as there are of those wanted."""
        size = min(len(self.store), len(seen) + wanted)
        drawn = self.store.batch(derive_seed(self.seed, "refill", step, refill), 0, size)
        known = {failure.id for failure in seen}
        return [failure for failure in drawn if failure.id not in known][:wanted]


@dataclass(frozen=True, slots=True)
class StepTries(Collected):
    """A line of ``collected.jsonl`` where every step tries problems: what became of some."""

    step: int = 0
    refill: int = 0
    """0 for the step's first failures; then which refill they were tried for."""


def step_tries_key(record: StepTries) -> str:
    """Return the id of a chunk of a step."""
    return f"{record.step}-{record.refill}-{record.chunk}"


@dataclass(frozen=True)
class OnlineFailures:
    """What the present policy fails: every step tries problems in an order of its own.

    What is trained on is stored too, for people and for later use. A step that is repeated after a
    kill tries the same and stores nothing twice.

    Args:
        engine: generates with the present weights.
        conversations: makes prompts.
        verify: judges.
        problems: what is tried.
        recipe: the run's.
        store: keeps what is trained on.
        log: keeps what became of the tries.
    """

    engine: Engine
    conversations: Conversations
    verify: Verify
    problems: Sequence[Problem]
    recipe: Recipe
    store: FailureStore
    log: RecordLog[StepTries]

    def batch(self, step: int) -> list[Failure]:
        """Try problems until enough have failed for a step, or none is left.

        Raises:
            MulliganError: all problems pass.
        """
        failures = self._fail(self.problems, self.recipe.train.failures_per_step, step, 0)
        if not failures:
            raise MulliganError(
                f"Nothing failed: in step {step} the policy passes all of the "
                f"{len(self.problems)} problems that could be judged, so there is nothing left to "
                "learn from. Give it more problems (collect.problems) or harder ones."
            )
        return failures

    def others(self, seen: Sequence[Failure], wanted: int, step: int, refill: int) -> list[Failure]:
        """Try problems that the step has no failure on yet, until enough of them have failed."""
        known = {failure.attempt.problem.id for failure in seen}
        rest = [problem for problem in self.problems if problem.id not in known]
        return self._fail(rest, wanted, step, refill + 1)

    def _fail(
        self, problems: Sequence[Problem], wanted: int, step: int, refill: int
    ) -> list[Failure]:
        order = shuffled(len(problems), derive_seed(self._seed, "online", step, refill))
        at_once = min(self.recipe.generate.problems_at_once, wanted)
        failures: list[Failure] = []
        for number, chunk in enumerate(chunks([problems[i] for i in order], at_once)):
            seed = derive_seed(self._seed, "online", step, refill, number)
            sampling = self._sampling(seed)
            failed = self._try(chunk, sampling, step, refill, number)
            failures += [as_failure(each, self.recipe.model, sampling) for each in failed]
            if len(failures) >= wanted:
                break
        for failure in failures[:wanted]:
            self.store.append(failure)
        self.store.sync()
        return failures[:wanted]

    def _try(
        self, problems: Sequence[Problem], sampling: Sampling, step: int, refill: int, number: int
    ) -> Sequence[Attempt]:
        """Try some problems, write down what became of them, and return the failed attempts."""
        tried = try_problems(
            self.engine,
            self.conversations,
            self.verify,
            problems,
            self.recipe.collect.attempts,
            sampling,
            self.recipe.generate.reflection_tokens,
        )
        self.log.append(StepTries(number, **tried.summary, step=step, refill=refill))
        return tried.failed

    def _sampling(self, seed: int) -> Sampling:
        generate = self.recipe.generate
        return Sampling(generate.temperature, generate.answer_tokens, seed)

    @property
    def _seed(self) -> int:
        return self.recipe.seed_of("train")
