"""Countdown's options, checked."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from mulligan.errors import MulliganError, nearest
from mulligan.tasks.countdown.arithmetic import BINARY_OPERATORS
from mulligan.tasks.demonstrations import REFLECTION_SHARES

LARGEST = 10**6
"""Bound of numbers and targets, far inside what the parser reads."""
MOST_NUMBERS = 8
QUESTION = (
    "Make {target} from {numbers}: use each number once with {operators}. Answer with one equation."
)
"""How a problem is put, unless an option says otherwise."""

Bounded = Annotated[int, Field(ge=1, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, lt=1e9)]
Count = Annotated[int, Field(ge=2, le=MOST_NUMBERS)]


class CountdownOptions(BaseModel):
    """What a recipe may set under ``task_options``."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    counts: dict[Count, Weight] = {2: 0.5, 3: 0.5}
    """How many numbers a problem has, with weights: ``{2: 0.7, 3: 0.3}``; or equally likely
    counts: ``[3, 4]``."""
    held_out_counts: dict[Count, Weight] | None = None
    """The counts of dev and test where they are to differ from those of training, as in training on
    two and three numbers to be tested on four."""
    smallest_number: Bounded = 1
    largest_number: Bounded = 20
    smallest_target: Bounded = 1
    largest_target: Bounded = 60
    operators: Annotated[str, Field(min_length=1)] = "+-*"
    """The allowed ones of ``+-*/``; an answer with any other is not an equation here."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63)] = 0
    """Decides the problems, their order and the division into splits; with ``fixed_splits`` the
    training problems and their order only."""
    fixed_splits: bool = False
    """Whether dev and test are drawn from a seed of their own, which never changes, so that they
    are the same whatever ``seed`` is; training takes any other problem. Sizes then say how large
    they are, in the exact mix of ``counts``, and shares play no part."""
    pair_operators: dict[str, Weight] | None = None
    """With ``fixed_splits``: how often each operator joins the puzzles of two numbers, as
    ``{"+": 0.48, "-": 0.4, "*": 0.12}``, the same in every split. Left out: as they come, which
    drifts along a long training split, since there are many sums and few products."""
    test_share: Share = 0.3
    """The share of all possible problems that belongs to the test split. Problems with the same
    target and the same numbers in any order are always in the same split."""
    test_size: Size = 200
    """How many test problems there are, no two alike but for the order of numbers."""
    dev_share: Share = 0.0
    """The share that belongs to the dev split, taken out of training; 0: no dev split."""
    dev_size: Size = 200
    """How many dev problems there are; counted like test problems."""
    train_size: Size | None = None
    """How many training problems there are; left out: as many as can be had."""
    rows: str | None = None
    """A JSON, JSON-lines or Parquet file, or a Hub id, whose rows (``nums``, ``target``) are the
    problems. Counts and bounds then play no part."""
    question: str = QUESTION
    """How a problem is put; ``{target}``, ``{numbers}`` and ``{operators}`` stand for its parts."""
    system: str | None = None
    """A system message before the question; none by default."""
    answer_share: Share = 0.4
    """The share of demonstrations that are a question and its answer."""
    think_first_share: Share = 0.0
    """The share of those whose answer tries equations first, and gives the right one on a line of
    its own."""
    reflection_shares: dict[str, Weight] = dict(REFLECTION_SHARES)
    """Weights of the kinds of reflection in the other demonstrations; a kind left out does not
    occur."""

    @field_validator("counts", "held_out_counts", mode="before")
    @classmethod
    def _weighted(cls, counts: Any) -> Any:
        """Read a list as equal weights, and JSON's keys, which are text, as numbers."""
        if isinstance(counts, list | tuple):
            return dict.fromkeys(counts, 1.0)
        if isinstance(counts, Mapping):
            return {int(c) if str(c).isdecimal() else c: share for c, share in counts.items()}
        return counts

    @field_validator("counts", "held_out_counts", "reflection_shares", "pair_operators")
    @classmethod
    def _some_weight(cls, weights: dict[Any, float] | None) -> dict[Any, float] | None:
        if weights is not None and not any(weights.values()):
            raise ValueError("should have a weight above 0")
        return weights

    @field_validator("reflection_shares")
    @classmethod
    def _known_kinds(cls, shares: dict[str, float]) -> dict[str, float]:
        for kind in shares.keys() - REFLECTION_SHARES.keys():
            raise ValueError(f"knows no kind {kind!r} ({nearest(kind, REFLECTION_SHARES)})")
        return shares

    @field_validator("operators")
    @classmethod
    def _known_operators(cls, operators: str) -> str:
        if len(set(operators)) < len(operators) or not set(operators) <= set(BINARY_OPERATORS):
            raise ValueError(f"should be some of {BINARY_OPERATORS!r}, each once")
        return operators

    @field_validator("question")
    @classmethod
    def _has_parts(cls, question: str) -> str:
        if "{target}" not in question or "{numbers}" not in question:
            raise ValueError("should have {target} and {numbers} in it")
        return question

    def counts_of(self, split: str) -> dict[int, float]:
        """Return how many numbers the problems of a split have, with weights."""
        held_out = self.held_out_counts if split != "train" else None
        return self.counts if held_out is None else held_out

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for what in ("number", "target"):
            low, high = getattr(self, f"smallest_{what}"), getattr(self, f"largest_{what}")
            if high < low:
                raise ValueError(f"'largest_{what}' should be at least {low}, but is {high}")
        if foreign := set(self.pair_operators or ()) - set(self.operators):
            raise ValueError(
                f"'pair_operators' has {min(foreign)!r}, which operators does not allow"
            )
        if self.pair_operators and not self.fixed_splits:
            raise ValueError("'pair_operators' needs fixed_splits: true")
        if self.fixed_splits and (unused := self.model_fields_set & {"test_share", "dev_share"}):
            raise ValueError(
                f"{min(unused)!r} plays no part with fixed_splits: leave it out; test_size and "
                "dev_size say how large the splits are"
            )
        return self


def checked_options(options: Mapping[str, Any]) -> CountdownOptions:
    """Check plain options.

    Raises:
        MulliganError: names the first option that is wrong, what was expected and what came.
    """
    try:
        return CountdownOptions.model_validate(options)
    except ValidationError as error:
        raise MulliganError(_explain(error.errors()[0])) from None


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "extra_forbidden":
        return f"Countdown has no option {path!r} ({nearest(path, CountdownOptions.model_fields)})."
    if not path:
        return f"Countdown option {said}."
    return f"Countdown option {path!r} {said}, but is {error['input']!r}."
