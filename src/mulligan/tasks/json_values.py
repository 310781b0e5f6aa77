"""JSON that a model has written: read strictly, compared by value."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

_FENCED = r"```(?:{})?[ \t]*\r?\n(.*?)(?:```|\Z)"


def last_block(text: str, *languages: str) -> str:
    """Return the last fenced block, of no language or one of these; without one, all the text."""
    pattern = _FENCED.format("|".join(map(re.escape, languages)))
    blocks = re.findall(pattern, text, re.DOTALL | re.IGNORECASE)
    return blocks[-1] if blocks else text


def read_json(text: str) -> Any:
    """Read a JSON value that stands alone or in a fenced block.

    Raises:
        ValueError: it is not JSON; ``NaN`` and infinities are not either.
    """
    try:
        return json.loads(last_block(text, "json"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: numbers by value (``1`` is ``1.0``), booleans apart.

    The order of keys makes no difference; a tuple counts as the list that JSON makes of it.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            same_value(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
