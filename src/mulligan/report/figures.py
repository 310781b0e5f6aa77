"""The figures of a report: rates, reasons and how they changed, and training over steps."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mulligan.evaluation.dev_curve import DevPoint
from mulligan.evaluation.tables import Flip, ReasonCount, Table
from mulligan.evaluation.trials import COLUMNS, TIMES, TITLES
from mulligan.report.drawing import COLOURS, STYLED, WIDTH, Drawing, drawn, new_figure
from mulligan.report.texts import reason_name

_PAINTS: dict[str, tuple[str, list[tuple[str, str | None]]]] = {
    "passed": ("", [(COLOURS["passed"], None)]),
    "failed": ("wrong: ", [(COLOURS[f"wrong-{rank}"], None) for rank in range(1, 7)]),
    "unparseable": ("format: ", [(COLOURS["unparseable"], hatch) for hatch in ("////", "....")]),
    "error": ("not judged: ", [(COLOURS["error"], "xxxx")]),
}
"""For each status what its reasons are called and painted with: colour and hatch."""

_SMALLEST_LABELLED_SHARE = 0.07
_LONGEST_IN_TWO_COLUMNS = 29
"""In characters: two columns of longer entries in the legend would not fit the page's width."""

_FLOW_BAR = 0.06
"""Width of an outcome's bar, where the two sides are 1 apart."""
_FLOW_GAP = 0.02
"""Space between outcomes, as a share of all rows."""

_CURVE_PLACE = (0.135, 0.235, 0.845, 0.735)
"""Left, bottom, width and height of a curve's axes: the same for all, so that steps line up."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one small chart over training steps shows."""

    key: str
    """Its name in a line of metrics."""
    title: str
    is_share: bool = False
    may_be_off: bool = False
    """Whether zero at every step means that it was switched off: then it is not drawn."""


TRAINING_CURVES = (
    Curve("reward", "Mean reward (with the verdict: share of retries that pass)"),
    Curve("reflection_tokens", "Length of a reflection, in tokens"),
    Curve("distinct", "Different reflections among those of a step", is_share=True),
    Curve("live_groups", "Groups that teach, because their rewards differ"),
    Curve("kl", "Divergence from the model before training (KL)", may_be_off=True),
    Curve("gradient_norm", "Norm of the gradient, before clipping"),
    Curve("logprob_mismatch", "Log-probability mismatch, engine against trainer"),
)
WARMUP_CURVE = Curve("loss", "Warm-up loss")


def all_figures(
    table: Table,
    metrics: Sequence[Mapping[str, object]],
    warmup: Sequence[Mapping[str, object]],
    dev: Sequence[DevPoint],
) -> list[Drawing]:
    """Return every figure of a report, in the order of the page."""
    made = [rates_figure(table)] if table.cells else []
    return [*made, *reason_figures(table), *training_figures(metrics, warmup, dev)]


def reason_figures(table: Table) -> list[Drawing]:
    """Return what the verifier said, and how that changed, as far as there is something."""
    made = [reasons_figure(table)] if table.reasons else []
    return [*made, flow_figure(table.flips)] if table.flips else made


def training_figures(
    metrics: Sequence[Mapping[str, object]],
    warmup: Sequence[Mapping[str, object]],
    dev: Sequence[DevPoint],
) -> list[Drawing]:
    """Return the curves that there are points for."""
    made = [dev_figure(dev), *(curve_figure(curve, metrics) for curve in TRAINING_CURVES)]
    made.append(curve_figure(WARMUP_CURVE, warmup))
    return [figure for figure in made if figure is not None]


