"""The failures that a run learns from, as its recipe says."""

from collections.abc import Iterator
from contextlib import contextmanager

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.epochs import SAME_IN_FORMAT_1
from mulligan.episodes.failures import FailureStore
from mulligan.errors import MulliganError
from mulligan.run.session import Session
from mulligan.storage.records import RecordLog
from mulligan.trainer.failure_sources import (
    FailureSource,
    OnlineFailures,
    StepTries,
    StoredFailures,
    step_tries_key,
)


@contextmanager
def failures_of(
    session: Session, engine: Engine, conversations: Conversations, *, begun: bool
) -> Iterator[FailureSource]:
    """Open what gives a training its failures; ``begun`` says whether some steps are done.

    Raises:
        MulliganError: there are too few failures, or a run of version 0.1.0 drew them otherwise.
    """
    recipe, run = session.recipe, session.run
    with FailureStore(run.failures) as store:
        if recipe.collect.failures == "online":
            problems = session.training_problems()
            with RecordLog(run.collected, StepTries, step_tries_key) as log:
                yield OnlineFailures(
                    engine, conversations, session.verify, problems, recipe, store, log
                )
            return
        if begun and recipe.format == 1 and len(store) > SAME_IN_FORMAT_1:
            raise MulliganError(
                f"{run.path} was begun by Mulligan 0.1.0, which drew batches from more than "
                f"{SAME_IN_FORMAT_1:,} failures in another order. Finish it with that version, or "
                "start a new run: `mulligan run` takes its config.yaml and name=..."
            )
        store.require(recipe.train.failures_per_step)
        yield StoredFailures(store, recipe.seed_of("train"), recipe.train.failures_per_step)
