"""A run that learns from failures in production takes them in place of collecting its own."""

import logging
from pathlib import Path

from mulligan.engines.base import require_token_ids
from mulligan.episodes.collect import Collected, collected_key
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.reported import Reported, Store, as_failure, open_reported
from mulligan.errors import MulliganError
from mulligan.run.session import Session
from mulligan.storage.records import RecordLog
from mulligan.tasks.row_task import question
from mulligan.types import Problem

logger = logging.getLogger("mulligan")


def reported_problems(session: Session) -> list[Problem]:
    """Return the problems of the recipe's store of failures; none where it names no store.

    Raises:
        MulliganError: there is no such store.
    """
    return [each.problem for each in _taken(session)[0]] if session.recipe.collect.store else []


def take_reported(session: Session) -> None:
    """Copy a store's failures into the run, in the tokens of the run's model.

    What does not fit the context of model and engine with a reflection and a retry is left out and
    counted. The newest failures are taken; those at problems that the run is evaluated on are not.

    Raises:
        MulliganError: there is no such store, or too little in it to train on.
    """
    recipe, run = session.recipe, session.run
    taken, left_out = _taken(session)
    if left_out:
        logger.warning(
            "Left out of %s: %d failures at problems that the run is evaluated on.",
            recipe.collect.store,
            left_out,
        )
    model, tokenizer = session.load(session.start_model)
    engine = session.engine(model, tokenizer)
    require_token_ids(engine)
    conversations = session.conversations(model, tokenizer, engine)
    lengths = recipe.generate.reflection_tokens, recipe.generate.answer_tokens
    sampling = session.sampling(recipe.generate.answer_tokens)
    statuses = []
    with (
        FailureStore(run.failures) as store,
        RecordLog(run.collected, Collected, collected_key) as log,
    ):
        for each in taken:
            failure = as_failure(each, conversations, sampling)
            tried = failure.attempt
            told = conversations.about(tried.verdict)
            if told.failure_fits(tried.problem, tried.completion, *lengths):
                statuses.append(tried.verdict.status)
                store.append(failure)
        store.sync()
        log.append(
            Collected(
                chunk=0,
                attempts=len(taken),
                passed=0,
                failed=statuses.count("failed"),
                unparseable=statuses.count("unparseable"),
                errors=0,
                too_long=len(taken) - len(statuses),
            )
        )
        session.console.print(
            f"{len(statuses)} failures from {recipe.collect.store}; "
            f"{len(taken) - len(statuses)} do not fit the context and are left out",
            highlight=False,
        )
        store.require(recipe.train.failures_per_step)


def _taken(session: Session) -> tuple[list[Reported], int]:
    """Return the newest of a store's failures, as many as the recipe says, in their order.

    Beside them, how many were passed over, being at problems that the run is evaluated on.
    """
    settings = session.recipe.collect
    assert settings.store is not None
    evaluated_on = _questions_evaluated_on(session)
    taken: list[Reported] = []
    left_out = 0
    with open_reported(_store(settings.store).failures) as reported:
        for place in reversed(range(len(reported))):
            if len(taken) == settings.problems:
                break
            if question((each := reported[place]).problem) in evaluated_on:
                left_out += 1
            else:
                taken.append(each)
    return taken[::-1], left_out


def _questions_evaluated_on(session: Session) -> set[str]:
    settings = session.recipe.evaluate
    problems = session.problems(settings.split, settings.problems)
    if session.recipe.looks_at_dev:
        problems = [*problems, *session.problems("dev", settings.dev_problems)]
    return {question(problem) for problem in problems}


def _store(name: str) -> Store:
    store = Store(Path(name).expanduser())
    if not store.failures.is_file():
        raise MulliganError(
            f"collect.store names {name!r}, which holds no failures.jsonl. Make one by "
            "`mulligan import LOGS --task TASK --into FOLDER`."
        )
    return store
