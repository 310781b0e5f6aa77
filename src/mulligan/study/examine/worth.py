"""What makes a reflection good: its worth is the share of the retries after it that pass.

Several reflections on one failure are compared with each other, so that how hard the problem is
cancels out. What goes with their worth is not thereby its cause.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from mulligan.episodes.conversation import question
from mulligan.study.examine.bench import Bench, Tried
from mulligan.study.examine.pooling import Quantity, Weighed, mean_of, pool, present, within
from mulligan.types import Attempt, Completion, Problem

SAYS = "what makes a reflection good: the pass rate of many retries after it, and what goes with it"

REFLECTIONS = 4
"""Reflections on each failure."""
RETRIES = 16
"""Retries after each, and as many without a reflection."""

FEATURES = {
    "leaks": "the reflection states a passing answer",
    "tokens": "ten more tokens",
    "cut_off": "the token limit cut it off",
    "names_numbers": "it names all of the problem's numbers, rather than none",
    "calculates": "it holds a calculation",
    "likelihood": "one nat per token likelier under the model that wrote it",
    "original_likelihood": "one nat per token likelier under the original model",
}
"""What is looked at in a reflection, and what a slope on it is a slope per."""

SHARES = {
    "leaks": "reflections that state a passing answer",
    "calculates": "reflections that hold a calculation",
    "names_numbers": "share of the problem's numbers that a reflection names",
}
"""Features whose mean is worth knowing."""

_NUMBER = re.compile(r"\d+")
_CALCULATION = re.compile(r"\d\s*[-+*/=]\s*\d|\d is \d")


@dataclass(frozen=True, slots=True)
class WorthRow:
    """A reflection on a failure, and what became of the retries after it."""

    when: str
    problem_id: str
    number: int
    """Which of the reflections on this failure."""
    passed: int
    judged: int
    """Retries that the verifier could judge."""
    again_passed: int
    again_judged: int
    """Of the tries without a reflection: the same for all reflections on a failure."""
    features: Mapping[str, float | None]

    @property
    def worth(self) -> float:
        """Share of the judged retries that pass."""
        return self.passed / self.judged

    @property
    def without(self) -> float | None:
        """Share of the tries without a reflection that pass."""
        return self.again_passed / self.again_judged if self.again_judged else None


def ask(bench: Bench, problems: Sequence[Problem], chunk: int) -> Iterator[WorthRow]:
    """Try problems; give each failure several reflections, and each of them many retries."""
    failed = [
        tried
        for tried in bench.first_tries(problems, 1, chunk)
        if tried.verdict.status in ("failed", "unparseable")
    ]
    if not failed:
        return
    about = [bench.conversations.about(tried.verdict) for tried in failed]
    asked = [
        speak.reflection(t.problem, t.completion) for speak, t in zip(about, failed, strict=True)
    ]
    reflections = bench.reflections(asked, REFLECTIONS, "reflection", chunk)
    pairs = [(t, z) for t, row in zip(failed, reflections, strict=True) for z in row]
    prompts = [
        bench.conversations.about(t.verdict).retry(t.problem, t.completion, z) for t, z in pairs
    ]
    retries = bench.answers([t.problem for t, _ in pairs], prompts, RETRIES, "retry", chunk)
    plain = [
        speak.retry_without_reflection(t.problem, t.completion)
        for speak, t in zip(about, failed, strict=True)
    ]
    again = bench.answers([t.problem for t in failed], plain, RETRIES, "again", chunk)
    leaks = iter(bench.leaks([(t.problem, z.text) for t, z in pairs]))
    answered = iter(retries)
    for tried, prompt, row, repeated in zip(failed, asked, reflections, again, strict=True):
        originals = _original(bench, prompt, row)
        for number, (z, original) in enumerate(zip(row, originals, strict=True)):
            passed, judged = _count(next(answered))
            features = features_of(tried, z, next(leaks), original)
            if judged:
                yield WorthRow(
                    bench.when,
                    tried.problem.id,
                    number,
                    passed,
                    judged,
                    *_count(repeated),
                    features,
                )


def _count(answers: Sequence[Tried]) -> tuple[int, int]:
    statuses = [verdict.status for _, verdict in answers]
    return statuses.count("passed"), len(statuses) - statuses.count("error")


def _original(
    bench: Bench, prompt: tuple[int, ...], reflections: Sequence[Completion]
) -> list[float | None]:
    """Return the mean log-probability of each reflection's tokens under the original model."""
    if bench.likelihood is None or not all(each.token_ids for each in reflections):
        return [None] * len(reflections)
    totals = bench.likelihood(prompt, [each.token_ids for each in reflections])
    return [total / each.length for total, each in zip(totals, reflections, strict=True)]


