"""Arms that follow their recipe: ``train.steps: {times: 10}`` is ten times the recipe's steps.

An arm that is to cost as much as the base, or to run ten times as long, then stays right when the
recipe is tuned.
"""

import math
from collections.abc import Mapping
from typing import Any

from mulligan.config import Recipe
from mulligan.errors import MulliganError

TIMES = "times"


def resolved(recipe: Recipe, changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return changes of a recipe with every ``{times: X}`` replaced by X times its own value.

    Whole numbers stay whole: they are rounded half up, to 1 at least.

    Raises:
        MulliganError: the recipe's value is not a number, or X is not a number above 0.
    """
    return {
        name: _scaled(recipe, name, value[TIMES], source) if _is_relative(value) else value
        for name, value in changes.items()
    }


def _is_relative(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {TIMES}


def _scaled(recipe: Recipe, name: str, factor: Any, source: str) -> int | float:
    own: Any = recipe.model_dump()
    for part in name.split("."):
        own = own.get(part) if isinstance(own, Mapping) else None
    if not _is_number(own):
        raise MulliganError(
            f"{source}: {name}: {{times: {factor}}} needs a number in the recipe to start from, "
            f"but there it is {own!r}. Give the value itself."
        )
    if not _is_number(factor) or factor <= 0:
        raise MulliganError(f"{source}: {name}: times should be a number above 0, not {factor!r}.")
    if isinstance(own, int):
        rounded: int = math.floor(own * factor + 0.5)
        return max(1, rounded)
    return float(own * factor)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
