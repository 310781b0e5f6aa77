"""The parts of which every page is made: the document, its sections, its tables.

The page's Content-Security-Policy allows inline styles and nothing else, so that even text that
slipped through escaping could load nothing and run nothing.
"""

from collections.abc import Sequence
from importlib.resources import files

from mulligan.report.drawing import Drawing
from mulligan.report.markup import Html, element, together

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""No script, no request, no frame; only the page's own styles."""


def document(title: str, *content: Html) -> str:
    """Return a whole page."""
    styles = (files("mulligan.report").joinpath(f"{name}.css") for name in ("light", "page"))
    style = "\n".join(each.read_text(encoding="utf-8") for each in styles)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"Mulligan: {title}"),
        element("style", Html(style)),
    )
    body = element("body", element("main", *content))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def section(title: str, *content: str) -> Html:
    """Return a section of a page under its heading."""
    return element("section", element("h2", title), *content)


def figure(drawing: Drawing) -> Html:
    """Return a figure under its caption."""
    picture = element(
        "div", Html(drawing.svg), role="img", aria_label=f"{drawing.caption}: {drawing.description}"
    )
    return element("figure", element("figcaption", drawing.caption), picture)


def stacked(value: str, *notes: str) -> Html:
    """Return a cell: the number, and under it what belongs to it."""
    small = (element("small", note) for note in notes if note)
    return together(element("b", value), *small)


def grid(headings: Sequence[str], rows: Sequence[tuple[str, ...]], kind: str) -> Html:
    """Return a table whose rows start with their names; ``kind`` is its class."""
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    body = (
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in cells))
        for first, *cells in rows
    )
    table = element("table", element("thead", head), element("tbody", *body), class_=kind)
    return element("div", table, class_="wide")
