"""What was measured about forgetting, as it is stored in ``forgetting.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from mulligan.errors import MulliganError

Checkpoint = Literal["original", "warmed_up", "trained"]
Stage = tuple[Checkpoint, Checkpoint]
"""From which checkpoint to which."""

TITLES: Mapping[Checkpoint, str] = {
    "original": "original",
    "warmed_up": "after the warm-up",
    "trained": "after training",
}

Conclusion = Literal["equivalent", "different", "undecided"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Drift:
    """How far two checkpoints are apart, in nats per token."""

    first: Checkpoint
    second: Checkpoint
    text: Literal["task", "english"]
    tokens: int
    forward: Estimate
    """KL(first || second)."""
    backward: Estimate
    """KL(second || first)."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a checkpoint predicts English text."""

    checkpoint: Checkpoint
    tokens: int
    perplexity: Estimate


@dataclass(frozen=True, slots=True)
class Score:
    """How many items of a task a checkpoint gets right."""

    task: str
    checkpoint: Checkpoint
    passed: int
    n: int
    chance: float
    """What guessing gets right, on average over the items."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Change:
    """Right answers of one checkpoint minus those of an earlier one, on the same items."""

    task: str
    first: Checkpoint
    second: Checkpoint
    difference: Estimate
    lost: int
    """Items that the first had right and the second has wrong."""
    won: int
    p: float
    """Exact McNemar test."""
    p_holm: float
    """The same, corrected for the number of tasks compared between these two checkpoints."""
    informative: bool
    """False where the original model is at chance: such a task tells nothing about forgetting."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """The informative tasks together."""

    first: Checkpoint
    second: Checkpoint
    n: int
    difference: Estimate
    margin: float
    p_equivalent: float
    """Two one-sided tests that the difference is within the margin."""
    conclusion: Conclusion
    """``undecided`` with fewer than 2,000 items, and where neither test rejects."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item: which checkpoints got it right. A line of ``forgetting.jsonl``."""

    task: str
    item: str
    passed: Mapping[Checkpoint, bool]
    chance: float

    @property
    def id(self) -> str:
        """Unique within a run."""
        return f"{self.task}/{self.item}"


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Everything that was measured."""

    checkpoints: tuple[Checkpoint, ...]
    drifts: tuple[Drift, ...]
    perplexities: tuple[Perplexity, ...]
    scores: tuple[Score, ...]
    changes: tuple[Change, ...]
    pooled: tuple[Pooled, ...]
    made_with: Mapping[str, str | int | float]
    """The command's settings, and the versions that the numbers depend on."""


def read_forgetting(path: Path) -> Forgetting | None:
    """Read what was measured; None where nothing was.

    Raises:
        MulliganError: the file is not of this form.
    """
    if not path.exists():
        return None
    try:
        return TypeAdapter(Forgetting).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first_line = str(error).partition("\n")[0]
        raise MulliganError(
            f"Cannot read {path}: {first_line}. Measure it again with `mulligan forget`."
        ) from error
