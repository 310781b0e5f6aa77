"""What is done in every round: failures are collected, and the model is trained on them."""

import logging
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from mulligan.engines.base import require_token_ids
from mulligan.episodes.collect import Collected, collect, collected_key
from mulligan.episodes.failures import FailureStore
from mulligan.run import advice
from mulligan.run.dev import dev_looks
from mulligan.run.failures import failures_of
from mulligan.run.processes import together
from mulligan.run.reported import take_reported
from mulligan.run.session import Session
from mulligan.storage.records import RecordLog
from mulligan.trainer.trackers import open_trackers
from mulligan.types import StepMetrics

if TYPE_CHECKING:
    from mulligan.trainer.distributed import Processes

ENOUGH_TO_JUDGE = 200
"""Failures that are looked at for what speaks against the recipe's settings."""

logger = logging.getLogger("mulligan")


def collect_failures(session: Session) -> None:
    """Let the model try the training problems; keep what it fails."""
    recipe, run = session.recipe, session.run
    if recipe.collect.store is not None:
        take_reported(session)
        return
    if recipe.collect.failures == "online":
        session.console.print("collect: every training step tries problems of its own")
        return
    model, tokenizer = session.load(session.start_model)
    problems = session.training_problems()
    engine = session.engine(model, tokenizer)
    require_token_ids(engine)
    with (
        session.progress("collect", len(problems)) as advance,
        FailureStore(run.failures) as store,
        RecordLog(run.collected, Collected, collected_key) as log,
    ):

        def progress(done: int) -> None:
            advance(done, f"{len(store)} failures")
            session.stop.check(f"{len(store)} failures collected")

        collect(
            engine,
            session.conversations(model, tokenizer, engine),
            session.verify,
            problems,
            attempts=recipe.collect.attempts,
            at_once=recipe.generate.problems_at_once,
            sampling=session.sampling(recipe.generate.answer_tokens),
            reflection_tokens=recipe.generate.reflection_tokens,
            model=recipe.model,
            store=store,
            log=log,
            progress=progress,
        )
        for warning in advice.on_collected(log, list(islice(store, ENOUGH_TO_JUDGE))):
            logger.warning("%s", warning)
        store.require(recipe.train.failures_per_step)


def _in_brief(line: StepMetrics) -> str:
    """Say how a training step went; what is rewarded may be something other than a pass."""
    rewarded = f"reward {line.reward:.3g}"
    passed = rewarded if line.passed is None else f"{line.passed:.0%} of retries pass"
    return f"{passed}, {line.reflection_tokens:.0f} tokens per reflection"


def train_policy(session: Session) -> None:
    """Reflect, retry, reward: train the model on the reflections that led to a pass."""
    with together(session) as processes:
        _train(session, processes)


def _train(session: Session, processes: "Processes") -> None:
    """Train as one of the processes that do."""
    from mulligan.trainer.loop import train

    recipe, run = session.recipe, session.run
    sharded = recipe.train.shard and processes.count > 1
    model, tokenizer = session.load(session.start_model, to_train=True, to_shard=sharded)
    if warning := advice.on_learning_rate(recipe, model.num_parameters()):
        logger.warning("%s", warning)
    # Before adapters are put into the model; with shards, no process has it whole to generate with.
    generating = session.load(session.start_model)[0] if sharded else model
    engine = session.engine(generating, tokenizer)
    conversations = session.conversations(model, tokenizer, engine)
    steps = recipe.train.steps
    done = processes.first(session.checkpoints.newest, int | None)
    with (
        session.progress("train", steps) as advance,
        failures_of(session, engine, conversations, begun=bool(done)) as failures,
        open_trackers(run, recipe) as trackers,
    ):
        advance(done or 0)

        def progress(line: StepMetrics) -> None:
            warning = advice.on_reflections(line.truncated, f"step {line.step}")
            if line.step == (done or 0) + 1 and warning:
                logger.warning("%s", warning)
            advance(1, _in_brief(line))
            trackers.append(asdict(line))

        policy = session.policy(model)
        train(
            policy=policy,
            tokenizer=tokenizer,
            engine=engine,
            failures=failures,
            conversations=conversations,
            verify=session.verify,
            verifier=session.verifier,
            recipe=recipe,
            run=run,
            stop=session.stop,
            progress=progress,
            look=dev_looks(session, engine, conversations),
            processes=processes,
        )
