"""Answers that have to be JSON of a given form: rows with a JSON schema each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mulligan.errors import MulliganError
from mulligan.tasks.json_values import read_json, same_value
from mulligan.tasks.row_task import RowTask, asked
from mulligan.tasks.rows import Row
from mulligan.types import Problem, Verdict

_LONGEST_DETAIL = 300


@dataclass(kw_only=True, eq=False)
class JsonSchema(RowTask):
    """Write JSON that a schema accepts (rows with messages and schema).

    Rows have a ``schema``, and may have a ``reference``: a JSON value that the schema accepts. A
    schema checks the form, and no more than it says: ask for it what a wrong answer would lack.
    References to other documents are not followed.
    """

    name: ClassVar[str] = "json_schema"
    reasons = ("passed", "not_json", "violates_schema")
    answers_are_shared = True

    def problem(self, row: Row) -> Problem:
        """Make the problem of a row.

        Raises:
            MulliganError: the row has no schema, or not a valid one.
        """
        messages, tools = asked(row)
        schema = row.get("schema")
        try:
            _validator_class(schema).check_schema(schema)
        except Exception as error:
            said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
            raise MulliganError(f"{row.where}: 'schema' is not a JSON schema: {said}") from error
        given = {"schema": schema, "wrong": row.values.get("wrong") or []}
        return Problem.create(messages, given, _reference(row), tools)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Read the answer, alone or in a fenced block, and hold it against the schema."""
        try:
            value = read_json(answer)
        except ValueError as error:
            return Verdict.unparseable("not_json", str(error)[:_LONGEST_DETAIL])
        fault = next(_faults(problem.given["schema"], value), None)
        return Verdict.right() if fault is None else Verdict.wrong("violates_schema", fault)

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers are equal JSON values."""
        del problem
        try:
            return same_value(read_json(one), read_json(other))
        except ValueError:
            return False


def _reference(row: Row) -> str | None:
    if "reference" not in row.values:
        return None
    reference = row.values["reference"]
    return reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)


def _faults(schema: Any, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value, each with the place where it is."""
    from referencing import Registry

    cls = _validator_class(schema)
    validator = cls(schema, registry=Registry(), format_checker=cls.FORMAT_CHECKER)
    for error in validator.iter_errors(value):
        yield f"{error.json_path}: {error.message}"[:_LONGEST_DETAIL]


def _validator_class(schema: Any) -> Any:
    """Return the class for the draft that a schema names; by default, the newest."""
    try:
        from jsonschema.validators import Draft202012Validator, validator_for
    except ImportError as error:
        raise MulliganError(
            "The task json_schema needs the package jsonschema: pip install 'mulligan[verifiers]'."
        ) from error
    return validator_for(schema, default=Draft202012Validator)
