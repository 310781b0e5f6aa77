"""What the page shows of one run, and of several side by side, as plain JSON values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mulligan.config import as_yaml
from mulligan.evaluation.results import compute
from mulligan.evaluation.tables import Table
from mulligan.evaluation.trials import read_trials
from mulligan.report.compare import Comparison
from mulligan.report.live.status import newest_rows, recipe_in
from mulligan.report.sheets import solved_sheet
from mulligan.storage.run_folder import RunFolder

CURVES = {
    "reward": "Mean reward",
    "reflection_tokens": "Tokens of a reflection",
    "live_groups": "Groups that teach",
    "gradient_norm": "Norm of the gradient",
    "kl": "KL from the reference, nats per token",
    "logprob_mismatch": "Mismatch of log-probs, engine and trainer",
}
"""Field of a training step to its title."""
_POINTS = 500
"""Points of a curve that are sent; longer ones are thinned evenly, their ends kept."""


def run_details(run: RunFolder) -> dict[str, Any]:
    """Return a run's curves, table and settings.

    Raises:
        MulliganError: a file of the run cannot be read.
    """
    recipe = recipe_in(run)
    metrics = newest_rows(run.newest_round.metrics, None)
    trials = read_trials(run.path)
    table = compute(trials) if any(trials.values()) else None
    return {
        "name": run.path.resolve().name,
        "settings": as_yaml(recipe),
        "learns": recipe.train.learn,
        "steps": recipe.train.steps,
        "curves": [
            {"title": title, "points": points}
            for name, title in CURVES.items()
            if (name != "kl" or recipe.train.kl_beta) and (points := _curve(metrics, name))
        ],
        "warmup": _curve(newest_rows(run.warmup_log, None), "loss"),
        "table": _solved(table) if table else [],
        "reasons": sorted({reason.reason for reason in table.reasons}) if table else [],
        "report": run.report.is_file(),
    }


def comparison_as_json(made: Comparison) -> dict[str, Any]:
    """Return runs side by side."""
    return {
        "names": made.names,
        "shared": made.shared,
        "rows": [row.texts for row in made.rows],
    }


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    points = [
        (row["step"], row[name]) for row in rows if _is_number(row.get("step"), row.get(name))
    ]
    if len(points) <= _POINTS:
        return points
    last = len(points) - 1
    return [points[last * place // (_POINTS - 1)] for place in range(_POINTS)]


def _is_number(*values: object) -> bool:
    """Whether all can be drawn: what is not finite is stored as text."""
    return all(isinstance(each, int | float) and math.isfinite(each) for each in values)


def _solved(table: Table) -> list[list[str]]:
    return [[row.title, *(each.line for each in row.values)] for row in solved_sheet(table).rows]
