"""Finding a task by what a recipe calls it.

Four forms are known: the name of an installed task (entry-point group ``mulligan.tasks``), a
Python file of the user's own, a JSON-lines file, and ``reasoning_gym:NAME``.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from mulligan.errors import MulliganError, nearest
from mulligan.tasks.base import Task, TaskSource
from mulligan.tasks.user_file import explain, import_file

ENTRY_POINT_GROUP = "mulligan.tasks"
REASONING_GYM = "reasoning_gym:"

FORMS = (
    ("my_task.py", "a Python file of your own with one Task class (my_task.py:Name if several)"),
    (
        "rows.jsonl",
        "JSON lines with messages and reference; the option verifier says how answers are judged",
    ),
    ("reasoning_gym:NAME[,key=value...]", "a data set of the reasoning-gym package"),
)
"""What a recipe may write besides the name of an installed task."""


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """An installed task, as ``mulligan tasks`` lists it."""

    name: str
    package: str
    """The distribution that brings it."""
    summary: str
    """First line of its docstring, or why it cannot be loaded."""
    options: tuple[str, ...]
    """Names of the options it takes."""


def load_task(spec: str, options: Mapping[str, Any] | None = None) -> Task:
    """Find a task and make it.

    Args:
        spec: Name of an installed task, ``file.py``, ``file.py:ClassName``, ``file.jsonl``, or
            ``reasoning_gym:NAME[,key=value...]``.
        options: Keyword arguments of the task's class, as plain JSON values.

    Returns:
        The task; its ``source`` tells a worker process how to load it again.

    Raises:
        MulliganError: no such task, an option the task does not take, or a file that cannot be
            imported; the message names the nearest valid name.
    """
    chosen = _plain(spec, dict(options or {}))
    task = _make(spec, chosen)
    task.source = TaskSource(spec, chosen, str(Path.cwd()))
    return task


def list_tasks() -> list[TaskEntry]:
    """Return the installed tasks, by name; one that cannot be imported is listed with its error."""
    return [_entry(point) for _, point in sorted(_installed().items())]


def find_class(spec: str) -> type[Task]:
    """Return the task class that a name or a Python file stands for.

    Raises:
        MulliganError: there is no such task, or its file cannot be used.
    """
    path, _, class_name = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    if path.endswith(".py"):
        return _class_in_file(Path(path), class_name)
    installed = _installed()
    if spec not in installed:
        forms = "; ".join(f"{form}: {meaning}" for form, meaning in FORMS)
        raise MulliganError(
            f"There is no task {spec!r} ({nearest(spec, installed)}). A task may also be {forms}."
        )
    return _checked_class(_imported(installed[spec]), f"task {spec!r}")


def _make(spec: str, options: dict[str, Any]) -> Task:
    if spec.startswith(REASONING_GYM):
        from mulligan.tasks.reasoning_gym import ReasoningGym, parse_spec

        name, spelled = parse_spec(spec.removeprefix(REASONING_GYM))
        return ReasoningGym(name, **{**options, **spelled})
    if spec.endswith(".jsonl"):
        from mulligan.tasks.jsonl import TextFile

        return _construct(TextFile, spec, {"path": spec}, options)
    return _construct(find_class(spec), spec, {}, options)


def _construct(cls: type[Task], spec: str, fixed: dict[str, Any], options: dict[str, Any]) -> Task:
    """Make the task after checking its options against its constructor."""
    valid = [name for name in _option_names(cls) if name not in fixed]
    unknown = [] if _takes_any_option(cls) else [name for name in options if name not in valid]
    if unknown:
        hint = f" ({nearest(unknown[0], valid)})" if valid else ""
        raise MulliganError(
            f"The task {spec!r} has no option {', '.join(map(repr, unknown))}{hint}. "
            f"Its options: {', '.join(valid) or 'none'}."
        )
    missing = [n for n in _required(cls) if n not in options and n not in fixed]
    if missing:
        raise MulliganError(
            f"The task {spec!r} needs the option {', '.join(map(repr, missing))}; give it under "
            f"task_options in the recipe."
        )
    try:
        return cls(**fixed, **options)
    except MulliganError:
        raise
    except Exception as error:
        raise MulliganError(
            f"The task {spec!r} could not be made with the options {options}: {explain(error)}."
        ) from error


def _parameters(cls: type[Task]) -> list[inspect.Parameter]:
    return list(inspect.signature(cls).parameters.values())


def _option_names(cls: type[Task]) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in _parameters(cls) if parameter.kind in named]


def _takes_any_option(cls: type[Task]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in _parameters(cls))


def _required(cls: type[Task]) -> list[str]:
    names = set(_option_names(cls))
    return [p.name for p in _parameters(cls) if p.name in names and p.default is p.empty]


def _class_in_file(path: Path, class_name: str) -> type[Task]:
    module = import_file(path)
    if class_name:
        if not hasattr(module, class_name):
            names = [cls.__name__ for cls in _tasks_of(module)]
            raise MulliganError(f"{path} has no class {class_name!r}: {nearest(class_name, names)}")
        return _checked_class(getattr(module, class_name), f"{path}:{class_name}")
    classes = _tasks_of(module)
    if len(classes) != 1:
        found = ", ".join(cls.__name__ for cls in classes) or "none"
        raise MulliganError(
            f"{path} should define one class derived from mulligan.Task, and defines: {found}. "
            f"Derive your class from it, or choose one by {path.name}:ClassName."
        )
    return _checked_class(classes[0], str(path))


def _tasks_of(module: ModuleType) -> list[type[Task]]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Task)
        and value.__module__ == module.__name__
    ]


def _checked_class(value: object, where: str) -> type[Task]:
    """Refuse what is not a complete task class, saying what it lacks."""
    if not (isinstance(value, type) and issubclass(value, Task)):
        raise MulliganError(f"{where} should be a class derived from mulligan.Task, not {value!r}.")
    lacking = sorted(value.__abstractmethods__)
    if not isinstance(getattr(value, "name", None), str):
        lacking.append('a name (name = "my_task")')
    if lacking:
        raise MulliganError(f"{where}: the class {value.__name__} lacks {', '.join(lacking)}.")
    return value


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _imported(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise MulliganError(
            f"The task {point.name!r} ({point.value}) is installed but cannot be imported: "
            f"{explain(error)}."
        ) from error


def _entry(point: EntryPoint) -> TaskEntry:
    package = point.dist.name if point.dist else "unknown"
    try:
        cls = _checked_class(_imported(point), f"task {point.name!r}")
    except MulliganError as error:
        return TaskEntry(point.name, package, str(error), ())
    summary = (inspect.getdoc(cls) or "").split("\n")[0]
    return TaskEntry(point.name, package, summary, tuple(_option_names(cls)))


def _plain(spec: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as plain JSON values, which is what a worker process can be sent."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(options))
    except (TypeError, ValueError) as error:
        raise MulliganError(
            f"The options of the task {spec!r} should be plain values (text, numbers, true, false, "
            f"lists and mappings of them): {error}."
        ) from error
    return copy
