"""A figure as SVG: small, all of one width, in the page's own colours and fonts.

Colours are drawn as placeholders and replaced by the page's CSS variables, so that one figure
serves a light page and a dark one. The same numbers give the same bytes.
"""

import re
import warnings
from dataclasses import dataclass
from io import StringIO
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
STYLED = style.context(["default", _STYLE])
"""Decorates what draws, so that neither the user's own style nor ours leaks into the other."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, ready to be put on a page or into a file."""

    caption: str
    description: str
    """Tells its content to those who cannot see it."""
    svg: str
    """An ``<svg>`` element whose colours are CSS variables."""

    @property
    def name(self) -> str:
        """The caption as a file's name or an id: ``solved-with-95-intervals``."""
        return re.sub(r"[^a-z0-9]+", "-", self.caption.lower()).strip("-")


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure whose axes leave as much room as their labels need."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def drawn(figure: Figure, caption: str, description: str) -> Drawing:
    """Return what matplotlib drew."""
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
    return Drawing(caption, description, svg)


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
