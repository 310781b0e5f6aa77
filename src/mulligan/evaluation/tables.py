"""The records of a table: what an evaluation says in numbers, ready to be shown or written."""

from dataclasses import dataclass

from mulligan.types import Status


@dataclass(frozen=True, slots=True)
class Cell:
    """Rows that passed in one column, with the Wilson interval of their share."""

    column: str
    when: str
    passed: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share that passed."""
        return self.passed / self.n


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before, as a fraction, with its paired bootstrap interval over problems."""

    name: str
    """A column of the table; ``reflection_over_nothing``: solved after reflection less solved
    when asked again; or ``gain_with_second_chance``: solved after reflection less first try."""
    difference: float
    low: float
    high: float
    gained: int | None = None
    """Rows that failed before and pass after; None where the score is not passed or failed."""
    lost: int | None = None
    """Rows that passed before and fail after."""
    p_exact: float | None = None
    """Exact McNemar test; None with several samples per problem, whose rows are related."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A change that the recipe declared, and what may be concluded from it."""

    name: str
    role: str
    """``primary`` or ``secondary``."""
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, from the paired bootstrap."""
    p_adjusted: float
    """The same for the primary one; Holm-adjusted over the secondary ones."""
    margin: float
    p_equivalent: float
    """Of a change of the margin or more: two one-sided tests."""
    conclusion: str
    """``rose``, ``fell``, ``no difference`` (within the margin) or ``undecided``."""


@dataclass(frozen=True, slots=True)
class ControlDifference:
    """After reflection minus a control at one time, as a fraction, with its interval."""

    when: str
    control: str
    """The control's column."""
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LeakRate:
    """How many reflections contain a passing answer, with the Wilson interval of their share."""

    when: str
    leaked: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share of the reflections."""
        return self.leaked / self.n


@dataclass(frozen=True, slots=True)
class LeakSplit:
    """Failed first tries whose reflections state a passing answer, or do not.

    The reflection decides which rows these are, so like is not compared with like: the failures on
    which a model can state an answer are not those on which it cannot.
    """

    when: str
    leaked: bool
    passed_after_reflection: int
    passed_after_nothing: int
    """Of the same rows, when asked again with nothing in between."""
    n: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How often the verifier gave a reason for the answers given in a column."""

    when: str
    column: str
    status: Status
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Flip:
    """How many rows went from one outcome before training to one after it."""

    column: str
    """``first_try``, or ``after_reflection``, where a passing first try counts as passed."""
    before_status: Status
    before_reason: str
    after_status: Status
    after_reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Length:
    """How long the texts of one kind are."""

    when: str
    text: str
    """A column of the table, or ``reflection``."""
    mean_tokens: float
    n: int


@dataclass(frozen=True, slots=True)
class Entropy:
    """How spread out the model's next-token distribution is where it wrote texts of one kind.

    Minus the mean log-probability of the tokens it sampled, under the sampling distribution (its
    temperature included): an unbiased estimate of the mean entropy at these positions, in nats.
    """

    when: str
    text: str
    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Size:
    """What was evaluated: with several samples per problem there are more rows than problems."""

    when: str
    problems: int
    rows: int


@dataclass(frozen=True, slots=True)
class Table:
    """Everything an evaluation says in numbers."""

    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    """Empty until there is an evaluation after training."""
    endpoints: tuple[Endpoint, ...]
    controls: tuple[ControlDifference, ...]
    leak_rates: tuple[LeakRate, ...]
    leak_splits: tuple[LeakSplit, ...]
    reasons: tuple[ReasonCount, ...]
    flips: tuple[Flip, ...]
    lengths: tuple[Length, ...]
    entropies: tuple[Entropy, ...]
    sizes: tuple[Size, ...]
    parts: tuple[tuple[str, "Table"], ...] = ()
    """The tables of each part of a mix of tasks, by its name; empty where a run has one task."""

    @property
    def whens(self) -> tuple[str, ...]:
        """When, or of which model, there are trials: ``before``, ``after``, other models."""
        return tuple(size.when for size in self.sizes)

    def cell(self, column: str, when: str) -> Cell | None:
        """Return one cell, or None where that column was not evaluated."""
        return next((c for c in self.cells if (c.column, c.when) == (column, when)), None)

    def difference(self, name: str) -> Difference | None:
        """Return one difference, or None where it could not be computed."""
        return next((d for d in self.differences if d.name == name), None)

    def against(self, control: str, when: str) -> ControlDifference | None:
        """Return after reflection minus a control's column, or None where it was not asked."""
        return next((c for c in self.controls if (c.control, c.when) == (control, when)), None)

    def size(self, when: str) -> Size | None:
        """Return what was evaluated at one time, or None where nothing was."""
        return next((size for size in self.sizes if size.when == when), None)

    def count(self, column: str, when: str, status: Status) -> int:
        """Return how many answers of a column have a status."""
        wanted = (column, when, status)
        return sum(r.count for r in self.reasons if (r.column, r.when, r.status) == wanted)

    def unjudged(self, column: str, when: str) -> int:
        """Return how many answers of a column the verifier could not judge."""
        return self.count(column, when, "error")
