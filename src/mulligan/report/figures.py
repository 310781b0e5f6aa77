"""Figures as inline SVG: small, all of one width, in the page's own colours and fonts.

Colours are drawn as placeholders and replaced by the page's CSS variables, so that one figure
serves a light page and a dark one. The same numbers give the same bytes.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mulligan.evaluation.tables import ReasonCount, Table
from mulligan.evaluation.trials import COLUMNS, TIMES, TITLES
from mulligan.report.markup import Html, element, visible

WIDTH = 4.4
"""Inches of every figure: near its size on the page, so that text keeps its size on a phone."""

COLOURS = {
    "ink": "#a1b2c0",
    "faint": "#a1b2c1",
    "before": "#a1b2c2",
    "after": "#a1b2c3",
    "passed": "#a1b2c4",
    "unparseable": "#a1b2c5",
    "error": "#a1b2c6",
    "wrong-1": "#a1b2c7",
    "wrong-2": "#a1b2c8",
    "wrong-3": "#a1b2c9",
    "wrong-4": "#a1b2ca",
    "wrong-5": "#a1b2cb",
    "wrong-6": "#a1b2cc",
}
"""Placeholders for the page's colours, as ``page.css`` defines them."""

_PAINTS: dict[str, tuple[str, list[tuple[str, str | None]]]] = {
    "passed": ("", [(COLOURS["passed"], None)]),
    "failed": ("wrong: ", [(COLOURS[f"wrong-{rank}"], None) for rank in range(1, 7)]),
    "unparseable": ("format: ", [(COLOURS["unparseable"], hatch) for hatch in ("////", "....")]),
    "error": ("not judged: ", [(COLOURS["error"], "xxxx")]),
}
"""For each status what its reasons are called and painted with: colour and hatch."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mulligan",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["faint"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "hatch.linewidth": 0.6,
    "hatch.color": COLOURS["ink"],
}
_SMALLEST_LABELLED_SHARE = 0.07
_LONGEST_REASON = 32
_LONGEST_IN_TWO_COLUMNS = 29
"""In characters: two columns of longer entries in the legend would not fit the page's width."""

_CURVE_PLACE = (0.135, 0.235, 0.845, 0.735)
"""Left, bottom, width and height of a curve's axes: the same for all, so that steps line up."""

STYLED = style.context(["default", _STYLE])
"""Decorates what draws, so that neither the user's own style nor ours leaks into the other."""


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
    Curve("reward", "Reward: share of retries that pass", is_share=True),
    Curve("reflection_tokens", "Length of a reflection, in tokens"),
    Curve("live_groups", "Groups with both passing and failing retries"),
    Curve("kl", "Divergence from the model before training (KL)", may_be_off=True),
    Curve("gradient_norm", "Norm of the gradient, before clipping"),
    Curve("logprob_mismatch", "Log-probability mismatch, engine against trainer"),
)
WARMUP_CURVE = Curve("loss", "Warm-up loss")


@STYLED
def rates_figure(table: Table) -> Html:
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
def reasons_figure(table: Table) -> Html:
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
def curve_figure(curve: Curve, rows: Sequence[Mapping[str, object]]) -> Html | None:
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
    axes.grid(axis="y", color=COLOURS["faint"], alpha=0.35, linewidth=0.6)
    if curve.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    description = f"from {means[0]:.4g} at step {steps[0]:g} to {means[-1]:.4g} at {steps[-1]:g}"
    return drawn(figure, curve.title, description)


def reason_name(reason: str) -> str:
    """Return a verifier's reason as a person reads it: ``missed target``; cut where it is long."""
    name = visible(reason).replace("_", " ")
    return name if len(name) <= _LONGEST_REASON else f"{name[: _LONGEST_REASON - 1]}…"


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


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure whose axes leave as much room as their labels need."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def drawn(figure: Figure, caption: str, description: str) -> Html:
    """Return the figure as markup; ``description`` tells its content to who cannot see it."""
    buffer = StringIO()
    with warnings.catch_warnings():
        # Fonts are the reader's: the one used here for measuring need not have every glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    svg = _inline(buffer.getvalue(), prefix=re.sub(r"\W+", "-", caption.lower()))
    label = element("figcaption", caption)
    picture = element("div", Html(svg), role="img", aria_label=f"{caption}: {description}")
    return element("figure", label, picture)


def _inline(svg: str, prefix: str) -> str:
    """Make a stand-alone SVG file fit into a page beside others."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( xmlns(:\w+)?="[^"]*"| version="1.1")', "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    for name, placeholder in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return svg