@STYLED
def rates_figure(table: Table) -> Drawing:
    """Draw every column's rate and interval, before and after training."""
    columns = [name for name in COLUMNS if any(table.cell(name, when) for when in TIMES)]
    figure, axes = new_figure(height=0.52 * len(columns) + 0.75)
    for row, column in enumerate(columns):
        for when, offset in (("before", -0.14), ("after", 0.14)):
            cell = table.cell(column, when)
            if cell is not None:
                place, colour = row + offset, COLOURS[when]
                axes.plot([cell.low, cell.high], [place, place], color=colour, linewidth=2)
                axes.plot(cell.rate, place, _MARKERS[when], color=colour, markersize=6.5)
    axes.set_yticks(range(len(columns)), [TITLES[column] for column in columns])
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=COLOURS["faint"], alpha=0.35, linewidth=0.6)
    handles = [
        axes.plot([], [], _MARKERS[when], color=COLOURS[when], label=f"{when} training")[0]
        for when in TIMES
        if table.size(when)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    description = "; ".join(
        f"{TITLES[cell.column]} {cell.when} training {cell.rate:.1%}" for cell in table.cells
    )
    return drawn(figure, "Solved, with 95% intervals", description)


_MARKERS = {"before": "o", "after": "D"}


@STYLED
def reasons_figure(table: Table) -> Drawing:
    """Draw the share of each of the verifier's reasons as stacked bars."""
    bars = {
        f"{name}, {when}": rows
        for column, name in (("first_try", "First try"), ("after_reflection", "Retry"))
        for when in TIMES
        if (rows := [r for r in table.reasons if (r.column, r.when) == (column, when)])
    }
    looks = _looks(row for rows in bars.values() for row in rows)
    longest = max((len(look.label) for look in looks), default=0)
    columns = 2 if longest <= _LONGEST_IN_TWO_COLUMNS else 1
    figure, axes = new_figure(
        height=0.42 * len(bars) + 0.55 + 0.2 * math.ceil(len(looks) / columns)
    )
    for place, rows in enumerate(bars.values()):
        _stack(axes, place, rows, looks)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    handles = [Patch(facecolor=look.colour, hatch=look.hatch, label=look.label) for look in looks]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        columnspacing=1.0,
        handlelength=1.2,
        handletextpad=0.5,
    )
    description = "; ".join(
        f"{name}: " + ", ".join(f"{reason_name(row.reason)} {row.count}" for row in rows)
        for name, rows in bars.items()
    )
    return drawn(figure, "What the verifier said", description)


