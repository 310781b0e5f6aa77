"""Rounds: failures are collected with the policy as it is then, it is trained, and so again.

Each round has a folder of its own below ``rounds/``, with everything that a run of one round keeps
in its own folder. The parts of a round are done once, each marked in the run's list of stages; a
part that was cut off goes on where it was. A recipe of one round has none of this: its run is the
round.
"""

from collections.abc import Callable
from copy import copy
from pathlib import Path

from mulligan.evaluation.dev_curve import dev_protocol, round_name
from mulligan.run.consolidate import consolidate_policy
from mulligan.run.dev import measure_store_drift
from mulligan.run.learning import collect_failures, train_policy
from mulligan.run.session import Session
from mulligan.run.trained import (
    checkpoint_is_whole,
    checkpoints_of,
    ended_with,
    is_whole,
    last_round,
    trained_step,
    writes_model,
)
from mulligan.run.trials import run_trials
from mulligan.storage.atomic import remove_folder, whole_folder, write_atomically
from mulligan.types import Problem


def in_round(session: Session, number: int, start: Path | None) -> Session:
    """Return what one of several rounds runs in: its folder, seeds and model at the start.

    Verifier, engine and everything else are shared.
    """
    session.verifier  # noqa: B018 - made once, for all rounds
    part = copy(session)
    part.recipe, part.run = session.recipe.of_round(number), session.run.round(number)
    part.round, part.start = number, str(start or session.start_model)
    part.run.path.mkdir(parents=True, exist_ok=True)
    return part


def problems_of_all_rounds(session: Session) -> list[Problem]:
    """Return the training problems that a recipe's rounds try, all together.

    Raises:
        MulliganError: the training split has too few.
    """
    return session.problems("train", session.recipe.training_problems)


def collect_first_round(session: Session) -> None:
    """Collect the failures of the first round."""
    collect_failures(session if session.recipe.rounds == 1 else in_round(session, 1, None))


def train_rounds(session: Session) -> None:
    """Train and consolidate; with several rounds, all of it again and again."""
    recipe = session.recipe
    if recipe.rounds == 1 and recipe.consolidate is None:
        train_policy(session)
        return
    if recipe.rounds == 1:
        _train(session, session, 1)
        return
    _once(session, "round-0-dev", lambda: _evaluate_on_dev(session, session, 0))
    for number in range(_rounds_done(session) + 1, recipe.rounds + 1):
        before = None if number == 1 else ended_with(session.run.round(number - 1), recipe)
        _round(session, in_round(session, number, before), number)


def lost_model(session: Session) -> str | None:
    """Name the trained model where it is missing or damaged."""
    folder = last_round(session.run, session.recipe)
    return None if is_whole(folder, session.recipe) else str(ended_with(folder, session.recipe))


def _rounds_done(session: Session) -> int:
    """Return the last round that is done and whose model is there."""
    return max(
        (
            number
            for number in range(1, session.recipe.rounds + 1)
            if session.is_done(f"round-{number}-dev")
            and is_whole(session.run.round(number), session.recipe)
        ),
        default=0,
    )


def _round(session: Session, part: Session, number: int) -> None:
    """Do what is left of a round; ``part`` is the session within it."""
    if number > 1:
        _once(session, f"round-{number}-collect", lambda: _collect(session, part))
    _train(session, part, number)
    _once(session, f"round-{number}-dev", lambda: _evaluate_on_dev(session, part, number))


def _collect(session: Session, part: Session) -> None:
    """Collect a later round's failures, or take over those of the first."""
    if session.recipe.collect.failures == "stored":
        stored = session.run.round(1).failures.read_bytes()
        write_atomically(part.run.failures, stored)
    else:
        collect_failures(part)


def _train(session: Session, part: Session, number: int) -> None:
    """Train in a round, and make the model that it ends with where that is no checkpoint."""
    trained = f"round-{number}-train"
    if session.is_done(trained) and is_whole(part.run, part.recipe):
        session.console.print(f"{trained}: already done")
        return
    if not (session.is_done(trained) and checkpoint_is_whole(part.run, part.recipe)):
        train_policy(part)
        _mark(session, trained)
    if part.recipe.consolidate is not None:
        consolidate_policy(part, part.recipe.consolidate)
    elif writes_model(part.recipe):
        _merge(part)


def _merge(part: Session) -> None:
    """Merge a round's adapters into a model that the next round starts from."""
    checkpoint = checkpoints_of(part.run, part.recipe).path(trained_step(part.run, part.recipe))
    model, tokenizer = part.load(checkpoint)
    remove_folder(part.run.model)
    with whole_folder(part.run.model) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _evaluate_on_dev(session: Session, part: Session, number: int) -> None:
    """Evaluate the model after a round on dev; before the first one, the model that it starts from.

    All rounds are tried on the same problems with the same seeds. ``part`` is the session within
    the round; before the first it is the run's.
    """
    recipe = part.recipe
    name = part.start_model if number == 0 else ended_with(part.run, recipe)
    model, tokenizer = part.load(name)
    engine = part.engine(model, tokenizer)
    conversations = part.conversations(model, tokenizer, engine)
    problems = part.problems("dev", recipe.evaluate.dev_problems)
    protocol = dev_protocol(recipe, part.those_that_fit(problems, conversations))
    said = f"on dev after round {number}" if number else "on dev"
    path = session.run.round_trials
    run_trials(part, engine, conversations, protocol, round_name(number), said, path=path)
    if number and recipe.collect.failures != "online":
        measure_store_drift(part, engine, conversations, number, session.run.store_drift)


def _once(session: Session, name: str, work: Callable[[], None]) -> None:
    """Do a part of a round, unless it has been done."""
    if session.is_done(name):
        return
    work()
    _mark(session, name)


def _mark(session: Session, name: str) -> None:
    if not session.is_done(name):
        session.mark_done(name)
