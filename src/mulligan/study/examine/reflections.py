"""How reflections change over the steps of training: length, variety, what they name and state.

Read from the episodes that were trained on; no model writes anything. The original model, as it
was before any warm-up, says how likely they are to it: gibberish and mixed scripts are not.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from mulligan.episodes.conversation import Conversations, question
from mulligan.evaluation.evaluate import Leaks
from mulligan.logprobs.likelihood import Likelihood
from mulligan.study.examine.pooling import Quantity, pool, present
from mulligan.study.examine.worth import names_numbers
from mulligan.types import Failure, TrainedEpisode, Written

SAYS = "how reflections change over training: length, variety, leaks, scripts, likelihood"

SCORED = 8
"""Reflections of a step that the original model scores."""
PARTS = 5
"""Training is cut into so many parts; the last is compared with the first."""

MEASURES = {
    "tokens": "length in tokens",
    "cut_off": "share that the token limit cut off",
    "distinct": "different texts over all reflections of a step",
    "new_pairs": "distinct pairs of neighbouring words over all pairs of a step",
    "names_numbers": "share of the problem's numbers that are named",
    "leaks": "share that state a passing answer",
    "scripts": "share whose letters come from more than one script",
    "original_likelihood": "log-probability per token under the original model, in nats",
}


@dataclass(frozen=True, slots=True)
class StepRow:
    """The reflections of one step; a measure is None where it is not known."""

    step: int
    reflections: int
    tokens: float
    cut_off: float
    distinct: float
    new_pairs: float | None
    names_numbers: float | None
    leaks: float | None
    scripts: float
    original_likelihood: float | None


def look(
    step: int,
    episodes: Sequence[TrainedEpisode],
    failures: Mapping[str, Failure],
    conversations: Conversations,
    leaks: Leaks,
    likelihood: Likelihood | None,
) -> StepRow | None:
    """Measure the reflections of one step; None where it has none."""
    said = [(failures[e.failure_id], e.reflection) for e in episodes if e.reflection is not None]
    if not said:
        return None
    texts = [z.text for _, z in said]
    pairs = [pair for text in texts for pair in _pairs(text)]
    return StepRow(
        step,
        len(said),
        tokens=fmean(z.tokens for _, z in said),
        cut_off=fmean(z.finish_reason == "length" for _, z in said),
        distinct=len({*texts}) / len(texts),
        new_pairs=len({*pairs}) / len(pairs) if pairs else None,
        names_numbers=_mean([names_numbers(question(f.attempt.problem), z.text) for f, z in said]),
        leaks=_mean(leaks([(f.attempt.problem, z.text) for f, z in said])),
        scripts=fmean(len(scripts(text)) > 1 for text in texts),
        original_likelihood=_likely(
            said[:: max(1, len(said) // SCORED)], conversations, likelihood
        ),
    )


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    return pairwise(text.lower().split())


def scripts(text: str) -> set[str]:
    """Return the scripts of a text's letters, such as ``LATIN`` or ``CYRILLIC``."""
    names = (unicodedata.name(character, "") for character in text if character.isalpha())
    return {name.partition(" ")[0] for name in names if name}


def _likely(
    said: Sequence[tuple[Failure, Written]],
    conversations: Conversations,
    likelihood: Likelihood | None,
) -> float | None:
    """Return the mean log-probability of a reflection's token; tokens are encoded anew."""
    if likelihood is None:
        return None
    scores = []
    for failure, reflection in said:
        tried, ids = failure.attempt, conversations.written(reflection.text).token_ids
        if reflection.finish_reason == "length":
            ids = ids[:-1]  # it was cut off before it ended its turn
        if ids:
            told = conversations.about(tried.verdict)
            prompt = told.reflection(tried.problem, tried.completion)
            scores.append(likelihood(prompt, [ids])[0] / len(ids))
    return fmean(scores) if scores else None


def _mean(values: Sequence[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def summarise(rows: Mapping[str, Sequence[StepRow]]) -> list[Quantity]:
    """Return each measure in each part of training, and the last part less the first."""
    found: list[Quantity | None] = []
    for name, says in MEASURES.items():
        parts = {run: _parts(each, name) for run, each in rows.items()}
        for part in range(PARTS):
            values = {run: _alone(each[part]) for run, each in parts.items()}
            found.append(pool(name, f"part {part + 1} of {PARTS}", says, values))
        changes = {
            run: _alone(None if a is None or b is None else b - a)
            for run, (a, *_, b) in parts.items()
        }
        found.append(pool(name, "change", f"{says}: last part less first", changes))
    return present(found)


def _alone(value: float | None) -> list[tuple[str, float, float]]:
    return [] if value is None else [("", value, 1.0)]


def _parts(rows: Sequence[StepRow], name: str) -> list[float | None]:
    """Return the mean of a measure over the steps of each part."""
    last = max((row.step for row in rows), default=1)
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for row in rows:
        value = getattr(row, name)
        if value is not None:
            parts[(row.step - 1) * PARTS // last].append(value)
    return [fmean(part) if part else None for part in parts]
