"""Draw how the cost of a group grows: ``python -m benchmarks.growth TRAINING.json FIGURE.svg``.

Points are measured, lines are what counting floating-point operations predicts, at the rate that
fits all points best.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MEASURED, _MODEL = "#1f6f8b", "#9aa5ad"
_FIXED_PROMPT, _FIXED_SIZE = 500, 8


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Return a figure of two panels: over the size of the group, and over the prompt's length."""
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    by_size = [row for row in rows if row["shape"][0] == _FIXED_PROMPT]
    by_prompt = [row for row in rows if row["shape"][2] == _FIXED_SIZE]
    completion = rows[0]["shape"][1]
    _panel(left, by_size, 2, f"completions of {completion} tokens on a prompt of {_FIXED_PROMPT}")
    _panel(right, by_prompt, 0, f"prompt tokens, {_FIXED_SIZE} completions of {completion}")
    left.set_ylabel("seconds per group")
    left.set_ylim(bottom=0)  # after both panels are drawn: it ends the scaling that they share
    left.legend(frameon=False)
    return figure


def _panel(axes: Axes, rows: list[dict[str, Any]], axis: int, label: str) -> None:
    rows = sorted(rows, key=lambda row: row["shape"][axis])
    places = [row["shape"][axis] for row in rows]
    medians = [row["seconds"]["median"] for row in rows]
    below = [m - row["seconds"]["low"] for m, row in zip(medians, rows, strict=True)]
    above = [row["seconds"]["high"] - m for m, row in zip(medians, rows, strict=True)]
    axes.plot(places, [row["predicted"] for row in rows], color=_MODEL, label="operations counted")
    axes.errorbar(
        places, medians, [below, above], fmt="o", color=_MEASURED, capsize=2, label="measured"
    )
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _main() -> None:
    source, target = map(Path, sys.argv[1:])
    rows = json.loads(source.read_text(encoding="utf-8"))["growth"]
    draw(rows).savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    _main()
