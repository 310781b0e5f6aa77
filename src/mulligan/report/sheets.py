"""The tables of a report as rows of text: made once, painted in the terminal and on the page."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.evaluation.tables import (
    Cell,
    ControlDifference,
    Difference,
    Endpoint,
    LeakRate,
    LeakSplit,
    Size,
    Table,
)
from mulligan.evaluation.trials import COLUMNS, TIMES, TITLES

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Value:
    """A number of a table, with what belongs to it."""

    text: str = NOTHING
    interval: str = ""
    note: str = ""

    @property
    def line(self) -> str:
        """The number and its interval, as ``36.2% [31.7 to 41.1]``."""
        return f"{self.text} [{self.interval}]" if self.interval else self.text


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A row of a table."""

    title: str
    values: tuple[Value, ...]
    is_headline: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table to be painted."""

    title: str
    headings: tuple[str, ...]
    """Of the values' columns."""
    rows: tuple[SheetRow, ...]
    note: str = ""
    """What has to be known to read it."""


_BEFORE_AND_AFTER = ("before training", "after training")
_LENGTHS = {
    "first_try": "Tokens of a first try, on average",
    "reflection": "Tokens of a reflection, on average",
    "after_reflection": "Tokens of a retry, on average",
}
_ENTROPIES = {
    "first_try": "Entropy of a first try, nats per token",
    "reflection": "Entropy of a reflection, nats per token",
}


def sheets(table: Table) -> Iterator[Sheet]:
    """Yield every table that has rows, in the order in which they are read."""
    for make in (
        solved_sheet,
        controls_sheet,
        leak_sheet,
        endpoints_sheet,
        flips_sheet,
        models_sheet,
        side_sheet,
    ):
        sheet = make(table)
        if sheet.rows:
            yield sheet
        if make is solved_sheet:
            yield from part_sheets(table)


def solved_sheet(table: Table) -> Sheet:
    """Return what was solved in every column, and what reflection adds."""
    rows = [
        SheetRow(
            TITLES[column],
            (*(rate(table.cell(column, when)) for when in TIMES), change(table, column)),
        )
        for column in COLUMNS
        if any(table.cell(column, when) for when in TIMES)
    ]
    if any(row.control == "after_nothing" for row in table.controls):
        added = [difference(table.against("after_nothing", when)) for when in TIMES]
        headline = (*added, change(table, "reflection_over_nothing"))
        rows.append(SheetRow(SCORE_TITLES["reflection_over_nothing"], headline, is_headline=True))
    if rows:
        gains = (*(_gain(table, when) for when in TIMES), change(table, "gain_with_second_chance"))
        rows.append(SheetRow(SCORE_TITLES["gain_with_second_chance"], gains))
    return Sheet("Solved, with 95% intervals", (*_BEFORE_AND_AFTER, "change, points"), tuple(rows))


def part_sheets(table: Table) -> Iterator[Sheet]:
    """Yield what was solved of each part of a mix of tasks."""
    for name, part in table.parts:
        yield replace(solved_sheet(part), title=f"Solved of {name}, with 95% intervals")


def controls_sheet(table: Table) -> Sheet:
    """Return reflection against each of its controls."""
    rows = [
        SheetRow(
            control.title,
            (
                *(difference(table.against(control.column, when)) for when in TIMES),
                change(table, f"reflection_over_{control.name}"),
            ),
        )
        for control in CONTROLS
        if any(table.against(control.column, when) for when in TIMES)
    ]
    return Sheet(
        "After reflection minus each control, points", (*_BEFORE_AND_AFTER, "change"), tuple(rows)
    )


def leak_sheet(table: Table) -> Sheet:
    """Return retries by whether the reflection states a passing answer, each with its control."""
    rows = [
        SheetRow(
            f"{when.capitalize()}: {'states an answer' if split.leaked else 'states none'}",
            (
                _count(split.passed_after_reflection, split.n),
                _count(split.passed_after_nothing, split.n),
                difference(split),
            ),
        )
        for when in TIMES
        for split in table.leak_splits
        if split.when == when
    ]
    return Sheet(
        "Retries, by whether the reflection states a passing answer",
        ("after reflection", "asked again", "difference, points"),
        tuple(rows),
        "This split is made after training, by what the model wrote: the failures on which "
        "it can state an answer are not those on which it cannot. It shows where the passes "
        "are, not what causes them.",
    )


def endpoints_sheet(table: Table) -> Sheet:
    """Return the endpoints that the recipe declares, and what may be concluded."""
    rows = [
        SheetRow(
            SCORE_TITLES[row.name] + (" (primary)" if row.role == "primary" else ""),
            (difference(row), Value(p_text(row.p_adjusted)), Value(conclusion(row))),
        )
        for row in table.endpoints
    ]
    return Sheet(
        "Endpoints of the recipe",
        ("change, points", "p", "conclusion"),
        tuple(rows),
        "p of the secondary endpoints is adjusted for their number (Holm). A change that is not "
        "shown is undecided, unless an equivalence test shows it to be smaller than the margin.",
    )


