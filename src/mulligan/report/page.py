"""The report: a run's folder becomes one HTML file, without scripts and without network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.statistics import Interval
from mulligan.evaluation.tables import Table
from mulligan.report import episodes, forgetting
from mulligan.report.figures import rates_figure, reason_figures, training_figures
from mulligan.report.inputs import RunContent, read_run
from mulligan.report.layout import document, figure, section, stacked
from mulligan.report.markup import Html, element, together
from mulligan.report.rounds import about_consolidation, round_figures, rounds_sheet
from mulligan.report.settings import commands, stages, versions
from mulligan.report.sheets import (
    Sheet,
    controls_sheet,
    endpoints_sheet,
    flips_sheet,
    leak_sheet,
    models_sheet,
    part_sheets,
    side_sheet,
    solved_sheet,
)
from mulligan.report.summary import evaluated, summary
from mulligan.report.trained import render_groups
from mulligan.storage.atomic import write_atomically

_HOW_TO_READ = (
    "A problem counts as solved after reflection when the first try or the retry passes: the "
    "retry is only asked for where the first try failed. What reflection adds is that rate less "
    "the rate of the same problems asked again with nothing in between, so that the second "
    "chance itself cancels out. Intervals hold 95%: Wilson’s for rates, a paired bootstrap over "
    "problems for differences. They hold for this trained model only: another seed gives another "
    "model, and a claim about the method needs several (mulligan study)."
)
_ABOUT_FORMAT = (
    "An answer that cannot be read is not a wrong answer: format failures are hatched and stand "
    "apart. The bars of retries cover only the problems whose first try failed. The bands follow "
    "each first try from its outcome before training, on the left, to the one after it."
)
_ABOUT_TRAINED = (
    "A group from the first step, from the middle and from the last: what the model failed, and "
    "what it wrote next, each with its advantage: a reflection and the retry that followed. "
    "Green texts were made more likely and orange ones less likely, the stronger the "
    "colour, the more so; "
    "grey ones were not trained on."
)


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Parts that the run does not have yet are named as missing. The same run gives the same bytes.

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
    yield section("What reflection adds", *_against_controls(run.table))
    yield section("Wrong answers and unreadable ones", *_reasons(run.table))
    if run.rounds:
        yield section("Rounds", *_rounds(run))
    yield section("Training", *_training(run))
    yield section("What was trained on", *_trained(run))
    yield section("Episodes", *_episodes(run))
    yield section("What was forgotten", *_forgetting(run))
    yield section("Stages and settings", *stages(run))
    yield section("Reproduce these numbers", *commands(run), *versions(run))


def _forgetting(run: RunContent) -> Iterator[Html]:
    if run.forgetting is None:
        yield _missing("Not measured yet: `mulligan forget` does that.")
        return
    yield from forgetting.paragraphs(run.forgetting)


def _missing(sentence: str) -> Html:
    return element("p", sentence, class_="missing")


def _result(table: Table) -> Iterator[Html]:
    if not table.cells:
        yield _missing("This run has no evaluation yet: `mulligan evaluate` makes one.")
        return
    if not table.differences:
        yield _missing("There is no evaluation after training yet, so there are no differences.")
    for solved in (solved_sheet(table), *part_sheets(table)):
        yield _painted(solved, "rates")
    yield element("p", evaluated(table), class_="note")
    about = element("div", element("h3", "How to read it"), element("p", _HOW_TO_READ))
    yield element("div", figure(rates_figure(table)), about, class_="charts")
    for sheet in (endpoints_sheet(table), models_sheet(table)):
        yield _painted(sheet, "rates")


def _against_controls(table: Table) -> Iterator[Html]:
    sheet, split = controls_sheet(table), leak_sheet(table)
    if not sheet.rows:
        yield _missing("No control was asked for, or nothing was evaluated yet.")
    yield _painted(sheet, "rates")
    asked = {row.control for row in table.controls}
    terms = (
        element("div", element("dt", control.title), element("dd", control.says))
        for control in CONTROLS
        if control.column in asked
    )
    yield element("dl", *terms)
    yield _painted(split, "rates")


def _reasons(table: Table) -> Iterator[Html]:
    if not table.reasons:
        yield _missing("No answer was judged yet.")
        return
    about = element("div", element("p", _ABOUT_FORMAT))
    yield element("div", *map(figure, reason_figures(table)), about, class_="charts")
    yield _painted(flips_sheet(table), "plain")
    yield _painted(side_sheet(table), "plain")


def _painted(sheet: Sheet, kind: str) -> Html:
    """Return a table as markup, and under it what has to be known to read it."""
    if not sheet.rows:
        return Html()
    head = element("tr", *(element("th", text, scope="col") for text in ("", *sheet.headings)))
    body = (
        element(
            "tr",
            element("th", row.title, scope="row"),
            *(
                element("td", stacked(value.text, value.interval, value.note))
                for value in row.values
            ),
            class_="headline" if row.is_headline else "row",
        )
        for row in sheet.rows
    )
    parts = (element("caption", sheet.title), element("thead", head), element("tbody", *body))
    shown = element("div", element("table", *parts, class_=kind), class_="wide")
    return together(shown, element("p", sheet.note, class_="note") if sheet.note else "")


def _rounds(run: RunContent) -> Iterator[Html]:
    yield _painted(rounds_sheet(run.rounds), "rates")
    yield element("div", *map(figure, round_figures(run.rounds)), class_="charts")


def _training(run: RunContent) -> Iterator[Html]:
    if run.metrics:
        yield element("p", " ".join(_about_training(run)), class_="note")
    else:
        yield _missing("No training step is recorded yet.")
    if run.searched:
        yield element("p", " ".join(about_consolidation(run.searched, run.consolidation)))
    figures = training_figures(run.metrics, run.warmup, run.dev)
    if figures:
        yield element("div", *map(figure, figures), class_="charts")


def _share_text(share: Interval) -> str:
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _is_online(run: RunContent) -> bool:
    collect = run.settings.get("collect")
    return isinstance(collect, Mapping) and collect.get("failures") == "online"


def _about_training(run: RunContent) -> Iterator[str]:
    kind = "failures of the policy as it was at each step" if _is_online(run) else "stored failures"
    if run.rounds:
        yield "What follows is the newest round’s."
    yield f"{len(run.metrics):,} steps on {run.failures:,} {kind}."
    shares = [(line.step, share) for line in run.store_drift if (share := line.share)]
    if len(shares) > 1:
        (first, before), (last, after) = shares[0], shares[-1]
        yield (
            f"Of a sample of them the policy would pass {_share_text(before)} at step {first:,} "
            f"and {_share_text(after)} at step {last:,}; the more, the less the store says of it."
        )
    parts = [
        (row["rollout"], row["update"]) for row in run.timings if {"rollout", "update"} <= {*row}
    ]
    if parts:
        rollout, update = (median(column) for column in zip(*parts, strict=True))
        yield (
            f"The median step took {rollout:.1f} seconds for reflections and retries and "
            f"{update:.1f} for the update."
        )
    if skipped := sum(bool(row.get("skipped")) for row in run.metrics):
        yield f"Updates skipped because the loss or gradient was not finite: {skipped:,}."
    if unjudged := sum(int(row.get("unjudged", 0)) for row in run.metrics):
        yield f"Episodes left out because the verifier broke: {unjudged:,}."
    yield "Thin lines show each step, thick ones the mean of the tenth of all steps around it."


def _trained(run: RunContent) -> Iterator[Html]:
    if not run.groups:
        yield _missing("No episode that was trained on is stored here.")
        return
    yield element("p", _ABOUT_TRAINED, class_="note")
    train = run.settings.get("train")
    learn = train.get("learn", "reflection") if isinstance(train, Mapping) else "reflection"
    yield render_groups(run.groups, str(learn))


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
        f"{passed} times, {times}. Invisible characters are shown as symbols, such as ␛.",
        class_="note",
    )
    yield episodes.render(choice)
