"""What a study will run: every arm with every seed, and which stages they share.

A stage is addressed by a hash of the settings, and of the files named in them, that its result
depends on. Two runs whose hashes of a stage are equal share one folder of it. A setting that this
module does not know counts as one that matters: at worst something is computed twice.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from mulligan.config import Recipe, change_recipe, load_recipe
from mulligan.errors import MulliganError, nearest
from mulligan.evaluation.scores import SCORES, check_endpoints
from mulligan.study.outcomes import columns_of, endpoints_of
from mulligan.study.relative import resolved
from mulligan.study.seeds import derived_seeds, digest, recipe_digest, without
from mulligan.study.study_file import CrossedSeeds, DerivedSeeds, StudyFile, load_study

SHARED = ("warmup", "collect", "evaluate-before", "train")
"""Stages that arms, or seeds that are crossed, may share, in order."""

_IDLE: Mapping[str, tuple[str, ...]] = {
    "warmup": (
        "seed",
        "generate",
        "engine",
        "verify",
        "rounds",
        "collect",
        "train",
        "consolidate",
        "evaluate",
    ),
    "collect": ("train", "consolidate", "evaluate"),
    "evaluate-before": ("seed", "rounds", "train", "consolidate", "collect"),
    "train": ("evaluate",),
}
"""Sections that a shared stage does not depend on; seeds and the exceptions below are added."""

_SEEDS: Mapping[str, tuple[Literal["sft", "train", "evaluate"], ...]] = {
    "warmup": ("sft",),
    "collect": ("sft",),
    "evaluate-before": ("sft", "evaluate"),
    "train": ("sft", "train"),
}
"""Sections whose seeds it depends on, whether they have one of their own or the run's."""

_EXCEPTIONS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "warmup": (("train", "tokens_at_once"),),
}
"""Settings of idle sections that matter all the same: how a warm-up's batch is cut."""


_LONGEST_PATH = 500


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one seed."""

    arm: str
    seed: str
    """The seed as a person reads it: ``17``, or ``sft.seed=1 train.seed=2``."""
    recipe: Recipe
    key: str
    """Hash of everything that the run's figures depend on."""
    shared: Mapping[str, str]
    """Hash of each stage that it may share."""

    @property
    def id(self) -> str:
        """Name of its folder and files."""
        return f"{self.arm}-{self.seed.replace('=', '_').replace(' ', '-')}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A study, resolved."""

    study: StudyFile
    path: Path
    """The study's file."""
    seeds: Mapping[str, Mapping[str, int]]
    """The settings of each seed, by the seed as a person reads it."""
    runs: tuple[PlannedRun, ...]
    """Seed by seed, arm by arm."""
    recipe_digest: str
    """Hash of the recipe's file, which derived seeds may follow from."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def crossed(self) -> Mapping[str, list[int]] | None:
        """The level of each crossed factor by run, or None where seeds are independent."""
        if not isinstance(self.study.seeds, CrossedSeeds):
            return None
        rows = list(self.seeds.values())
        return {factor: [row[factor] for row in rows] for factor in self.study.seeds.cross}


def plan(path: Path) -> Plan:
    """Read a study's file, resolve every run of it, and check them all before anything runs.

    Raises:
        MulliganError: an unknown setting, arms that are the same, an outcome that no run would
            have, or whatever ``load_study`` refuses.
    """
    _content_hash.cache_clear()  # files may have changed since this process looked last
    study = load_study(path)
    recipe = load_recipe(path.parent / study.recipe)
    base = _changed(recipe, study.settings, f"{path}, settings")
    arms = {
        name: _changed(base, changes or {}, f"{path}, arm {name!r}")
        for name, changes in study.arms.items()
    }
    source = recipe_digest(recipe)
    seeds = _seeds(study, source)
    _refuse_arms_that_set_seeds(path, study, seeds)
    _refuse_arms_that_do_not_exist(path, study)
    _refuse_equal_arms(path, arms)
    _refuse_missing_outcomes(path, study, arms)
    runs = tuple(
        _planned(arm, seed, change_recipe(changed, settings, f"{path}, seed {seed}"))
        for seed, settings in seeds.items()
        for arm, changed in arms.items()
    )
    return Plan(study, path, seeds, runs, source)


def _changed(recipe: Recipe, changes: Mapping[str, Any], source: str) -> Recipe:
    return change_recipe(recipe, resolved(recipe, changes, source), source)


def _seeds(study: StudyFile, source: str) -> dict[str, Mapping[str, int]]:
    """Return the settings of each seed by its label."""
    if isinstance(study.seeds, CrossedSeeds):
        names = list(study.seeds.cross)
        rows = [dict(zip(names, row, strict=True)) for row in product(*study.seeds.cross.values())]
        return {" ".join(f"{name}={value}" for name, value in row.items()): row for row in rows}
    if isinstance(study.seeds, DerivedSeeds):
        if study.seeds.source == "study":
            changes = {name: changes or {} for name, changes in study.arms.items()}
            source = digest([source, dict(study.settings), changes])
        numbers = derived_seeds(source, study.seeds.derive, study.seeds.attempt)
    else:
        numbers = study.seeds
    return {str(number): {"seed": number} for number in numbers}


def _planned(arm: str, seed: str, recipe: Recipe) -> PlannedRun:
    name = f"{arm}-{seed}".replace("=", "_").replace(" ", "-")
    recipe = change_recipe(recipe, {"name": name}, f"arm {arm!r}, seed {seed}")
    key = _address(recipe, "run", {"name", "format", "train.stop_after"}, {})
    return PlannedRun(
        arm, seed, recipe, key, {stage: _stage_key(recipe, stage) for stage in SHARED}
    )


def _stage_key(recipe: Recipe, stage: str) -> str:
    """Return the address of a stage's result."""
    seeded, unused = {*_SEEDS[stage]}, {*_IDLE[stage]}
    if stage == "train" and recipe.evaluate.every is not None:  # then it evaluates on dev
        seeded.add("evaluate")
        unused.remove("evaluate")
    seeds = {name: recipe.seed_of(name) for name in seeded}
    own = {f"{name}.seed" for name in ("sft", "train", "evaluate")}
    idle = {"name", "format", "train.stop_after", *own, *unused}
    settings = recipe.model_dump(mode="json")
    besides = {".".join(path): settings[path[0]][path[1]] for path in _EXCEPTIONS.get(stage, ())}
    return _address(recipe, stage, idle, besides | {"seeds": seeds})


