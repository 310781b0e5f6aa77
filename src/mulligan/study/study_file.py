"""A study's file: a base recipe, arms that change it, and seeds.

The file stands before the study runs. What the study is judged by is in it and in its recipe: the
endpoints (``evaluate.endpoints``), the margin of equivalence, and the spread between earlier runs,
from which the smallest detectable effect is computed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError, field_validator

from mulligan.config import NonNegative, Section, read_yaml
from mulligan.errors import MulliganError, nearest

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]*$")]
"""Names of arms become parts of file names; a hyphen separates them there."""


class DerivedSeeds(Section):
    """Seeds that follow from what is studied, so that nobody can choose them."""

    derive: PositiveInt
    """How many."""
    source: Literal["recipe", "study"] = Field("recipe", alias="from")
    """What they are a hash of: the base recipe, or the recipe and the arms."""
    attempt: PositiveInt = 1
    """Which set: a second one shares no seed with the first by more than chance."""


class CrossedSeeds(Section):
    """Seeds of parts of a run, in all combinations: how much of the spread does each make?"""

    cross: Annotated[Mapping[str, tuple[int, ...]], Field(min_length=2)]
    """Settings such as ``sft.seed`` and ``train.seed``, each with the values that it takes."""


class StudyFile(Section):
    """Everything that defines a study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the study's folder under ``runs/``."""
    about: str = ""
    """The question, in a sentence; shown on the page."""
    recipe: str
    """The base recipe, relative to this file."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Changes of the recipe for all arms, by dotted names."""
    arms: Annotated[Mapping[Name, Mapping[str, Any] | None], Field(min_length=1)]
    """Changes by arm, by dotted names; the first arm is the base that others are compared with."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | DerivedSeeds | CrossedSeeds
    spread: Mapping[str, NonNegative] = Field(default_factory=dict)
    """Standard deviation between runs that tuning has shown, as a fraction, by outcome: what the
    smallest detectable effect is computed from before the study starts."""
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of the intervals."""
    keep_weights: bool | tuple[Name, ...] = False
    """Whether weights stay once a run's figures are kept: of all arms, of none, or of those that
    are named, whose runs then keep the warmed-up and the trained model and nothing to resume from.
    """

    @property
    def base(self) -> str:
        """Name of the arm that others are compared with."""
        return next(iter(self.arms))

    @field_validator("seeds")
    @classmethod
    def _refuse_seeds_given_twice(cls, seeds: Any) -> Any:
        lists = seeds.cross if isinstance(seeds, CrossedSeeds) else {"seeds": seeds}
        for name, values in lists.items():
            if isinstance(values, tuple):
                twice = sorted({value for value in values if values.count(value) > 1})
                if twice:
                    listed = ", ".join(map(str, twice))
                    raise ValueError(f"{name}: given twice: {listed}")
        return seeds


def load_study(path: Path) -> StudyFile:
    """Read a study's file and check it; the recipe and the arms are checked by ``plan``.

    Raises:
        MulliganError: no such file, not YAML, an unknown name, a wrong value, or a seed given
            twice.
    """
    content = read_yaml(path)
    _refuse_keys_given_twice(path)
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {each}" for each in dict.fromkeys(_explain(error)))
        raise MulliganError(f"{path} is not a valid study:\n{problems}") from None


def _explain(error: ValidationError) -> Sequence[str]:
    said = []
    for each in error.errors():
        # ``seeds`` may be of three kinds; what each of them misses is told without its name.
        path = ".".join(str(part) for part in each["loc"] if not _names_a_kind(part))
        if each["type"] == "extra_forbidden":
            said.append(f"{path}: unknown name; {nearest(str(each['loc'][-1]), _names())}")
        elif each["type"] == "value_error":
            said.append(str(each["ctx"]["error"]))
        else:
            said.append(f"{path}: {each['msg']}, but got {each['input']!r}")
    return said


def _names_a_kind(part: str | int) -> bool:
    return str(part).startswith(("tuple[", "constrained", "DerivedSeeds", "CrossedSeeds"))


def _names() -> list[str]:
    kinds = (StudyFile, DerivedSeeds, CrossedSeeds)
    return [field.alias or name for kind in kinds for name, field in kind.model_fields.items()]


def _refuse_keys_given_twice(path: Path) -> None:
    """Check that no name stands twice in one mapping: YAML would silently take the last."""
    stack = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            twice = sorted({str(key) for key in keys if keys.count(key) > 1})
            if twice:
                line = node.start_mark.line + 1
                raise MulliganError(
                    f"{path}: {', '.join(twice)} given twice in the part from line {line} on. "
                    "Give each name once."
                )
            stack += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