def flips_sheet(table: Table) -> Sheet:
    """Return how many rows each column gained and lost."""
    rows = [
        SheetRow(
            SCORE_TITLES[row.name],
            (
                Value(f"{row.gained:,}"),
                Value(f"{row.lost:,}"),
                Value(NOTHING if row.p_exact is None else p_text(row.p_exact)),
            ),
        )
        for row in table.differences
        if row.gained is not None and row.lost is not None
    ]
    return Sheet(
        "Solved before and not after, and the other way round",
        ("newly solved", "no longer solved", "exact p"),
        tuple(rows),
    )


def models_sheet(table: Table) -> Sheet:
    """Return what other models solve, where some were evaluated too."""
    others = [when for when in table.whens if when not in TIMES]
    rows = [
        SheetRow(TITLES[column], tuple(rate(table.cell(column, when)) for when in others))
        for column in COLUMNS
        if any(table.cell(column, when) for when in others)
    ]
    added = tuple(difference(table.against("after_nothing", when)) for when in others)
    if any(table.against("after_nothing", when) for when in others):
        rows.append(SheetRow(SCORE_TITLES["reflection_over_nothing"], added, is_headline=True))
    return Sheet("Other models, untrained, on the same problems", tuple(others), tuple(rows))


def side_sheet(table: Table) -> Sheet:
    """Return what is counted beside the rates."""
    leaks = {row.when: row for row in table.leak_rates}
    lengths = {(row.when, row.text): f"{row.mean_tokens:.1f}" for row in table.lengths}
    entropies = {(row.when, row.text): f"{row.nats:.2f}" for row in table.entropies}
    found: list[tuple[str, list[Value]]] = [
        ("Reflections that contain a passing answer", [rate(leaks.get(w)) for w in TIMES]),
        ("First tries that cannot be read", [_unread(table, when) for when in TIMES]),
        ("Answers left out: the verifier broke", [_unjudged(table, when) for when in TIMES]),
        *((name, [_look_up(lengths, w, text) for w in TIMES]) for text, name in _LENGTHS.items()),
        *(
            (name, [_look_up(entropies, w, text) for w in TIMES])
            for text, name in _ENTROPIES.items()
        ),
        ("Problems, and first tries", [_size(table.size(when)) for when in TIMES]),
    ]
    rows = [
        SheetRow(name, tuple(values))
        for name, values in found
        if any(value.text != NOTHING for value in values)
    ]
    note = (
        "Entropy is estimated by minus the mean log-probability of the tokens that were sampled, "
        "under the distribution they were sampled from."
    )
    return Sheet("Beside the table", _BEFORE_AND_AFTER, tuple(rows), note if entropies else "")


def percent(fraction: float) -> str:
    """Return a fraction as ``36.2%``."""
    return f"{100 * fraction:.1f}%"


def points(difference: float) -> str:
    """Return a difference of fractions in percentage points, with its sign: ``+4.5``, ``−1.0``."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def p_text(p: float) -> str:
    """Return a p-value as ``0.032``, or ``<0.001``."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def rate(row: Cell | LeakRate | None) -> Value:
    """Return a share with its interval."""
    if row is None:
        return Value()
    count = f"{row.passed:,} of {row.n:,}" if isinstance(row, Cell) else ""
    return Value(percent(row.rate), f"{100 * row.low:.1f} to {100 * row.high:.1f}", count)


def difference(row: Difference | ControlDifference | Endpoint | LeakSplit | None) -> Value:
    """Return a difference in points with its interval."""
    if row is None:
        return Value()
    undecided = "includes zero" if row.low <= 0 <= row.high else ""
    return Value(points(row.difference), f"{points(row.low)} to {points(row.high)}", undecided)


def change(table: Table, name: str) -> Value:
    """Return after minus before of one thing that is compared."""
    return difference(table.difference(name))


def conclusion(row: Endpoint) -> str:
    """Say what may be concluded from an endpoint."""
    if row.conclusion == "undecided":
        return "undecided"
    if row.conclusion == "no difference":
        return f"none beyond ±{100 * row.margin:g} points"
    return row.conclusion


def _gain(table: Table, when: str) -> Value:
    first, second = table.cell("first_try", when), table.cell("after_reflection", when)
    return Value(points(second.rate - first.rate)) if first and second else Value()


def _count(passed: int, n: int) -> Value:
    return Value(percent(passed / n), note=f"{passed:,} of {n:,}")


def _unread(table: Table, when: str) -> Value:
    size = table.size(when)
    count = table.count("first_try", when, "unparseable")
    return Value(f"{count:,} of {size.rows:,}") if size else Value()


def _unjudged(table: Table, when: str) -> Value:
    if table.size(when) is None:
        return Value()
    return Value(f"{sum(table.unjudged(column, when) for column in COLUMNS):,}")


def _look_up(found: dict[tuple[str, str], str], when: str, text: str) -> Value:
    return Value(found.get((when, text), NOTHING))


def _size(size: Size | None) -> Value:
    return Value(f"{size.problems:,} and {size.rows:,}") if size else Value()
