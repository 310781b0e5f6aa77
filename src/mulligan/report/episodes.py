"""Real episodes side by side: the same problems before and after training."""

from collections.abc import Sequence
from dataclasses import dataclass

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.scores import judged
from mulligan.evaluation.trials import TIMES, Trials
from mulligan.randomness import derive_seed
from mulligan.report.markup import Html, element, together
from mulligan.report.texts import badge, said
from mulligan.types import Answer, Trial

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """Which episodes are shown, and out of how many."""

    pairs: tuple[tuple[Trial, ...], ...]
    """For each problem and sample its trials, in the order of time."""
    eligible: int
    passed: tuple[int, ...]
    """For how many of the eligible the retry passed, in the order of time."""


def choose(trials: Trials, seed: int, count: int = SHOWN) -> Choice:
    """Draw episodes by seed from the problems whose first try failed every time.

    Only those have a reflection to show each time. Whether the retry passed plays no part, so
    failures appear as often as they happen.
    """
    columns = [
        {(t.problem_id, t.sample): t for t in trials[when]} for when in TIMES if trials[when]
    ]
    shared = set.intersection(*map(set, columns)) if columns else set()
    pairs = {key: tuple(column[key] for column in columns) for key in shared}
    eligible = [key for key, pair in pairs.items() if all(map(_reflected, pair))]
    drawn = sorted(eligible, key=lambda key: derive_seed(seed, "report", *key))[:count]
    columns_of_eligible = zip(*(pairs[key] for key in eligible), strict=True)
    return Choice(
        pairs=tuple(pairs[key] for key in drawn),
        eligible=len(eligible),
        passed=tuple(sum(map(_retry_passed, column)) for column in columns_of_eligible),
    )


def render(choice: Choice) -> Html:
    """Return the chosen episodes as markup, each problem with its columns side by side."""
    return together(*(_episode(number, pair) for number, pair in enumerate(choice.pairs, 1)))


def _reflected(trial: Trial) -> bool:
    return judged(trial, "first_try") is False and trial.reflection is not None


def _retry_passed(trial: Trial) -> bool:
    return judged(trial, "after_reflection") is True


def _episode(number: int, pair: Sequence[Trial]) -> Html:
    return element(
        "article",
        element("h3", f"Problem {number}"),
        said(pair[0].question, "question"),
        element("div", *map(_side, pair), class_="sides"),
        class_="episode",
    )


def _side(trial: Trial) -> Html:
    return element(
        "section",
        element("h4", f"{trial.when.capitalize()} training"),
        _turn("First try", trial.first_try),
        _reflection(trial),
        _turn("Retry", trial.after_reflection),
        _controls(trial),
        class_=f"side {trial.when}",
    )


def _reflection(trial: Trial) -> Html:
    leak = element("span", "contains a passing answer", class_="badge leak")
    label = element("h5", "Reflection ", leak if trial.leaked else "")
    return element("div", label, said(trial.reflection or "", "reflection"), class_="turn")


def _turn(title: str, answer: Answer | None) -> Html:
    if answer is None:
        return Html()
    verdict = badge(answer.verdict, cut_off=answer.finish_reason == "length")
    label = element("h5", f"{title} ", verdict)
    between = said(answer.reflection, "between") if answer.reflection is not None else ""
    content = (label, between, _thoughts(answer), said(answer.text, "answer"))
    return element("div", *content, class_="turn")


def _thoughts(answer: Answer) -> Html:
    if not answer.thoughts:
        return Html()
    return element("details", element("summary", "Thoughts"), said(answer.thoughts, "thoughts"))


def _controls(trial: Trial) -> Html:
    answers = [(control.title, trial.second_tries.get(control.name)) for control in CONTROLS]
    turns = [_turn(title, answer) for title, answer in answers if answer is not None]
    return element("details", element("summary", "Controls"), *turns) if turns else Html()