@STYLED
def flow_figure(flips: Sequence[Flip]) -> Drawing:
    """Draw how first tries went from each outcome before training to one after it."""
    rows = [flip for flip in flips if flip.column == "first_try"]
    looks = _looks(
        ReasonCount("", "first_try", status, reason, row.count)
        for row in rows
        for status, reason in (
            (row.before_status, row.before_reason),
            (row.after_status, row.after_reason),
        )
    )
    counts = [
        [sum(row.count for row in rows if _goes(row, left, right)) for right in looks]
        for left in looks
    ]
    figure, axes = new_figure(height=2.5 + 0.2 * math.ceil(len(looks) / 2))
    _paint_flow(axes, counts, looks)
    handles = [Patch(facecolor=look.colour, hatch=look.hatch, label=look.label) for look in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    description = "; ".join(
        f"{left.label} to {right.label} {count}"
        for left, row in zip(looks, counts, strict=True)
        for right, count in zip(looks, row, strict=True)
        if count
    )
    return drawn(figure, "First tries: what became of each outcome", description)


def _goes(flip: Flip, left: "_Look", right: "_Look") -> bool:
    before = (flip.before_status, flip.before_reason)
    return before in left.reasons and (flip.after_status, flip.after_reason) in right.reasons


def _paint_flow(axes: Axes, counts: Sequence[Sequence[int]], looks: Sequence["_Look"]) -> None:
    """Draw a bar of outcomes on either side, and a band for each pair of them that occurs."""
    total = sum(map(sum, counts))
    gap = total * _FLOW_GAP
    sums = ([sum(row) for row in counts], [sum(column) for column in zip(*counts, strict=True)])
    tops = [_starts(side, gap) for side in sums]
    for x, side, starts in zip((0.0, 1.0), sums, tops, strict=True):
        for look, count, start in zip(looks, side, starts, strict=True):
            if count:
                left = x - _FLOW_BAR * (1 - x)
                axes.bar(
                    left, count, _FLOW_BAR, start, align="edge", color=look.colour, hatch=look.hatch
                )
                label_x, align = (-0.08, "right") if x == 0 else (1.08, "left")
                axes.text(label_x, start + count / 2, f"{count:,}", ha=align, va="center")
    across = np.linspace(0, 1, 40)
    bend = across**2 * (3 - 2 * across)
    used = [list(starts) for starts in tops]
    for i, look in enumerate(looks):
        for j in range(len(looks)):
            count = counts[i][j]
            if count:
                lower = used[0][i] + (used[1][j] - used[0][i]) * bend
                axes.fill_between(across, lower, lower + count, color=look.colour, alpha=0.35, lw=0)
                used[0][i] += count
                used[1][j] += count
    axes.set_ylim(total + gap * len(looks), -gap)
    axes.set_xlim(-0.3, 1.3)
    axes.set_axis_off()
    for place, text in ((0.0, "before training"), (1.0, "after training")):
        axes.text(place, -gap, text, ha="center", va="bottom")


def _starts(counts: Sequence[int], gap: float) -> list[float]:
    """Return where each outcome of a side begins, one under another."""
    return [sum(counts[:place]) + gap * place for place in range(len(counts))]


@STYLED
def curve_figure(curve: Curve, rows: Sequence[Mapping[str, object]]) -> Drawing | None:
    """Draw one number over steps, thin, and its moving mean, thick; None where there is none."""
    points = [
        (step, value)
        for row in rows
        if (step := _number(row.get("step"))) is not None
        and (value := _number(row.get(curve.key))) is not None
    ]
    if not points or (curve.may_be_off and not any(value for _, value in points)):
        return None
    steps, values = zip(*points, strict=True)
    means = _moving_means(values, reach=len(values) // 20)
    figure = Figure(figsize=(WIDTH, 1.9))
    axes = figure.add_axes(_CURVE_PLACE)
    axes.plot(steps, values, color=COLOURS["after"], alpha=0.35, linewidth=1)
    axes.plot(steps, means, color=COLOURS["after"], linewidth=2)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(useOffset=False)
    if max(values) - min(values) <= 1e-6 * abs(values[0]):  # a flat line, whatever rounding makes
        axes.set_ylim(min(0.0, 2 * values[0]), max(0.0, 2 * values[0]) or 1.0)
    axes.grid(axis="y", color=COLOURS["faint"], alpha=0.35, linewidth=0.6)
    if curve.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    description = f"from {means[0]:.4g} at step {steps[0]:g} to {means[-1]:.4g} at {steps[-1]:g}"
    return drawn(figure, curve.title, description)


@STYLED
def dev_figure(points: Sequence[DevPoint]) -> Drawing | None:
    """Draw what is solved on dev over the steps, with intervals; None where nothing was."""
    figure = Figure(figsize=(WIDTH, 1.9))
    axes, said = figure.add_axes(_CURVE_PLACE), []
    for column, colour in (("after_reflection", "after"), ("after_nothing", "before")):
        rates = [(p.step, rate) for p in points if (rate := getattr(p, column)) is not None]
        if not rates:
            continue
        steps, values = [step for step, _ in rates], [rate.value for _, rate in rates]
        bounds = [rate.low for _, rate in rates], [rate.high for _, rate in rates]
        axes.fill_between(steps, *bounds, color=COLOURS[colour], alpha=0.15, linewidth=0)
        axes.plot(steps, values, color=COLOURS[colour], marker="o", markersize=3)
        title = TITLES[column]
        axes.annotate(title, (steps[-1], values[-1]), ha="right", va="bottom", fontsize=8)
        said.append(f"{title} {values[0]:.1%} at step {steps[0]}, {values[-1]:.1%} at {steps[-1]}")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return drawn(figure, "Solved on dev while training", ", ".join(said)) if said else None


@dataclass(frozen=True, slots=True)
class _Look:
    """An entry of the legend, and the reasons that it stands for."""

    label: str
    colour: str
    hatch: str | None
    reasons: frozenset[tuple[str, str]]
    """Pairs of status and reason: one, or all that exceed the colours there are."""


def _looks(rows: Iterable[ReasonCount]) -> list[_Look]:
    """Give each reason a look of its own, the frequent ones first within a status."""
    totals: Counter[tuple[str, str]] = Counter()
    for row in rows:
        totals[row.status, row.reason] += row.count
    looks = []
    for status, (prefix, paints) in _PAINTS.items():
        keys = sorted((k for k in totals if k[0] == status), key=lambda k: (-totals[k], k))
        last = len(paints) - 1
        groups = [[key] for key in keys[:last]] + ([keys[last:]] if keys[last:] else [])
        for (colour, hatch), group in zip(paints, groups, strict=False):
            name = reason_name(group[0][1]) if len(group) == 1 else "all others"
            looks.append(_Look(prefix + name, colour, hatch, frozenset(group)))
    return looks


def _stack(axes: Axes, place: int, rows: Sequence[ReasonCount], looks: Sequence[_Look]) -> None:
    total = sum(row.count for row in rows)
    left = 0.0
    for look in looks:
        share = sum(r.count for r in rows if (r.status, r.reason) in look.reasons) / total
        axes.barh(place, share, left=left, height=0.68, color=look.colour, hatch=look.hatch)
        if share >= _SMALLEST_LABELLED_SHARE and look.hatch is None:
            middle = left + share / 2
            axes.text(middle, place, f"{share:.0%}", ha="center", va="center", color="white")
        left += share


def _moving_means(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and up to ``reach`` values on either side of it."""
    sums = [0.0, *accumulate(values)]
    ends = [(max(0, at - reach), min(len(values), at + reach + 1)) for at in range(len(values))]
    return [(sums[end] - sums[begin]) / (end - begin) for begin, end in ends]


def _number(value: object) -> float | None:
    """Return a finite number, or None for what is none: absent, text, not a number."""
    try:
        number = float(value)  # type: ignore[arg-type]  # that it may fail is the point
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
