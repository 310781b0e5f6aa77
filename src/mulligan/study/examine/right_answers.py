"""Reflecting on right answers too: what happens where no verifier says when to retry.

The model is told each time that its answer was wrong, as it is told of every failure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mulligan.episodes.conversation import tells_verdict
from mulligan.errors import MulliganError
from mulligan.study.examine.bench import Bench
from mulligan.study.examine.pooling import Quantity, mean_of, pool, present
from mulligan.types import Problem, Verdict

SAYS = "how many right answers a reflection spoils, where no verifier says when to retry"


@dataclass(frozen=True, slots=True)
class RightAnswerRow:
    """One problem, tried, and tried again whatever came of it; None where a verifier broke."""

    when: str
    problem_id: str
    first: bool
    reflected: bool | None
    """The answer after a reflection passes."""
    again: bool | None
    """The answer after being asked again passes."""


def ask(bench: Bench, problems: Sequence[Problem], chunk: int) -> Iterator[RightAnswerRow]:
    """Try problems, reflect on every answer, and ask again.

    Raises:
        MulliganError: the reflection request tells what the verifier said.
    """
    if tells_verdict(bench.recipe.prompts.reflect):
        raise MulliganError(
            "prompts.reflect tells the model what the verifier said, so this run never reflects "
            "without one: right_answers has nothing to examine in it."
        )
    speak = bench.conversations
    tries = [t for t in bench.first_tries(problems, 1, chunk) if t.verdict.status != "error"]
    asked = [tried.problem for tried in tries]
    prompts = [speak.reflection(tried.problem, tried.completion) for tried in tries]
    reflections = [row[0] for row in bench.reflections(prompts, 1, "reflection", chunk)]
    pairs = list(zip(tries, reflections, strict=True))
    retries = [speak.retry(t.problem, t.completion, z) for t, z in pairs]
    reflected = bench.answers(asked, retries, 1, "reflected", chunk)
    plain = [speak.retry_without_reflection(t.problem, t.completion) for t in tries]
    again = bench.answers(asked, plain, 1, "again", chunk)
    for tried, [(_, after)], [(_, repeated)] in zip(tries, reflected, again, strict=True):
        yield RightAnswerRow(
            bench.when,
            tried.problem.id,
            tried.verdict.passed,
            known(after),
            known(repeated),
        )


def known(verdict: Verdict) -> bool | None:
    """Return whether an answer passes; None where the verifier broke."""
    return None if verdict.status == "error" else verdict.passed


def summarise(rows: Mapping[str, Sequence[RightAnswerRow]], when: str) -> list[Quantity]:
    """Return what is spoilt, what is fixed, and what always reflecting is worth."""
    return present(
        pool(
            name,
            when,
            says,
            {
                run: mean_of((each.problem_id, score(each)) for each in found)
                for run, found in rows.items()
            },
        )
        for name, says, score in _QUANTITIES
    )


def _spoilt(column: str, row: RightAnswerRow) -> float | None:
    value: bool | None = getattr(row, column)
    return float(not value) if row.first and value is not None else None


def _fixed(column: str, row: RightAnswerRow) -> float | None:
    value: bool | None = getattr(row, column)
    return None if row.first or value is None else float(value)


def _gain(column: str, row: RightAnswerRow) -> float | None:
    value: bool | None = getattr(row, column)
    return None if value is None else float(value) - float(row.first)


def _lost(column: str, row: RightAnswerRow) -> float | None:
    """Return what a verifier that says when to retry is worth: it keeps right first tries."""
    value: bool | None = getattr(row, column)
    return None if value is None else float(value) - float(row.first or value)


_QUANTITIES: tuple[tuple[str, str, Callable[[RightAnswerRow], float | None]], ...] = (
    ("first_try", "solved at the first try", lambda row: float(row.first)),
    ("spoilt", "right first tries that are wrong after reflecting", partial(_spoilt, "reflected")),
    (
        "spoilt_again",
        "right first tries that are wrong when asked again",
        partial(_spoilt, "again"),
    ),
    ("fixed", "wrong first tries that are right after reflecting", partial(_fixed, "reflected")),
    ("fixed_again", "wrong first tries that are right when asked again", partial(_fixed, "again")),
    ("gain", "solved by always reflecting, less first try", partial(_gain, "reflected")),
    ("gain_again", "solved by always asking again, less first try", partial(_gain, "again")),
    (
        "without_verifier",
        "solved by always reflecting, less reflecting only where a verifier says so",
        partial(_lost, "reflected"),
    ),
)
