"""Seeds that follow from a recipe: whoever publishes a result cannot have chosen them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mulligan.config import MAY_CHANGE_ON_RESUME, Recipe
from mulligan.randomness import derive_seed

_LARGEST = 10**6
"""Seeds are below this, so that a person can read and type them."""

_SAYS_NOTHING = {"name", "seed", "format", *MAY_CHANGE_ON_RESUME}
"""Settings that leave what a run shows alone: another name must not give other seeds."""


def recipe_digest(recipe: Recipe) -> str:
    """Return a hash of everything in a recipe that what its runs show depends on.

    Settings that are left at their defaults are left out, so that a later version, which has more
    settings, finds the same hash.
    """
    settings = recipe.model_dump(mode="json", exclude_defaults=True)
    return digest(without(settings, _SAYS_NOTHING))


def derived_seeds(source: str, count: int, attempt: int = 1) -> tuple[int, ...]:
    """Return seeds that follow from a hash.

    Args:
        source: the hash of what is studied.
        count: how many; a longer list begins with the shorter one.
        attempt: another number gives another list.
    """
    seeds: list[int] = []
    number = 0
    while len(seeds) < count:
        seed = derive_seed(source, "study", attempt, number) % _LARGEST
        if seed not in seeds:
            seeds.append(seed)
        number += 1
    return tuple(seeds)


def digest(content: Any) -> str:
    """Return a SHA-256 of plain JSON values."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def without(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return settings without some, given by their dotted names."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if name in names:
            continue
        inner = {each.removeprefix(f"{name}.") for each in names if each.startswith(f"{name}.")}
        kept[name] = without(value, inner) if inner and isinstance(value, Mapping) else value
    return kept
