"""The method: reflect, retry, reward.

The loop reads top to bottom: the step's failures, G reflections and retries each, verdicts,
rewards, advantages, one optimiser step on the tokens of the reflections. A step depends on the
weights, the source of failures and the step's number only, so a resumed run repeats exactly what an
uninterrupted one would have done.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from mulligan.config import Recipe
from mulligan.engines.base import Engine, require_version
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import Verify
from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly, StopRequest
from mulligan.logprobs.certainty import certainty_of
from mulligan.logprobs.likelihood import likelihood_of
from mulligan.models.policies import Policy
from mulligan.objectives.base import Evidence
from mulligan.objectives.objective import make_objective
from mulligan.randomness import derive_seed
from mulligan.storage.checkpoint import Checkpoints
from mulligan.storage.run_folder import RunFolder
from mulligan.trainer.distributed import ALONE, Processes
from mulligan.trainer.failure_sources import FailureSource
from mulligan.trainer.metrics import StepRecords, step_metrics, trained_episodes
from mulligan.trainer.optimizer import PolicyOptimizer, Update, seed_generators
from mulligan.trainer.rollouts import Rollouts
from mulligan.trainer.shared_checkpoints import SharedCheckpoints
from mulligan.trainer.state import (
    TrainingState,
    load_training_state,
    save_training_state,
    trained_tensors,
)
from mulligan.trainer.update import make_updater
from mulligan.types import StepMetrics, StepTiming, Verdict
from mulligan.verifiers.pool import Verifier

log = logging.getLogger("mulligan")

_SKIPPED = (
    "Step %d is skipped and the weights stay as they are: its loss is %s, its gradient norm %s."
)

_NOTHING_LEARNED = (
    "No group had different rewards, so nothing was learned. If no retry passes, the task is out "
    "of the model's reach: warm it up first, or give it easier problems; if all pass, give it "
    "harder ones."
)


@dataclass(frozen=True, slots=True)
class Look:
    """What an evaluation after a step found."""

    best: bool = False
    """No step before was better: its checkpoint is kept and marked."""
    enough: bool = False
    """Training ends here, before its last step."""


def train(
    *,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
    failures: FailureSource,
    conversations: Conversations,
    verify: Verify,
    verifier: Verifier,
    recipe: Recipe,
    run: RunFolder,
    stop: StopRequest,
    progress: Callable[[StepMetrics], None],
    look: Callable[[int], Look],
    processes: Processes = ALONE,
) -> None:
    """Train a policy in place, from the newest checkpoint to the last step.

    Args:
        policy: what is trained of it has float32 weights.
        tokenizer: saved with it.
        engine: generates with its weights.
        failures: gives each step those that it learns from.
        conversations: makes prompts.
        verify: judges answers.
        verifier: what rewards may ask besides.
        recipe: of the run.
        run: the folder that metrics, episodes and checkpoints are written to.
        stop: asked after every step whether to stop.
        progress: told of every step.
        look: asked after every step, and before the first one: evaluates the policy where that is
            due, of which the engine then has the weights. It draws no random numbers of the
            trainer's, and may be asked twice.
        processes: that train together, each of which calls this; the first one alone judges,
            rewards, looks and writes.

    Raises:
        MulliganError: too few failures, no group to learn from, a reward out of its range, or too
            many steps whose loss was not finite.
        StoppedEarly: asked to stop, or ``stop_after`` was reached; everything is saved.
    """
    settings = recipe.train
    seed_generators(derive_seed(recipe.seed_of("train"), "train"))
    objective, exact = processes.objective(make_objective(recipe)), engine.abilities.exact
    engine, verify = processes.engine(engine), processes.led(verify, list[Verdict])
    look = _of_newest_weights(processes.led(look, Look), engine, policy, recipe)
    failures, asked_to_stop = processes.failures(failures), processes.any(stop)
    rollouts = Rollouts(engine, conversations, verify, failures, recipe, objective)
    updater = make_updater(policy, objective.loss, recipe, exact=exact, processes=processes)
    whole = Checkpoints(run.checkpoints, settings.keep_checkpoints)
    checkpoints = SharedCheckpoints(whole, processes, policy.model)
    state = _restore(checkpoints, policy, updater.optimizer)
    last = min(settings.stop_after or settings.steps, settings.steps)
    seen = look(state.step)
    _mark_if_best(seen, state.step, checkpoints)  # a kill may have come before its mark
    stopping = seen.enough
    evidence = _evidence(policy, verifier, conversations, recipe)
    with StepRecords(run, processes.leads) as records, closing(objective.reward):
        for step in range(state.step + 1, last + 1):
            if stopping:
                break
            engine.update_weights(policy.model, version=step)
            processes.seed(recipe.seed_of("train"), "train", step)
            started = time.perf_counter()
            rollout = rollouts.draw(step, evidence(step))
            require_version(engine, step)
            engine.reset_cache()  # its keys and values are not needed while the weights change
            rolled_out = time.perf_counter()
            update, sums = updater.update(rollout.trained)
            timing = StepTiming(step, rolled_out - started, time.perf_counter() - rolled_out)

            metrics = step_metrics(step, rollout, settings.group_size, update, sums)
            records.append(metrics, timing, trained_episodes(step, rollout.scored))
            progress(metrics)
            state = state.after(step, metrics.skipped)
            _say_if_skipped(metrics, update)
            seen = look(step)
            stopping = asked_to_stop() or seen.enough or step == last
            if stopping or seen.best or step % settings.checkpoint_every == 0:
                records.sync()
                _save(checkpoints, policy, tokenizer, updater.optimizer, state)
            _mark_if_best(seen, step, checkpoints)
            _refuse_too_many_skips(state, settings.max_skipped_steps)
        _require_whole(state, seen, settings.steps)
        _require_lessons(processes.first(records.any_group_taught, bool))


def _of_newest_weights(
    look: Callable[[int], Look], engine: Engine, policy: Policy, recipe: Recipe
) -> Callable[[int], Look]:
    """Return a look before which the engine takes over the policy's weights, where it is due."""

    def newest(step: int) -> Look:
        if recipe.evaluate.is_due(step):
            engine.update_weights(policy.model, version=step + 1)
        return look(step)

    return newest


