"""Looks at the dev split while training goes on, as the recipe asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.evaluation.dev_curve import dev_name, dev_protocol, standing
from mulligan.evaluation.evaluate import evaluate
from mulligan.evaluation.store_drift import measure_drift, open_store_drift, sample_of
from mulligan.evaluation.trials import open_trials
from mulligan.interrupt import waiting
from mulligan.run.session import Session

if TYPE_CHECKING:
    from mulligan.trainer.loop import Look


def dev_looks(
    session: Session, engine: Engine, conversations: Conversations
) -> "Callable[[int], Look]":
    """Return what the trainer asks after each step: evaluates the policy on dev where that is due.

    The engine has the policy's weights then. What was evaluated before a kill is read, not
    generated again.
    """
    from mulligan.trainer.loop import Look

    recipe = session.recipe
    if recipe.evaluate.every is None:
        return lambda step: Look()
    problems = session.problems("dev", recipe.evaluate.dev_problems)
    protocol = dev_protocol(recipe, session.those_that_fit(problems, conversations))

    def look(step: int) -> Look:
        if not recipe.evaluate.is_due(step):
            return Look()
        with waiting(f"evaluating step {step} on dev"), open_trials(session.run.dev) as log:
            evaluate(
                engine,
                conversations,
                session.verify,
                session.verifier.leaks_many,
                protocol,
                dev_name(step),
                log,
            )
            found = standing(log, step)
        if recipe.collect.failures != "online":
            measure_store_drift(session, engine, conversations, step, session.run.store_drift)
        engine.reset_cache()
        patience = recipe.train.patience
        return Look(found.is_best, patience is not None and found.since_best >= patience)

    return look


def measure_store_drift(
    session: Session, engine: Engine, conversations: Conversations, step: int, path: Path
) -> None:
    """Write down how many of the stored failures the policy would pass, unless that is known.

    Args:
        session: of the run, or within a round, whose failures are tried.
        engine: has the policy.
        conversations: how it is asked.
        step: training steps, or rounds, that were done.
        path: the file of measurements.
    """
    recipe = session.recipe
    with open_store_drift(path) as log, FailureStore(session.run.failures) as store:
        if str(step) not in log:
            count, seed = recipe.evaluate.dev_problems, recipe.seed_of("evaluate")
            problems = sample_of(store, count, seed)
            log.append(measure_drift(engine, conversations, session.verify, problems, recipe, step))
