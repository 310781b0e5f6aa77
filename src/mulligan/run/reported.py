"""A run that learns from failures in production takes them in place of collecting its own."""

from itertools import islice
from pathlib import Path

from mulligan.engines.base import require_token_ids
from mulligan.episodes.collect import Collected, collected_key
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.reported import Store, as_failure, open_reported
from mulligan.errors import MulliganError
from mulligan.run.session import Session
from mulligan.storage.records import RecordLog
from mulligan.types import Problem


def reported_problems(session: Session) -> list[Problem]:
    """Return the problems of the recipe's store of failures; none where it names no store.

    Raises:
        MulliganError: there is no such store.
    """
    settings = session.recipe.collect
    if settings.store is None:
        return []
    with open_reported(_store(settings.store).failures) as reported:
        return [each.problem for each in islice(reported, settings.problems)]


def take_reported(session: Session) -> None:
    """Copy a store's failures into the run, in the tokens of the run's model.

    What does not fit the context of model and engine with a reflection and a retry is left out and
    counted.

    Raises:
        MulliganError: there is no such store, or too little in it to train on.
    """
    recipe, run = session.recipe, session.run
    assert recipe.collect.store is not None
    model, tokenizer = session.load(session.start_model)
    engine = session.engine(model, tokenizer)
    require_token_ids(engine)
    conversations = session.conversations(model, tokenizer, engine)
    lengths = recipe.generate.reflection_tokens, recipe.generate.answer_tokens
    sampling = session.sampling(recipe.generate.answer_tokens)
    seen, statuses = 0, []
    with (
        open_reported(_store(recipe.collect.store).failures) as reported,
        FailureStore(run.failures) as store,
        RecordLog(run.collected, Collected, collected_key) as log,
    ):
        for each in islice(reported, recipe.collect.problems):
            seen += 1
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
                attempts=seen,
                passed=0,
                failed=statuses.count("failed"),
                unparseable=statuses.count("unparseable"),
                errors=0,
                too_long=seen - len(statuses),
            )
        )
        session.console.print(
            f"{len(statuses)} failures from {recipe.collect.store}; {seen - len(statuses)} do not "
            "fit the context and are left out",
            highlight=False,
        )
        store.require(recipe.train.failures_per_step)


def _store(name: str) -> Store:
    store = Store(Path(name).expanduser())
    if not store.failures.is_file():
        raise MulliganError(
            f"collect.store names {name!r}, which holds no failures.jsonl. Make one by "
            "`mulligan import LOGS --task TASK --into FOLDER`."
        )
    return store