def features_of(
    tried: Attempt, reflection: Completion, leaked: bool | None, original: float | None
) -> dict[str, float | None]:
    """Return what is looked at in a reflection, as numbers; None where it is not known."""
    logprobs = reflection.logprobs
    return {
        "leaks": None if leaked is None else float(leaked),
        "tokens": reflection.length / 10,
        "cut_off": float(reflection.finish_reason == "length"),
        "names_numbers": names_numbers(question(tried.problem), reflection.text),
        "calculates": float(_CALCULATION.search(reflection.text) is not None),
        "likelihood": round(fmean(logprobs), 4) if logprobs else None,
        "original_likelihood": None if original is None else round(original, 4),
    }


def names_numbers(asked: str, said: str) -> float | None:
    """Return the share of a question's numbers that a text names; None where it has none."""
    there = {*_NUMBER.findall(asked)}
    return len(there & {*_NUMBER.findall(said)}) / len(there) if there else None


def summarise(rows: Mapping[str, Sequence[WorthRow]], when: str) -> list[Quantity]:
    """Return what reflections are worth, how much they differ, and what goes with it."""

    def over(score: Callable[[WorthRow], float | None]) -> dict[str, list[Weighed]]:
        return {
            run: mean_of((r.problem_id, score(r)) for r in found) for run, found in rows.items()
        }

    found = [
        pool("worth", when, "retries that pass after a reflection", over(lambda r: r.worth)),
        pool("again", when, "tries that pass when asked again", over(lambda r: r.without)),
        pool("adds", when, "the former less the latter", over(_added)),
        *_spread(rows, when),
        *(_slope(rows, when, name) for name in FEATURES),
        *(_share(rows, when, name) for name in SHARES),
    ]
    return present(found)


def _added(row: WorthRow) -> float | None:
    return None if row.without is None else row.worth - row.without


def _slope(rows: Mapping[str, Sequence[WorthRow]], when: str, name: str) -> Quantity | None:
    slopes = {
        run: within((r.problem_id, r.features[name], r.worth) for r in found)
        for run, found in rows.items()
    }
    says = f"worth of a reflection, against another on the same failure, for: {FEATURES[name]}"
    return pool(f"worth_by_{name}", when, says, slopes)


def _share(rows: Mapping[str, Sequence[WorthRow]], when: str, name: str) -> Quantity | None:
    means = {
        run: mean_of((r.problem_id, r.features[name]) for r in found) for run, found in rows.items()
    }
    return pool(f"share_{name}", when, SHARES[name], means)


def _spread(rows: Mapping[str, Sequence[WorthRow]], when: str) -> list[Quantity | None]:
    variances = {run: variance_within(found) for run, found in rows.items()}
    says = "standard deviation of worth between reflections on one failure, luck of retries apart"
    known = {
        run: [("", sqrt(max(variance, 0.0)), 1.0)]
        for run, variance in variances.items()
        if variance is not None
    }
    return [pool("spread_within", when, says, known)]


def variance_within(rows: Sequence[WorthRow]) -> float | None:
    """Return the variance of true worth between reflections on one failure; None where unknown.

    The variance of pass rates within failures holds the luck of the retries besides, of which
    ``p (1 - p) / (n - 1)`` is an unbiased estimate for each reflection; it is taken off. The rest
    can come out below 0 by chance.
    """
    groups: dict[str, list[WorthRow]] = {}
    for row in rows:
        if row.judged > 1:
            groups.setdefault(row.problem_id, []).append(row)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return None
    squares, freedom, luck, count = 0.0, 0, 0.0, 0
    for group in several:
        mean = fmean(row.worth for row in group)
        squares += sum((row.worth - mean) ** 2 for row in group)
        freedom += len(group) - 1
        luck += sum(row.worth * (1 - row.worth) / (row.judged - 1) for row in group)
        count += len(group)
    return squares / freedom - luck / count
