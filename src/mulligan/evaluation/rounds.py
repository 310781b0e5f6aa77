"""What the rounds of a run found: on dev after each, and what became of their failures."""

from dataclasses import dataclass
from itertools import count
from typing import Any

from mulligan.evaluation.dev_curve import DevPoint, read_dev
from mulligan.evaluation.statistics import Interval, wilson
from mulligan.evaluation.store_drift import read_store_drift
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Round:
    """A round; number 0 is the model before the first one."""

    number: int
    dev: DevPoint
    """Measured after it."""
    failed: Interval | None
    """Share of the first tries of its collection that failed; None where it made none."""
    drift: Interval | None
    """Share of its failures that the model passes after it; None where none are stored."""


def read_rounds(run: RunFolder) -> list[Round]:
    """Return the rounds of a run that were evaluated; none where it has one round.

    Raises:
        MulliganError: a line of their files is not a record.
    """
    drift = {line.step: line.share for line in read_store_drift(run.store_drift)}
    return [
        Round(
            point.step,
            point,
            _failed(run.round(point.step)) if point.step else None,
            drift.get(point.step),
        )
        for point in read_dev(run.round_trials)
    ]


def _failed(folder: RunFolder) -> Interval | None:
    numbers = count()
    with RecordLog(folder.collected, dict[str, Any], lambda row: str(next(numbers))) as log:
        rows = list(log)
    failed = sum(int(row["failed"]) + int(row["unparseable"]) for row in rows)
    judged = failed + sum(int(row["passed"]) for row in rows)
    return wilson(failed, judged) if judged else None
