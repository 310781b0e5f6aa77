"""Function calls: what one is, how it is written, and whether calls are the reference's."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mulligan.tasks.json_values import same_value
from mulligan.types import Verdict

REASONS = (
    "passed",
    "no_call",
    "not_parseable",
    "unknown_tool",
    "wrong_tool",
    "missing_parameter",
    "unexpected_parameter",
    "wrong_value",
    "wrong_number_of_calls",
)
"""Why an answer passes or does not; ``no_call`` and ``not_parseable`` are unparseable."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one tool."""

    name: str
    arguments: Mapping[str, Any]


def write_calls(calls: Sequence[Call]) -> str:
    """Return calls as a JSON array on one line: the form in which answers are taught."""
    values = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return json.dumps(values, ensure_ascii=False)


def compare_names(
    expected: Sequence[str], calls: Sequence[Call], offered: Sequence[str]
) -> Verdict | None:
    """Say what is wrong with the number of calls or with the tools called, if anything is."""
    names = [call.name for call in calls]
    if len(names) != len(expected):
        detail = f"{len(names)} calls where {len(expected)} were expected"
        return Verdict.wrong("wrong_number_of_calls", detail)
    for name in names:
        if name not in offered:
            return Verdict.wrong("unknown_tool", f"{shorten(name)} is not among the tools")
    if wrong := Counter(names) - Counter(expected):
        return Verdict.wrong("wrong_tool", f"{shorten(next(iter(wrong)))} was not wanted here")
    return None


def compare_exactly(
    reference: Sequence[Call], calls: Sequence[Call], offered: Sequence[str]
) -> Verdict:
    """Judge calls by the rule that they are the reference's, in any order.

    Names and parameters are equal, and so are values as JSON has them: strings to the letter,
    numbers by value (``1`` is ``1.0``), booleans apart from numbers.
    """
    left = list(calls)
    unmatched = [wanted for wanted in reference if not _take(wanted, left)]
    if not unmatched and not left:
        return Verdict.right()
    fault = compare_names([call.name for call in reference], calls, offered)
    if fault is not None:
        return fault
    wanted = unmatched[0]
    return _compare_arguments(wanted, next(call for call in left if call.name == wanted.name))


def shorten(name: str) -> str:
    """Return a name that a model made up, quoted, at a length that fits a message."""
    return repr(name[:60])


def _take(wanted: Call, calls: list[Call]) -> bool:
    """Remove the first call that equals ``wanted``; say whether there was one."""
    for index, call in enumerate(calls):
        if call.name == wanted.name and same_value(wanted.arguments, call.arguments):
            del calls[index]
            return True
    return False


def _compare_arguments(wanted: Call, call: Call) -> Verdict:
    """Name the first difference of two unequal calls of one tool."""
    for name in wanted.arguments:
        if name not in call.arguments:
            return Verdict.wrong("missing_parameter", shorten(name))
    for name in call.arguments:
        if name not in wanted.arguments:
            return Verdict.wrong("unexpected_parameter", shorten(name))
    unequal = (
        name
        for name in wanted.arguments
        if not same_value(wanted.arguments[name], call.arguments[name])
    )
    return Verdict.wrong("wrong_value", shorten(next(unequal)))
