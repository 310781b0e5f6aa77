"""The report: a run's folder becomes one HTML file, without scripts and without network."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.tables import ControlDifference, Difference, LeakRate, Table
from mulligan.evaluation.trials import COLUMNS, TIMES, TITLES
from mulligan.report import episodes, forgetting
from mulligan.report.figures import (
    TRAINING_CURVES,
    WARMUP_CURVE,
    curve_figure,
    rates_figure,
    reasons_figure,
)
from mulligan.report.inputs import RunContent, read_run
from mulligan.report.layout import document, grid, section, stacked
from mulligan.report.markup import Html, element, together
from mulligan.report.settings import commands, stages, versions
from mulligan.report.summary import evaluated, summary
from mulligan.report.table import (
    NOTHING,
    gain_text,
    percent,
    points,
    share_text,
    size_text,
    unjudged_text,
)
from mulligan.storage.atomic import write_atomically

_HEADINGS = ("Before training", "After training")

_HOW_TO_READ = (
    "A problem counts as solved after reflection when the first try or the retry passes: the "
    "retry is only asked for where the first try failed. The controls ask the same failed "
    "problems again without a reflection, and after a reflection on another problem; what "
    "reflection brings beyond them is neither luck nor the second chance alone. Intervals hold "
    "95%: Wilson’s for rates, a paired bootstrap over problems for differences. An interval of a "
    "difference that includes zero shows no difference."
)
_ABOUT_FORMAT = (
    "An answer that cannot be read is not a wrong answer: format failures are hatched and stand "
    "apart. The bars of retries cover only the problems whose first try failed. A reflection "
    "leaks when it contains a passing answer, so that rewarding it rewards the answer."
)


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Parts that the run does not have yet are said to be missing. The same run gives the same bytes.

    Raises:
        MulliganError: the folder is not a run's, holds what cannot be read, or cannot be written.
    """
    path = run / "report.html"
    write_atomically(path, render(read_run(run)))
    return path


def render(run: RunContent) -> str:
    """Return the whole page."""
    return document(run.name, *_sections(run))


def _sections(run: RunContent) -> Iterator[Html]:
    yield element(
        "header",
        element("p", "Mulligan · reflect, retry, reward", class_="kicker"),
        element("h1", run.name),
        *(element("p", paragraph, class_="lede") for paragraph in summary(run)),
    )
    yield section("The result", *_result(run.table))
    yield section("Wrong answers and unreadable ones", *_reasons(run.table))
    yield section("Training", *_training(run))
    yield section("Episodes", *_episodes(run))
    yield section("What was forgotten", *_forgetting(run))
    yield section("Stages and settings", *stages(run))
    yield section("Make these numbers again", *commands(run), *versions(run))


def _forgetting(run: RunContent) -> Iterator[Html]:
    if run.forgetting is None:
        yield _missing("Not measured yet; `mulligan forget` does.")
        return
    yield from forgetting.paragraphs(run.forgetting)


def _missing(sentence: str) -> Html:
    return element("p", sentence, class_="missing")


def _result(table: Table) -> Iterator[Html]:
    if not table.cells:
        yield _missing("This run holds no evaluation yet; `mulligan evaluate` makes one.")
        return
    if not table.differences:
        yield _missing("There is no evaluation after training yet, so there are no differences.")
    yield _rates_table(table)
    yield element("p", evaluated(table), class_="note")
    yield element("div", rates_figure(table), _how_to_read(), class_="charts")
    if table.controls:
        yield element("h3", "Reflection against its controls")
        yield _control_table(table)


def _how_to_read() -> Html:
    return element("div", element("h3", "How to read it"), element("p", _HOW_TO_READ))


def _rates_table(table: Table) -> Html:
    rows = []
    for column in COLUMNS:
        cells = [table.cell(column, when) for when in TIMES]
        if any(cells):
            shown = [
                stacked(percent(c.rate), _span(c.low, c.high), f"{c.passed:,} of {c.n:,}")
                if c
                else stacked(NOTHING)
                for c in cells
            ]
            rows.append((TITLES[column], *shown, _difference(table.difference(column))))
    against = {row.when: row for row in table.controls if row.control == "after_nothing"}
    added = [_difference(against.get(when)) for when in TIMES]
    change = _difference(table.difference("reflection_over_nothing"))
    rows.append(("What reflection adds to asking again", *added, change))
    gains = [stacked(gain_text(table, when)) for when in TIMES]
    gain = _difference(table.difference("gain_with_second_chance"))
    rows.append(("Gain from reflecting", *gains, gain))
    return grid(("Solved", *_HEADINGS, "Difference, points"), rows, "rates")


