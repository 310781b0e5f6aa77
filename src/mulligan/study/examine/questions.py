"""The questions that a finished run is examined with, and where their rows come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulligan.episodes.collect import chunks
from mulligan.episodes.failures import FailureStore
from mulligan.errors import MulliganError, nearest
from mulligan.evaluation.trials import TIMES, open_trials
from mulligan.run.session import Session
from mulligan.run.trained import trained_model
from mulligan.storage.episode_log import open_episodes
from mulligan.study.examine import budget, curve, reflections, right_answers, worth
from mulligan.study.examine.bench import Bench
from mulligan.study.examine.pooling import Quantity
from mulligan.types import Problem

if TYPE_CHECKING:
    from mulligan.logprobs.likelihood import Likelihood

Ask = Callable[[Bench, Sequence[Problem], int], Iterator[Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """Something to find out about runs that are finished."""

    name: str
    says: str
    row_type: type[Any]
    rows: Callable[[Session, int], Iterator[Any]]
    """What one run says: rows, from so many problems where it asks its models."""
    summarise: Callable[[Mapping[str, Sequence[Any]]], list[Quantity]]
    """What all runs say together."""


def _by_time(
    summarise: Callable[[Mapping[str, Sequence[Any]], str], list[Quantity]],
    rows: Mapping[str, Sequence[Any]],
) -> list[Quantity]:
    """Summarise what was asked before and after training, each apart."""
    return [
        quantity
        for when in TIMES
        for quantity in summarise(
            {run: [row for row in each if row.when == when] for run, each in rows.items()}, when
        )
    ]


def _asked(
    name: str, ask: Ask, session: Session, count: int, *, likelihood: bool = False
) -> Iterator[Any]:
    """Ask the model before training and the trained one, chunk by chunk."""
    recipe = session.recipe
    models: dict[str, str | Path] = {
        "before": session.start_model,
        "after": trained_model(session.run, recipe),
    }
    original = _original(session) if likelihood else None
    for when, place in models.items():
        model, tokenizer = session.load(place)
        engine = session.engine(model, tokenizer)
        conversations = session.conversations(model, tokenizer, engine)
        problems = session.those_that_fit(
            session.problems(recipe.evaluate.split, count), conversations
        )
        bench = Bench(
            name,
            when,
            recipe,
            engine,
            conversations,
            session.verify,
            session.verifier.leaks_many,
            original,
        )
        with session.progress(f"{name}, {when} training", len(problems)) as advance:
            for number, chunk in enumerate(chunks(problems, recipe.generate.problems_at_once)):
                engine.reset_cache()
                yield from ask(bench, chunk, number)
                advance(len(chunk))
                session.stop.check(f"{name}: nothing of this run is kept")
    session.release_engine()


def _original(session: Session) -> "Likelihood":
    from mulligan.logprobs.likelihood import likelihood_of

    model, _ = session.load(session.recipe.model)
    return likelihood_of(model)


def _steps(session: Session, count: int) -> Iterator[reflections.StepRow]:
    """Measure the reflections of every step; how many problems were asked for plays no part."""
    del count
    from mulligan.logprobs.likelihood import likelihood_of

    run = session.run
    model, tokenizer = session.load(session.recipe.model)
    conversations, original = session.conversations(model, tokenizer), likelihood_of(model)
    leaks, steps = session.verifier.leaks_many, session.recipe.train.steps
    with (
        open_episodes(run.episodes) as log,
        FailureStore(run.failures) as store,
        session.progress("reflections", steps) as advance,
    ):
        failures = {failure.id: failure for failure in store}
        for step, episodes in groupby(log, key=attrgetter("step")):
            row = reflections.look(step, [*episodes], failures, conversations, leaks, original)
            if row is not None:
                yield row
            advance(1)
            session.stop.check(f"step {step}: nothing of this run is kept")


def _on_dev(session: Session, count: int) -> Iterator[curve.CurveRow]:
    """Read the evaluations on dev; how many problems were asked for plays no part."""
    del count
    with open_trials(session.run.dev) as log:
        if not len(log):
            raise MulliganError(
                f"{session.run.path} was not evaluated on dev while it trained, so there is no "
                "curve. Set evaluate.every in the recipe of a new run."
            )
        yield from curve.rows_of(log)


QUESTIONS = (
    Question(
        "right_answers",
        right_answers.SAYS,
        right_answers.RightAnswerRow,
        partial(_asked, "right_answers", right_answers.ask),
        partial(_by_time, right_answers.summarise),
    ),
    Question(
        "budget",
        budget.SAYS,
        budget.BudgetRow,
        partial(_asked, "budget", budget.ask),
        partial(_by_time, budget.summarise),
    ),
    Question(
        "worth",
        worth.SAYS,
        worth.WorthRow,
        partial(_asked, "worth", worth.ask, likelihood=True),
        partial(_by_time, worth.summarise),
    ),
    Question(
        "reflections",
        reflections.SAYS,
        reflections.StepRow,
        _steps,
        reflections.summarise,
    ),
    Question("curve", curve.SAYS, curve.CurveRow, _on_dev, curve.summarise),
)


def find_question(name: str) -> Question:
    """Return a question by its name.

    Raises:
        MulliganError: there is no such question.
    """
    for question in QUESTIONS:
        if question.name == name:
            return question
    known = [question.name for question in QUESTIONS]
    raise MulliganError(f"There is no question {name!r}; {nearest(name, known)}")
