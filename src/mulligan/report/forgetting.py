"""What a model forgot, as tables: the same rows for the page and the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mulligan.evaluation.forgetting.records import (
    TITLES,
    Change,
    Checkpoint,
    Estimate,
    Forgetting,
    Pooled,
)
from mulligan.report import layout
from mulligan.report.markup import Html, element, visible
from mulligan.report.sheets import percent, points

ABOUT = (
    "Brackets hold 95% intervals. Divergence is that of the next token over the whole "
    "vocabulary, in each direction on the answers that the first-named model gives to the "
    "run’s own problems; the English text is Python’s own documentation. A task is multiple "
    "choice: the answer that the model finds most likely is its choice. The warm-up is not "
    "part of the method, so its cost is shown apart."
)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def print_forgetting(made: Forgetting, console: Console) -> None:
    """Print every table."""
    for grid in grids(made):
        title = Text(grid.title, style="bold")
        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for number, heading in enumerate(grid.headings):
            shown.add_column(heading, justify="right" if number else "left")
        for row in grid.rows:
            shown.add_row(*(Text(visible(cell)) for cell in row))
        console.print(shown)


def paragraphs(made: Forgetting) -> Iterator[Html]:
    """Yield the section of the report."""
    for grid in grids(made):
        yield element("h3", grid.title)
        yield layout.grid(grid.headings, grid.rows, "plain")
    yield element("p", ABOUT, class_="note")


def markdown(made: Forgetting) -> Iterator[str]:
    """Yield every table in Markdown, its title before it."""
    for grid in grids(made):
        yield f"**{grid.title}**"
        yield markdown_table(grid.headings, grid.rows)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ((str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def grids(made: Forgetting) -> Iterator[Grid]:
    """Yield the tables that were measured."""
    yield _drifts(made)
    yield _perplexities(made)
    if made.scores:
        yield _scores(made)
        yield _changes(made)
    if made.pooled:
        yield _pooled(made)


def _drifts(made: Forgetting) -> Grid:
    texts = {"task": "answers to its task", "english": "English text"}
    rows = [
        (
            _step(each.first, each.second),
            texts[each.text],
            _estimate(each.forward, 4),
            _estimate(each.backward, 4),
        )
        for each in made.drifts
    ]
    return Grid(
        "How far the model moved, in nats per token",
        ("", "on", "first from second", "second from first"),
        rows,
    )


def _perplexities(made: Forgetting) -> Grid:
    rows = [
        (TITLES[each.checkpoint], _estimate(each.perplexity, 2), f"{each.tokens:,}")
        for each in made.perplexities
    ]
    return Grid("Perplexity of English text", ("", "perplexity", "tokens"), rows)


def _scores(made: Forgetting) -> Grid:
    rows: list[tuple[str, ...]] = []
    for task in dict.fromkeys(score.task for score in made.scores):
        found = {score.checkpoint: score for score in made.scores if score.task == task}
        any_score = found["original"]
        rates = [percent(found[each].passed / found[each].n) for each in made.checkpoints]
        rows.append((task, f"{any_score.n:,}", percent(any_score.chance), *rates))
    headings = ("Right answers", "items", "guessing", *(TITLES[each] for each in made.checkpoints))
    return Grid("Other tasks", headings, rows)


def _changes(made: Forgetting) -> Grid:
    rows = [
        (
            each.task,
            _step(each.first, each.second),
            _points(each.difference),
            f"−{each.lost} +{each.won}",
            f"{each.p_holm:.3f}",
            _meaning(each),
        )
        for each in made.changes
    ]
    return Grid(
        "Change on other tasks, points",
        ("Task", "from, to", "difference", "items", "p (Holm)", ""),
        rows,
    )


def _meaning(change: Change) -> str:
    if not change.informative:
        return "uninformative: the original is at chance"
    if change.p_holm >= 0.05:
        return "undecided"
    return "forgotten" if change.difference.value < 0 else "gained"


def _pooled(made: Forgetting) -> Grid:
    rows = [
        (
            _step(each.first, each.second),
            f"{each.n:,}",
            _points(each.difference),
            f"{each.p_equivalent:.3f}",
            _conclusion(each),
        )
        for each in made.pooled
    ]
    margin = 100 * made.pooled[0].margin
    title = f"All informative tasks, and whether they changed by less than {margin:g} points"
    return Grid(title, ("", "items", "difference, points", "p (equivalence)", ""), rows)


def _conclusion(pooled: Pooled) -> str:
    if pooled.conclusion == "equivalent":
        return f"equivalent within {100 * pooled.margin:g} points"
    return pooled.conclusion


def _step(first: Checkpoint, second: Checkpoint) -> str:
    return f"{TITLES[first]} → {TITLES[second]}"


def _estimate(estimate: Estimate, digits: int) -> str:
    shown = (f"{part:.{digits}f}" for part in (estimate.value, estimate.low, estimate.high))
    value, low, high = shown
    return f"{value} [{low} to {high}]"


def _points(estimate: Estimate) -> str:
    return f"{points(estimate.value)} [{points(estimate.low)} to {points(estimate.high)}]"
