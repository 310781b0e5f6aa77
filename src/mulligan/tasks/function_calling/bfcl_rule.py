"""When the Berkeley Function-Calling Leaderboard accepts calls as right.

The same verdict as ``ast_checker`` of bfcl-eval 2026.3.23 (language Python, a prompted model),
written from its behaviour and checked against it by a slow test. Its rule, oddities included:

- The number of calls is the number expected. Each expected call in turn takes the first
  remaining call that fits it; a cleverer assignment is not sought.
- A tool's name matches to the letter, dots included (models that cannot write dots are given
  other names by the leaderboard; ours are given the names as they stand).
- Required parameters are there; no parameter is there that the tool's description or the
  expected call does not know; an expected parameter may be absent only if ``""`` is among its
  possible values.
- A value's type is exactly the described one: ``True`` is no integer, ``5.0`` no integer, a tuple
  no array. An integer may stand for a float, a tuple for a ``tuple`` (described tuples take lists
  as well), and ``any`` means a string. Of arrays and tuples the items' types are checked, one
  level deep, against every possible value in turn.
- If the first possible value that is not ``""`` is of another type than described, then values of
  that type are taken too, and all values are compared as they stand.
- Otherwise strings, alone, as items of lists and as values of dictionaries, are compared without
  case, spaces and ``, . / - _ * ^``, single quotes as double ones. Deeper ones are compared as
  they stand. ``""`` among a list's possible values also stands for the empty list.
- A dictionary's keys are the expected ones, each value among the possible ones; a key may be
  absent if ``""`` is among its. Lists of dictionaries match one by one, in order.

Where the checker raises an exception instead of answering, as for an integer too large to become
the float described, the call is wrong here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mulligan.tasks.function_calling.calls import Call, compare_names, shorten
from mulligan.types import Verdict

KINDS: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
"""The Python type of each type that descriptions name."""

_IGNORED = re.compile(r"[ ,./\-_*^]")

Possible = Mapping[str, Sequence[Any]]
"""Possible values by parameter; ``""`` among them where the parameter may be absent."""


def describe_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a tool's description to what the rule needs, as plain JSON values."""
    parameters = function["parameters"]
    types = {
        name: [schema["type"], schema.get("items", {}).get("type")]
        for name, schema in parameters["properties"].items()
    }
    return {"required": list(parameters["required"]), "types": types}


def judge_calls(
    calls: Sequence[Call],
    expected: Sequence[Mapping[str, Possible]],
    tools: Mapping[str, Mapping[str, Any]],
) -> Verdict:
    """Judge calls by the leaderboard's rule.

    Args:
        calls: What the model calls.
        expected: The right calls, each as ``{tool: {parameter: possible values}}``.
        tools: ``describe_tool`` of every tool offered, by name.
    """
    wanted = [(name, possible) for call in expected for name, possible in call.items()]
    fault = compare_names([name for name, _ in wanted], calls, tuple(tools))
    if fault is not None:
        return fault
    left = list(calls)
    for name, possible in wanted:
        fault = _take(name, possible, left, tools[name])
        if fault is not None:
            return fault
    return Verdict.right()


def judge_arguments(
    arguments: Mapping[str, Any], possible: Possible, tool: Mapping[str, Any]
) -> Verdict:
    """Judge the arguments of one call of the right tool."""
    for name in tool["required"]:
        if name not in arguments:
            return Verdict.wrong("missing_parameter", shorten(name))
    for name, value in arguments.items():
        if name not in tool["types"] or name not in possible:
            return Verdict.wrong("unexpected_parameter", shorten(name))
        if not accepts(value, possible[name], *tool["types"][name]):
            return Verdict.wrong("wrong_value", shorten(name))
    for name, values in possible.items():
        if name not in arguments and "" not in values:
            return Verdict.wrong("missing_parameter", shorten(name))
    return Verdict.right()


def accepts(value: Any, possible: Sequence[Any], kind: str, item_kind: str | None = None) -> bool:
    """Whether a value of a parameter is among the possible ones, for its described type."""
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)
    if kind == "float" and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return False
    expected = KINDS[kind]
    items = KINDS[item_kind] if kind in ("array", "tuple") and item_kind else None
    if not _has_type(value, possible, expected, items):
        return False
    if _first_type(possible) in (None, expected) and type(value) is expected:
        return _among(value, possible, expected, items)
    return value in possible


def _take(
    name: str, possible: Possible, left: list[Call], tool: Mapping[str, Any]
) -> Verdict | None:
    """Remove the first call that fits; where none does, say what is wrong with the first."""
    faults = []
    for index, call in enumerate(left):
        if call.name != name:
            continue
        verdict = judge_arguments(call.arguments, possible, tool)
        if verdict.passed:
            del left[index]
            return None
        faults.append(verdict)
    return faults[0]


def _first_type(possible: Sequence[Any]) -> type | None:
    return next((type(value) for value in possible if value != ""), None)


def _has_type(
    value: Any, possible: Sequence[Any], expected: type[Any], items: type[Any] | None = None
) -> bool:
    """Whether a value is of the described type, or else of the first possible value's type."""
    if type(value) is not expected:
        return type(value) is _first_type(possible)
    if items is None:
        return True
    return any(
        not isinstance(choice, list) or all(_has_type(item, choice, items) for item in value)
        for choice in possible
    )


def _among(
    value: Any, possible: Sequence[Any], expected: type[Any], items: type[Any] | None
) -> bool:
    """Whether a value of the described type is among the possible ones, by that type's rule."""
    if expected is dict:
        return any(_fits_dictionary(value, choice) for choice in possible)
    if expected is list and items is dict:
        return any(_fits_dictionaries(value, choice) for choice in possible)
    if expected is list:
        choices = [choice for choice in possible if isinstance(choice, list | str)]
        return _plain_items(value) in map(_plain_items, choices)
    if expected is str:
        return _plain(value) in [_plain(choice) for choice in possible if type(choice) is str]
    return value in possible


def _fits_dictionaries(value: Sequence[Any], choice: Any) -> bool:
    return (
        isinstance(choice, list | str)
        and len(value) == len(choice)
        and all(map(_fits_dictionary, value, choice))
    )


def _fits_dictionary(value: Any, choice: Any) -> bool:
    """Whether a dictionary fits one of possible values by key."""
    if not isinstance(value, dict) or not isinstance(choice, dict):
        return False
    known = all(
        key in choice and _plain(item) in _plain_items(choice[key]) for key, item in value.items()
    )
    return known and all(key in value or "" in values for key, values in choice.items())


def _plain_items(values: Sequence[Any]) -> list[Any]:
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """Return a string as the leaderboard compares it; anything else as it is."""
    if type(value) is not str:
        return value
    return _IGNORED.sub("", value).lower().replace("'", '"')