def _control_table(table: Table) -> Html:
    rows = []
    for control in (each.column for each in CONTROLS):
        found = {row.when: row for row in table.controls if row.control == control}
        if found:
            name = f"After reflection minus “{TITLES[control]}”"
            rows.append((name, *(_difference(found.get(when)) for when in TIMES)))
    return grid(("Points", *_HEADINGS), rows, "rates")


def _difference(row: Difference | ControlDifference | None) -> Html:
    if row is None:
        return stacked(NOTHING)
    mark = "" if row.low > 0 or row.high < 0 else "includes zero"
    return stacked(points(row.difference), f"{points(row.low)} to {points(row.high)}", mark)


def _span(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _reasons(table: Table) -> Iterator[Html]:
    if not table.reasons:
        yield _missing("No answer was judged yet.")
        return
    about = element("div", element("p", _ABOUT_FORMAT))
    yield element("div", reasons_figure(table), about, class_="charts")
    yield grid(("", *_HEADINGS), list(_side_rows(table)), "plain")


def _side_rows(table: Table) -> Iterator[tuple[str, ...]]:
    leaks = {row.when: row for row in table.leak_rates}
    unread = [(table.count("first_try", when, "unparseable"), table.size(when)) for when in TIMES]
    yield ("Reflections that contain a passing answer", *(_leak(leaks.get(when)) for when in TIMES))
    yield ("First tries that cannot be read as an answer", *(share_text(*pair) for pair in unread))
    yield ("Answers left out: the verifier broke", *(unjudged_text(table, w) for w in TIMES))
    lengths = {(row.when, row.text): f"{row.mean_tokens:.1f}" for row in table.lengths}
    for text, name in _LENGTHS.items():
        yield (name, *(lengths.get((when, text), NOTHING) for when in TIMES))
    yield ("Problems, and first tries at them", *(size_text(table.size(when)) for when in TIMES))


def _leak(row: LeakRate | None) -> Html:
    if row is None:
        return together(NOTHING)
    return together(percent(row.rate), element("small", _span(row.low, row.high)))


_LENGTHS = {
    "first_try": "Tokens of a first try, on average",
    "reflection": "Tokens of a reflection, on average",
    "after_reflection": "Tokens of a retry after reflection, on average",
}


def _training(run: RunContent) -> Iterator[Html]:
    if run.metrics:
        yield element("p", " ".join(_about_training(run)), class_="note")
    else:
        yield _missing("No training step is recorded yet.")
    drawn = [curve_figure(curve, run.metrics) for curve in TRAINING_CURVES]
    drawn.append(curve_figure(WARMUP_CURVE, run.warmup))
    figures = [figure for figure in drawn if figure is not None]
    if figures:
        yield element("div", *figures, class_="charts")


def _about_training(run: RunContent) -> Iterator[str]:
    yield f"{len(run.metrics):,} steps on {run.failures:,} stored failures."
    parts = [
        (row["rollout"], row["update"]) for row in run.timings if {"rollout", "update"} <= {*row}
    ]
    if parts:
        rollout, update = (median(column) for column in zip(*parts, strict=True))
        yield (
            f"At the median a step took {rollout:.1f} seconds for reflections and retries and "
            f"{update:.1f} for the update."
        )
    if skipped := sum(bool(row.get("skipped")) for row in run.metrics):
        yield f"Updates left out because loss or gradient was not finite: {skipped:,}."
    if unjudged := sum(int(row.get("unjudged", 0)) for row in run.metrics):
        yield f"Episodes left out because the verifier broke: {unjudged:,}."
    yield "Thin lines show each step, thick ones the mean of the tenth of all steps around it."


def _episodes(run: RunContent) -> Iterator[Html]:
    seed = run.settings.get("seed")
    choice = episodes.choose(run.trials, seed if isinstance(seed, int) else 0)
    if not choice.pairs:
        yield _missing("There is no problem yet with a failed first try and a reflection to show.")
        return
    passed = " and ".join(f"{count:,}" for count in choice.passed)
    times = "before and after training" if len(choice.passed) > 1 else "so far"
    yield element(
        "p",
        f"{len(choice.pairs)} of {choice.eligible:,}, drawn by the run’s seed among the problems "
        "whose first try failed each time, since only those have a reflection each time. Whether "
        f"the retry passed plays no part in the choice; over all {choice.eligible:,} it passed "
        f"{passed} times, {times}. Characters that cannot be seen are shown "
        "as signs, such as ␛.",
        class_="note",
    )
    yield episodes.render(choice)