def _address(recipe: Recipe, stage: str, idle: set[str], besides: Mapping[str, Any]) -> str:
    """Return a hash of a recipe less some settings, and of the files that are named in it.

    Settings that are left at their defaults are left out: a later version has more of them.
    """
    settings = without(recipe.model_dump(mode="json", exclude_defaults=True), idle) | dict(besides)
    files = {*_named_files(settings)}
    if (model := Path(recipe.model)).is_dir():
        files.add(model)
    inputs = {str(path): _content_hash(path) for path in sorted(files)}
    return digest({"stage": stage, "settings": settings, "inputs": inputs})[:12]


def _named_files(value: Any) -> Iterator[Path]:
    """Yield the files that settings name: a task's, its rows, a reward (``file.py:name``)."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _named_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_files(inner)
    elif isinstance(value, str) and value and len(value) < _LONGEST_PATH and value.isprintable():
        yield from (
            path for path in {Path(value), Path(value.rpartition(":")[0])} if path.is_file()
        )


@cache
def _content_hash(path: Path) -> str:
    """Return a hash of a file, or of all files of a folder; asked for once in a process."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(str(file.relative_to(path)).encode("utf-8", "surrogateescape"))
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def _refuse_arms_that_set_seeds(
    path: Path, study: StudyFile, seeds: Mapping[str, Mapping[str, int]]
) -> None:
    taken = set(next(iter(seeds.values())))
    for arm, changes in study.arms.items():
        if both := sorted(taken & set(changes or {})):
            raise MulliganError(
                f"{path}: arm {arm!r} sets {both[0]!r}, which the study's seeds set for every arm. "
                "Leave it out of the arm."
            )


def _refuse_arms_that_do_not_exist(path: Path, study: StudyFile) -> None:
    kept = () if isinstance(study.keep_weights, bool) else study.keep_weights
    for arm in kept:
        if arm not in study.arms:
            near = nearest(arm, list(study.arms))
            raise MulliganError(f"{path}: keep_weights: there is no arm {arm!r}; {near}")


def _refuse_equal_arms(path: Path, arms: Mapping[str, Recipe]) -> None:
    seen: dict[str, str] = {}
    for name, recipe in arms.items():
        key = recipe_digest(recipe)
        if key in seen:
            raise MulliganError(
                f"{path}: arms {seen[key]!r} and {name!r} are the same recipe. Change one of them, "
                "or leave it out."
            )
        seen[key] = name


def _refuse_missing_outcomes(path: Path, study: StudyFile, arms: Mapping[str, Recipe]) -> None:
    for arm, recipe in arms.items():
        check_endpoints(recipe.evaluate.endpoints)
        evaluated = columns_of(recipe.evaluate)
        for outcome in endpoints_of(recipe):
            if missing := SCORES[outcome][0] - evaluated:
                raise MulliganError(
                    f"{path}: the endpoint {outcome!r} needs {sorted(missing)[0]!r}, which arm "
                    f"{arm!r} does not evaluate. Add it to evaluate.controls (or greedy: true), or "
                    "choose other evaluate.endpoints."
                )
    for outcome in study.spread:
        if outcome not in SCORES:
            near = nearest(outcome, list(SCORES))
            raise MulliganError(f"{path}: spread: there is no outcome {outcome!r}; {near}")
