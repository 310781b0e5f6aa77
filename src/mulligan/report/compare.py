"""Several runs side by side: what each solves after training, paired with the first one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mulligan.errors import MulliganError
from mulligan.evaluation.results import compute
from mulligan.evaluation.rows import read_rows
from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.evaluation.tables import Cell, ControlDifference, Difference, Table
from mulligan.evaluation.trials import COLUMNS, TITLES, open_trials
from mulligan.report.markup import visible
from mulligan.report.sheets import difference, rate
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Trial

ADDED = "reflection_over_nothing"
_TITLES = {**TITLES, ADDED: SCORE_TITLES[ADDED]}


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One column of the evaluation, over all runs."""

    title: str
    cells: tuple[Cell | ControlDifference | None, ...]
    """What each run solves, or what reflection adds in it, in the order of the runs."""
    differences: tuple[Difference | None, ...]
    """Each further run minus the first, over the problems that both tried."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The row as people read it, its title first."""
        cells = (
            difference(cell) if isinstance(cell, ControlDifference) else rate(cell)
            for cell in self.cells
        )
        values = (*cells, *(difference(each) for each in self.differences))
        return (self.title, *(value.line for value in values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side, after training."""

    names: tuple[str, ...]
    shared: tuple[int, ...]
    """Trials of each further run that the first run has too."""
    rows: tuple[ComparedRow, ...]


def compare(targets: Sequence[Path]) -> Comparison:
    """Compare runs after training on the problems that they share with the first one.

    Args:
        targets: folders of runs, or files of their rows.

    Raises:
        MulliganError: a run is not evaluated after training, or shares no problem with the first.
    """
    names, trials = zip(*map(_after, targets), strict=True)
    first, *others = trials
    shared = [_shared(first, other) for other in others]
    for target, count in zip(targets[1:], shared, strict=True):
        if not count:
            raise MulliganError(
                f"{targets[0]} and {target} were evaluated on different problems, so they "
                "cannot be paired. Give both the same task, task options and evaluation."
            )
    alone = [compute({"before": (), "after": each}) for each in trials]
    paired = [compute({"before": first, "after": other}) for other in others]
    return Comparison(
        names=names,
        shared=tuple(shared),
        rows=tuple(_rows(alone, paired)),
    )


def print_comparison(made: Comparison, console: Console) -> None:
    """Print the comparison as a table."""
    shown = RichTable(
        title="Solved after training, with 95% intervals",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("")
    first, *others = made.names
    for heading in [*made.names, *(f"{name} − {first}, points" for name in others)]:
        shown.add_column(Text(visible(heading)), justify="right")
    for row in made.rows:
        shown.add_row(*row.texts)
    console.print(shown)
    pairs = ", ".join(
        f"{count:,} with {name}" for name, count in zip(others, made.shared, strict=True)
    )
    console.print(Text(f"Paired trials: {visible(pairs)}."))


def _after(target: Path) -> tuple[str, Sequence[Trial]]:
    """Return the name of a run, and its trials after training."""
    if target.is_file():
        rows = read_rows(target)
        name, trials = rows.run, rows.trials["after"]
    else:
        name, path = target.resolve().name, RunFolder(target).evaluation("after")
        trials = ()
        if path.exists():
            with open_trials(path) as log:
                trials = tuple(log)
    if not trials:
        raise MulliganError(
            f"{target} is not evaluated after training yet: `mulligan evaluate {target}`."
        )
    return name, trials


def _shared(first: Sequence[Trial], other: Sequence[Trial]) -> int:
    keys = {(trial.problem_id, trial.sample) for trial in first}
    return sum((trial.problem_id, trial.sample) in keys for trial in other)


def _rows(alone: Sequence[Table], paired: Sequence[Table]) -> Iterator[ComparedRow]:
    for name in (*COLUMNS, ADDED):
        cells = tuple(
            table.against("after_nothing", "after") if name == ADDED else table.cell(name, "after")
            for table in alone
        )
        differences = tuple(table.difference(name) for table in paired)
        if any(cells) or any(differences):
            yield ComparedRow(_TITLES[name], cells, differences)
