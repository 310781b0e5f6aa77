"""The figures of the performance page, drawn from result files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from benchmarks import growth
from benchmarks.intervals import spread

_COLOURS = {"rollout": "#1f6f8b", "update": "#b5651d"}
_GREY = "#9aa5ad"
_TIMES = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
COMPARED = ("training", "rollouts", "step")
PARTS = ("sharing alone", "packing alone")
"""Sides that are parts of ours: an ablation, not a comparison with a peer."""


def draw_all(folder: Path) -> list[Path]:
    """Draw every figure that a folder has results for; return the files."""
    figures: dict[str, Figure] = {}
    if bars := list(ratios(folder)):
        figures["ratios"] = draw_ratios(bars)
    path = folder / "growth.json"
    if path.exists():
        values = json.loads(path.read_bytes())
        for axis, fits in values.get("conclusions", {}).items():
            figures[f"growth_{axis}"] = draw_growth(axis, growth.points_of(values, axis), fits)
    return [_save(figure, folder / f"{name}.svg") for name, figure in figures.items()]


def ratios(folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield a title and how many times as fast ours is, for every case and peer."""
    for name in COMPARED:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        for case, kept in json.loads(path.read_bytes())["cases"].items():
            for side, found in kept.get("summary", {}).items():
                if "speed_ratio" in found and side not in PARTS:
                    yield f"{name}, {case}: {side}", found["speed_ratio"]


def draw_ratios(bars: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """Draw how many times as fast ours is, from the worst to the best."""
    bars = sorted(bars, key=lambda bar: bar[1]["value"])
    figure = Figure(figsize=(7.6, 0.8 + 0.26 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars))
    values = [bar["value"] for _, bar in bars]
    below = [bar["value"] - bar["low"] for _, bar in bars]
    above = [bar["high"] - bar["value"] for _, bar in bars]
    axes.errorbar(
        values, places, xerr=[below, above], fmt="o", color=_COLOURS["rollout"], capsize=2
    )
    axes.axvline(1.0, color=_GREY)
    axes.set_yticks(places, [title for title, _ in bars], fontsize=7)
    axes.set_xscale("log")
    least, most = min(values), max(values)
    _ticks(axes.xaxis, [at for at in _TIMES if least / 2 <= at <= most * 2])
    axes.set_xlabel("times as fast as the peer, with 95% interval; left of the line: slower")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_growth(
    axis: str, points: Sequence[Mapping[str, Any]], fits: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """Draw tokens a second over one axis: measured points beside the line of counted operations."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    sizes = [point["size"] for point in points]
    for kind, fit in fits.items():
        spreads = [spread(growth.rates(point, kind)) for point in points]
        medians = [each["median"] for each in spreads]
        below = [each["median"] - each["low"] for each in spreads]
        above = [each["high"] - each["median"] for each in spreads]
        label = f"{kind}: {fit['value']:+.2f}, {fit['counted']:+.2f} by counting"
        style = {"color": _COLOURS[kind], "capsize": 2}
        axes.errorbar(sizes, medians, [below, above], fmt="o", label=label, **style)
        counted = [growth.counted_rate(point, kind) for point in points]
        rate = max(m / c for m, c in zip(medians, counted, strict=True))
        axes.plot(sizes, [rate * each for each in counted], "--", color=_COLOURS[kind], lw=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _ticks(axes.xaxis, sizes)
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(ScalarFormatter())
    axes.set_xlabel(growth.AXES[axis])
    axes.set_ylabel("completion tokens per second")
    axes.legend(frameon=False, fontsize=8, title="exponent", title_fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ticks(axis: Axis, places: Sequence[float]) -> None:
    """Label a logarithmic axis at these places alone."""
    labels = [f"{at / 1e6:,.0f}M" if at >= 1e6 else f"{at:g}" for at in places]
    axis.set_ticks(places, labels=labels)
    axis.set_minor_locator(NullLocator())


def _save(figure: Figure, path: Path) -> Path:
    with rc_context({"svg.hashsalt": "mulligan"}):  # the same file from the same numbers
        figure.savefig(path, metadata={"Date": None})
    return path
