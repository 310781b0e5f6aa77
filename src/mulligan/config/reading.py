"""Recipes: read, overridden, checked, compared and written.

A recipe is a YAML file of settings; ``name=value`` on the command line overrides one, with dots for
sections (``train.steps=40``). Unknown names are refused with the nearest valid one; names of
earlier versions are read, and the log says the new one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mulligan.config.names import new_name, put, with_new_names
from mulligan.config.recipe import ENGINES, Recipe, Section
from mulligan.errors import MulliganError, nearest

MADE_WITH = "made_with"
"""The block of a run's ``config.yaml`` that says by which versions it was made."""

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "train.shard",
        "train.stop_after",
        "train.tokens_at_once",
        "device",
        "probe",
        "track",
        "engine.memory_gib",
        "engine.url",
        "engine.python",
        "engine.start_seconds",
        "engine.api_key_env",
        "engine.timeout_seconds",
        "engine.parallel",
    }
)
"""Settings that leave the run's meaning alone; all others are fixed by its first start."""


DEFAULTS_OF_FORMAT_1 = {"train.kl_form": "unbiased", "train.dead_groups": "skip"}
"""What a run of format 1 does where its recipe says nothing, other than the defaults below."""


def load_recipe(path: Path, overrides: Sequence[str] = (), run_format: int | None = None) -> Recipe:
    """Read a recipe, apply ``name=value`` overrides, and check it.

    A run's ``config.yaml`` is a recipe too: what that run was made with does not bind the next.

    Args:
        path: the recipe's file.
        overrides: ``name=value`` texts.
        run_format: the format of the run that continues with it; by default the newest.

    Raises:
        MulliganError: no such file, not YAML, an unknown name, or a wrong value.
    """
    settings = with_new_names(read_yaml(path), str(path))
    settings.pop(MADE_WITH, None)
    for override in overrides:
        _apply_override(settings, override)
    if run_format is not None:
        settings["format"] = run_format
    return check_recipe(settings, str(path))


def override_recipe(recipe: Recipe, overrides: Sequence[str], source: str) -> Recipe:
    """Apply ``name=value`` overrides to a recipe, and check it again.

    Raises:
        MulliganError: an unknown name, or a wrong value.
    """
    settings = recipe.model_dump()
    for override in overrides:
        _apply_override(settings, override)
    return check_recipe(settings, source)


def change_recipe(recipe: Recipe, changes: Mapping[str, Any], source: str) -> Recipe:
    """Set settings by their dotted names, such as ``train.steps``, and check the recipe again.

    Raises:
        MulliganError: an unknown name, or a wrong value; ``source`` says where it stands.
    """
    settings = recipe.model_dump()
    for path, value in changes.items():
        _set(settings, path, value, source)
    return check_recipe(settings, source)


def as_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``name=value`` texts as plain settings.

    Raises:
        MulliganError: one is not of that form.
    """
    settings: dict[str, Any] = {}
    for override in overrides:
        _apply_override(settings, override)
    return settings


def check_recipe(settings: Mapping[str, Any], source: str) -> Recipe:
    """Check plain settings; ``source`` names where they come from in errors.

    Raises:
        MulliganError: an unknown name, a wrong value, or one setting under two names.
    """
    settings = with_new_names(settings, source)
    if settings.get("format") == 1:
        _fill(settings, DEFAULTS_OF_FORMAT_1)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(each)}" for each in error.errors())
        raise MulliganError(f"{source} is not a valid recipe:\n{problems}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        MulliganError: no such file, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MulliganError(f"Cannot read {str(path)!r}: {error}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MulliganError(f"{str(path)!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise MulliganError(f"{str(path)!r} should hold `name: value` lines, but does not.")
    return content


def as_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML, every setting resolved; a run folder keeps its format apart."""
    settings = recipe.model_dump(exclude={"format"})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def changed_settings(before: Recipe, after: Recipe) -> list[str]:
    """Name the settings that differ and may not change when a run is resumed."""
    old, new = _flatten(before.model_dump()), _flatten(after.model_dump())
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in MAY_CHANGE_ON_RESUME
    ]


def _fill(settings: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Set what is missing in sections that are there; where one is not, the recipe is wrong."""
    for path, value in defaults.items():
        section, _, name = path.partition(".")
        if isinstance(settings.get(section), dict):
            settings[section].setdefault(name, value)


def _flatten(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _apply_override(settings: dict[str, Any], override: str) -> None:
    """Put one ``section.name=value`` into plain settings; values are YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise MulliganError(f"{override!r} is not of the form name=value.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise MulliganError(f"The value of {override!r} is not YAML: {error}") from error
    if isinstance(value, str):
        value = _number(value)
    _set(settings, path, value, "The command line")


def _set(settings: dict[str, Any], path: str, value: Any, source: str) -> None:
    """Set a setting by its dotted name, which may be that of an earlier version.

    Raises:
        MulliganError: one of the sections that lead to it is a value.
    """
    parts = new_name(path, source).split(".")
    target: Any = settings
    for section in parts[:-1]:
        target = target.get(section) or {}
        if not isinstance(target, dict):
            raise MulliganError(f"{source}: {path}: {section!r} is a value, not a section.")
    if parts == ["engine", "kind"] and target.get("kind", "local") != value:
        settings["engine"] = {}  # the settings of another kind of engine say nothing of this one
    put(settings, parts, value)


def _number(text: str) -> str | float:
    """Read ``1e-6`` as people mean it; YAML 1.1 takes it for a string."""
    try:
        return float(text)
    except ValueError:
        return text


def _explain(error: Any) -> str:
    """Say what was expected and what came for one of pydantic's errors."""
    path = ".".join(str(part) for part in _without_tags(error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown name; {nearest(str(error['loc'][-1]), _names(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{path}: missing"
    if not path:
        return str(error["ctx"]["error"])
    return f"{path}: {error['msg']}, but got {error['input']!r}"


def _names(section: Sequence[str | int]) -> list[str]:
    """Return the valid names of a section."""
    if section[:1] == ("engine",):
        return list(ENGINES[str(section[1])].model_fields)
    model: type[BaseModel] = Recipe
    for part in section:
        annotation = model.model_fields[str(part)].annotation
        kinds = [annotation, *get_args(annotation)]
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return list(model.model_fields)


def _without_tags(path: Sequence[str | int]) -> list[str | int]:
    """Drop the engine's tag from the place of an error: no recipe writes it there."""
    tagged = path[:1] == ("engine",) and len(path) > 1 and path[1] in ENGINES
    return [*path[:1], *path[2:]] if tagged else list(path)
