"""The figure of a study: every arm's change in the endpoints, run by run."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.report.drawing import COLOURS, STYLED, Drawing, drawn, new_figure
from mulligan.report.sheets import points
from mulligan.study.table import Estimate, StudyTable

_ROW = 0.34
"""Inches of an arm's row."""


@STYLED
def changes_figure(table: StudyTable, outcome: str) -> Drawing | None:
    """Draw each arm's change of an outcome: its runs, its mean, its interval; None without any."""
    found = [
        estimate
        for arm in table.arms
        if (estimate := table.estimate(arm, outcome, "change")) is not None
    ]
    if not found:
        return None
    figure, axes = new_figure(height=_ROW * len(found) + 0.7)
    for row, estimate in enumerate(found):
        _draw(axes, row, estimate)
    axes.axvline(0, color=COLOURS["faint"], linewidth=0.8)
    axes.set_yticks(range(len(found)), [estimate.arm for estimate in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("points, after training minus before")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=COLOURS["faint"], alpha=0.35, linewidth=0.6)
    title = f"Change, {SCORE_TITLES[outcome].lower()}"
    return drawn(figure, title, "; ".join(_said(found)))


def _draw(axes: Axes, row: int, estimate: Estimate) -> None:
    runs = [100 * value for value in estimate.per_run.values()]
    axes.plot(runs, [row] * len(runs), "o", color=COLOURS["after"], alpha=0.35, markersize=4)
    if estimate.low is not None and estimate.high is not None:
        ends = [100 * estimate.low, 100 * estimate.high]
        axes.plot(ends, [row, row], color=COLOURS["after"], linewidth=2)
    axes.plot(100 * estimate.mean, row, "D", color=COLOURS["after"], markersize=6.5)


def _said(found: Sequence[Estimate]) -> list[str]:
    return [f"{each.arm} {points(each.mean)} over {len(each.per_run)} runs" for each in found]
