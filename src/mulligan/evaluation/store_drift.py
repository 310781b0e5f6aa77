"""How far a store of failures has drifted: how many of them the present policy would pass.

The failures are those of the model before training. A sample of their problems is tried once more,
as if never tried, each time the policy is evaluated on dev, also after a round: the same sample
with the same seeds, so that steps are compared on the same luck as far as that goes. Even before
training some pass, since answers are sampled; what counts is how the share rises.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.collect import chunks
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.epochs import shuffled
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.rollout import Verify, attempt
from mulligan.evaluation.statistics import Interval, wilson
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Problem, Sampling


@dataclass(frozen=True, slots=True)
class StoreDrift:
    """A line of ``store_drift.jsonl``: a sample of the store's problems, tried afresh."""

    step: int
    """Training steps that were done, or rounds."""
    passed: int
    judged: int
    """Tries whose verifier did not break."""

    @property
    def share(self) -> Interval | None:
        """The share that passed, with Wilson's interval; None where none was judged."""
        return wilson(self.passed, self.judged) if self.judged else None


def open_store_drift(path: Path) -> RecordLog[StoreDrift]:
    """Open the file of measurements, one for each step.

    Raises:
        MulliganError: a line is not a measurement, or a step occurs twice.
    """
    return RecordLog(path, StoreDrift, lambda line: str(line.step))


def read_store_drift(path: Path) -> list[StoreDrift]:
    """Return the measurements of a run, in the order of steps; empty where there are none."""
    with open_store_drift(path) as log:
        return sorted(log, key=lambda line: line.step)


def sample_of(store: FailureStore, count: int, seed: int) -> list[Problem]:
    """Return the problems of some stored failures, drawn by a seed; at most all of them."""
    places = shuffled(len(store), derive_seed(seed, "store drift"))[:count]
    return [store[int(place)].attempt.problem for place in places]


def measure_drift(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    recipe: Recipe,
    step: int,
) -> StoreDrift:
    """Try some problems of the store with the present policy."""
    generate, statuses = recipe.generate, []
    for number, chunk in enumerate(chunks(problems, generate.problems_at_once)):
        engine.reset_cache()
        seed = derive_seed(recipe.seed_of("evaluate"), "store drift", number)
        sampling = Sampling(generate.temperature, generate.answer_tokens, seed)
        tries = attempt(engine, conversations, verify, chunk, 1, sampling)
        statuses += [each.verdict.status for each in tries]
    judged = [status for status in statuses if status != "error"]
    return StoreDrift(step, judged.count("passed"), len(judged))
