"""The rounds of a run: a table and its curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mulligan.evaluation.rounds import Round
from mulligan.evaluation.statistics import Interval
from mulligan.report.drawing import COLOURS, STYLED, WIDTH, Drawing, drawn
from mulligan.report.sheets import Sheet, SheetRow, Value

Column = Callable[[Round], Interval | None]

COLUMNS: tuple[tuple[str, Column], ...] = (
    ("First try", lambda each: each.dev.first_try),
    ("After reflection", lambda each: each.dev.after_reflection),
    ("What reflection adds", lambda each: each.dev.reflection_over_nothing),
    ("Failures found", lambda each: each.failed),
    ("Failures now passed", lambda each: each.drift),
)
"""What is shown of a round, by its title."""

_NOTE = (
    "Measured on the same dev problems with the same seeds after each round, and before the first. "
    "Failures found are a share of the first tries of the round's own collection, on problems that "
    "no earlier round has tried unless failures are stored. Failures now passed are how far the "
    "store has drifted: the share of the round's failures that the model passes after it."
)


def rounds_sheet(rounds: Sequence[Round]) -> Sheet:
    """Return the rounds as a table; without rows where there is one round."""
    rows = tuple(
        SheetRow(
            f"After round {each.number}" if each.number else "Before training",
            tuple(_value(column(each)) for _, column in COLUMNS),
        )
        for each in rounds
    )
    return Sheet("Rounds, with 95% intervals", tuple(title for title, _ in COLUMNS), rows, _NOTE)


def _value(interval: Interval | None) -> Value:
    if interval is None:
        return Value()
    return Value(f"{interval.value:.1%}", f"{interval.low:.1%} to {interval.high:.1%}")


def round_figures(rounds: Sequence[Round]) -> list[Drawing]:
    """Return a curve over rounds for everything that is known of them."""
    made = (_curve(title, column, rounds) for title, column in COLUMNS)
    return [drawing for drawing in made if drawing is not None]


def about_consolidation(
    searched: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Say what was found to be consolidated, and how the training on it went."""
    problems, solved, failed, retries, passed = (
        sum(int(row[name]) for row in searched)
        for name in ("problems", "solved", "failed", "retries", "passed")
    )
    yield (
        f"Consolidation: of {problems:,} problems the policy solved {solved:,} at the first try "
        f"and tried {failed:,} again; {passed:,} of {retries:,} retries passed."
    )
    if steps:
        yield (
            f"It was then trained on the bare questions for {len(steps):,} steps, the loss per "
            f"token going from {steps[0]['loss']:.3g} to {steps[-1]['loss']:.3g}."
        )


@STYLED
def _curve(title: str, column: Column, rounds: Sequence[Round]) -> Drawing | None:
    """Draw one number over rounds with its interval; None where no round has it."""
    known = [(each.number, rate) for each in rounds if (rate := column(each)) is not None]
    if not known:
        return None
    numbers, values = [number for number, _ in known], [rate.value for _, rate in known]
    figure = Figure(figsize=(WIDTH, 1.9))
    axes = figure.add_axes((0.135, 0.235, 0.845, 0.735))
    for number, rate in known:
        axes.plot([number, number], [rate.low, rate.high], color=COLOURS["after"], alpha=0.5)
    axes.plot(numbers, values, color=COLOURS["after"], marker="o", markersize=4)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=COLOURS["faint"], alpha=0.35, linewidth=0.6)
    said = f"{values[0]:.1%} at round {numbers[0]}, {values[-1]:.1%} at round {numbers[-1]}"
    return drawn(figure, f"{title}, over rounds", said)
