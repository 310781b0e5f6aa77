"""Function calling with the rows of ``Salesforce/xlam-function-calling-60k``.

A row has ``query``, and as JSON strings ``tools`` and ``answers``. An answer is right if its calls
are exactly the reference's, in any order: names, parameters and values.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from mulligan.tasks.function_calling.calls import Call, compare_exactly, write_calls
from mulligan.tasks.function_calling.task import CallTask, describe
from mulligan.tasks.rows import Row, read_rows
from mulligan.types import Problem, Verdict

_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "set": "array",
    "tuple": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}
"""JSON schema's name of each type that the rows' tools name."""


@dataclass(kw_only=True, eq=False)
class Xlam(CallTask):
    """Call the tools a user needs, with exactly the reference's calls (xLAM rows)."""

    name: ClassVar[str] = "xlam"

    rows: str = "Salesforce/xlam-function-calling-60k"
    """A JSON, JSON lines or Parquet file, or a Hub id."""

    def all_problems(self) -> Iterator[Problem]:
        """Yield a problem for every row."""
        return map(self.problem, read_rows(self.rows))

    def problem(self, row: Row) -> Problem:
        """Turn a row into a problem.

        Raises:
            MulliganError: If a field is missing or is not what it should be; names the row.
        """
        query = row.get("query")
        if not isinstance(query, str):
            raise row.refuse("query", "a text")
        tools = [_describe(row, tool) for tool in _objects(row, "tools")]
        calls = [_call(row, value) for value in _objects(row, "answers")]
        given = {
            "tools": [tool["function"]["name"] for tool in tools],
            "calls": [{"name": call.name, "arguments": call.arguments} for call in calls],
        }
        question = self.messages([{"role": "user", "content": query}])
        return Problem.create(question, given, write_calls(calls), tools)

    def judge_calls(self, problem: Problem, calls: Sequence[Call]) -> Verdict:
        """Compare calls with the reference's."""
        reference = [Call(call["name"], call["arguments"]) for call in problem.given["calls"]]
        return compare_exactly(reference, calls, self.tool_names(problem))

    def tool_names(self, problem: Problem) -> Sequence[str]:
        """Return the names of the tools offered."""
        names: Sequence[str] = problem.given["tools"]
        return names

    def expected_calls(self, problem: Problem) -> int:
        """Return how many calls the reference has."""
        return len(problem.given["calls"])


def _objects(row: Row, field: str) -> list[dict[str, Any]]:
    """Return a field that is a list of named objects, as JSON text or as it stands."""
    value = row.get(field)
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            value = None
    listed = value if isinstance(value, list) else []
    if not listed or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in listed
    ):
        raise row.refuse(field, "a JSON list of at least one object with a name")
    return listed


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _call(row: Row, value: Mapping[str, Any]) -> Call:
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise row.refuse("answers", "a list of calls whose arguments are objects")
    return Call(value["name"], arguments)


def _describe(row: Row, tool: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a row's tool into a JSON schema; one that has a schema keeps it."""
    parameters = tool.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise row.refuse("tools", "a list of tools whose parameters are objects")
    if not isinstance(parameters.get("properties"), dict):
        if not all(isinstance(details, dict) for details in parameters.values()):
            raise row.refuse("tools", "a list of tools whose parameters are described by objects")
        parameters = {
            "type": "object",
            "properties": {name: _schema(details) for name, details in parameters.items()},
            "required": [name for name, details in parameters.items() if _required(details)],
        }
    return describe(tool["name"], tool.get("description", ""), parameters)


def _schema(details: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"type": "List[int], optional", ...}`` into ``{"type": "array", "items": ...}``."""
    schema = {**_schema_of_type(str(details.get("type", "")))}
    for key in ("description", "enum", "default"):
        if details.get(key) not in (None, ""):
            schema[key] = details[key]
    return schema


def _schema_of_type(text: str) -> dict[str, Any]:
    """Return what a Python type says in JSON schema; nothing for one that it does not know."""
    match = re.match(r"\s*(\w+)\s*(?:\[(.*)\])?", text)
    if match is None:
        return {}
    if match[1].lower() == "optional":
        return _schema_of_type(match[2] or "")
    kind = _TYPES.get(match[1].lower())
    if kind is None:
        return {}
    items = _schema_of_type(match[2]) if kind == "array" and match[2] else {}
    return {"type": kind, "items": items} if items else {"type": kind}


def _required(details: Mapping[str, Any]) -> bool:
    """Whether a parameter has to be given: it is not called optional, and has no default."""
    return "optional" not in str(details.get("type", "")).lower() and "default" not in details
