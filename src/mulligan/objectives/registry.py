"""Finding rewards, learns and losses by name.

A name is that of a file in ``rewards/``, ``learns/`` or ``losses/`` here, each with one class, or
an entry point of another package (groups ``mulligan.rewards``, ``mulligan.learn`` and
``mulligan.losses``) that names such a class.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal, TypeVar

from mulligan.errors import MulliganError, nearest
from mulligan.objectives import learns, losses, rewards
from mulligan.objectives.base import Learn, Loss, Reward

Kind = Literal["reward", "learn", "loss"]
C = TypeVar("C", Reward, Learn, Loss)

_PACKAGES: dict[type, tuple[Kind, ModuleType]] = {
    Reward: ("reward", rewards),
    Learn: ("learn", learns),
    Loss: ("loss", losses),
}


def find(base: type[C], name: str) -> type[C]:
    """Return the class of a reward, learn or loss.

    Args:
        base: ``Reward``, ``Learn`` or ``Loss``.
        name: as a recipe writes it.

    Raises:
        MulliganError: there is none of that name, or it cannot be imported.
    """
    kind, package = _PACKAGES[base]
    if name in _own(package):
        return _class_in(importlib.import_module(f"{package.__name__}.{name}"), base)
    installed = _installed(kind)
    if name not in installed:
        raise MulliganError(f"There is no {kind} {name!r}; {nearest(name, names(base))}.")
    point = installed[name]
    try:
        found = point.load()
    except Exception as error:
        raise MulliganError(
            f"The {kind} {name!r} ({point.value}) is installed but cannot be imported: "
            f"{type(error).__name__}: {error}."
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise MulliganError(
            f"The {kind} {name!r} ({point.value}) should be a class derived from "
            f"mulligan.objectives.base.{base.__name__}, but is {found!r}."
        )
    return found


def make_reward(name: str, options: Mapping[str, Any]) -> Reward:
    """Make a reward with its options.

    Raises:
        MulliganError: there is none of that name, or it does not take these options.
    """
    found = find(Reward, name)  # type: ignore[type-abstract]
    valid = list(inspect.signature(found).parameters)
    unknown = [option for option in options if option not in valid]
    if unknown:
        hint = f"; {nearest(unknown[0], valid)}" if valid else ""
        raise MulliganError(
            f"The reward {name!r} has no option {unknown[0]!r}{hint}. "
            f"Its options: {', '.join(valid) or 'none'} (train.reward_options)."
        )
    return found(**options)


def names(base: type[Reward] | type[Learn] | type[Loss]) -> list[str]:
    """Return the names there are, our own first."""
    kind, package = _PACKAGES[base]
    return [*_own(package), *sorted(_installed(kind))]


@dataclass(frozen=True, slots=True)
class Entry:
    """A reward, learn or loss, as ``mulligan objectives`` lists it."""

    kind: Kind
    name: str
    summary: str
    """First line of its docstring, or why it cannot be loaded."""
    options: tuple[str, ...]
    """Names of a reward's options."""


def list_objectives() -> list[Entry]:
    """Return every reward, learn and loss; one that cannot be imported, with its error."""
    bases: tuple[type[Reward] | type[Learn] | type[Loss], ...] = (Reward, Learn, Loss)
    return [_entry(base, name) for base in bases for name in names(base)]


def _entry(base: type[Reward] | type[Learn] | type[Loss], name: str) -> Entry:
    kind, _ = _PACKAGES[base]
    try:
        found = find(base, name)  # type: ignore[type-var]
    except MulliganError as error:
        return Entry(kind, name, str(error), ())
    options = tuple(inspect.signature(found).parameters) if kind == "reward" else ()
    return Entry(kind, name, (inspect.getdoc(found) or "").partition("\n")[0], options)


def _own(package: ModuleType) -> list[str]:
    modules = pkgutil.iter_modules(package.__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def _class_in(module: ModuleType, base: type[C]) -> type[C]:
    """Return the one class of a module that is its own and derives from ``base``."""
    [found] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    return found


def _installed(kind: Kind) -> dict[str, EntryPoint]:
    group = {"reward": "mulligan.rewards", "learn": "mulligan.learn", "loss": "mulligan.losses"}
    return {point.name: point for point in entry_points(group=group[kind])}
