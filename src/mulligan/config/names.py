"""Names of settings, as a nested mapping holds them, and what earlier versions called them."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from mulligan.errors import MulliganError

RENAMED = {
    "warmup": "sft",
    "sft.warmup_share": "sft.warmup_ratio",
    "train.failures": "train.failures_per_step",
    "train.warmup_share": "train.warmup_ratio",
    "train.clip_gradient": "train.max_grad_norm",
    "generate.memory_gib": "engine.memory_gib",
}
"""Names of earlier versions and what they are called now; sections come before their settings."""

log = logging.getLogger("mulligan")


def with_new_names(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return settings with the names of earlier versions replaced; the log says each new one.

    Raises:
        MulliganError: one setting is given under its old and its new name.
    """
    renamed = deepcopy(dict(settings))
    for old, new in RENAMED.items():
        found, value = _take(renamed, old.split("."))
        if found:
            _say_new_name(source, old, new)
            if _take(deepcopy(renamed), new.split("."))[0]:
                raise MulliganError(
                    f"{source} gives both `{old}` and `{new}`, which are one setting: the first is "
                    "its old name. Leave that one out."
                )
            put(renamed, new.split("."), value)
    return renamed


def _take(settings: dict[str, Any], path: Sequence[str]) -> tuple[bool, Any]:
    """Remove a setting; return whether it was there, and its value."""
    *sections, name = path
    target: Any = settings
    for section in sections:
        target = target.get(section) if isinstance(target, dict) else None
    if not isinstance(target, dict) or name not in target:
        return False, None
    return True, target.pop(name)


def put(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a setting, making the sections that lead to it."""
    *sections, name = path
    target = settings
    for section in sections:
        if target.get(section) is None:
            target[section] = {}
        target = target[section]
    target[name] = value


@cache
def _say_new_name(source: str, old: str, new: str) -> None:
    """Say once in a process what a setting is called now."""
    log.warning("%s: `%s` is called `%s` now; the old name is still read.", source, old, new)


def new_name(path: str, source: str) -> str:
    """Return a setting's present name; that of its section may have changed too."""
    for old, new in RENAMED.items():
        if path == old or path.startswith(f"{old}."):
            _say_new_name(source, old, new)
            path = new + path.removeprefix(old)
    return path