def _mark_if_best(seen: Look, step: int, checkpoints: SharedCheckpoints) -> None:
    if seen.best:
        checkpoints.mark_best(step)


def _evidence(
    policy: Policy, verifier: Verifier, conversations: Conversations, recipe: Recipe
) -> Callable[[int], Evidence]:
    """Return what makes the evidence of a step."""
    made = partial(
        Evidence,
        verifier=verifier,
        conversations=conversations,
        likelihood=likelihood_of(policy.model),
        certainty=certainty_of(policy.model),
    )
    return lambda step: made(derive_seed(recipe.seed_of("train"), "reward", step))


def _say_if_skipped(metrics: StepMetrics, update: Update) -> None:
    if metrics.skipped:
        log.warning(_SKIPPED, metrics.step, update.loss, update.gradient_norm)


def _require_whole(state: TrainingState, seen: Look, steps: int) -> None:
    if state.step < steps and not seen.enough:
        raise StoppedEarly(f"step {state.step} of {steps}")


def _require_lessons(any_group_taught: bool) -> None:
    if not any_group_taught:
        raise MulliganError(_NOTHING_LEARNED)


def _save(
    checkpoints: SharedCheckpoints,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: PolicyOptimizer,
    state: TrainingState,
) -> None:
    """Save the checkpoint of a step that is done."""
    tensors = trained_tensors(policy, optimizer.optimizer, optimizer.average)
    write = partial(
        save_training_state,
        policy=policy,
        tokenizer=tokenizer,
        optimizer=optimizer.optimizer,
        scheduler=optimizer.scheduler,
        state=state,
    )
    checkpoints.save(state.step, tensors, write)


def _restore(
    checkpoints: SharedCheckpoints, policy: Policy, optimizer: PolicyOptimizer
) -> TrainingState:
    """Go back to the newest checkpoint."""
    newest = checkpoints.newest()
    if newest is None:
        return TrainingState()
    return load_training_state(
        newest,
        policy=policy,
        optimizer=optimizer.optimizer,
        scheduler=optimizer.scheduler,
        average=optimizer.average,
    )


def _refuse_too_many_skips(state: TrainingState, limit: int) -> None:
    if state.skipped > limit:
        raise MulliganError(
            f"{state.skipped} steps had a loss or gradient that is not finite, more than "
            f"train.max_skipped_steps={limit}. Lower train.learning_rate or use dtype=float32."
        )
