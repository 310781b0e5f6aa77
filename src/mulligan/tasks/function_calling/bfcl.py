"""Function calling with the Berkeley Function-Calling Leaderboard's single-turn Python problems.

The problems and their possible answers are data files within the package ``bfcl-eval``. The package
is never imported, because it needs old versions of much else; its files suffice. The rule by which
an answer is right is in :mod:`mulligan.tasks.function_calling.bfcl_rule`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from mulligan.errors import MulliganError, nearest
from mulligan.tasks.function_calling.bfcl_rule import describe_tool, judge_calls
from mulligan.tasks.function_calling.calls import Call, write_calls
from mulligan.tasks.function_calling.task import CallTask, describe
from mulligan.tasks.rows import Row, read_rows
from mulligan.types import Problem, Verdict

CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
"""One tool and one call; several tools; several calls; both; and the same asked by real users."""

_PREFIX = "BFCL_v4_"
_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
_HOW_TO_INSTALL = (
    "install it with `pip install --no-deps bfcl-eval==2026.3.23`, or give the folder of its data "
    "files as the task option folder="
)


@dataclass(kw_only=True, eq=False)
class Bfcl(CallTask):
    """Call the tools a user needs, with values among the possible ones (Berkeley leaderboard).

    Problems that no answer can pass are left out: four of 2,351, by mistakes in the data.

    Raises:
        MulliganError: For an unknown category, or an option with a wrong value.
    """

    name: ClassVar[str] = "bfcl"

    folder: str | None = None
    """A folder with the package's data files, or one that contains the package; ``None`` for the
    package as installed."""
    categories: Sequence[str] = CATEGORIES
    """Which of the leaderboard's categories take part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for category in self.categories:
            if category not in CATEGORIES:
                raise MulliganError(
                    f"bfcl has no category {category!r}; {nearest(category, CATEGORIES)}"
                )

    @cached_property
    def data(self) -> Path:
        """The folder of the data files.

        Raises:
            MulliganError: If they are not to be found.
        """
        return find_data(self.folder)

    def all_problems(self) -> Iterator[Problem]:
        """Yield the problems of all categories that some answer can pass."""
        for category in CATEGORIES:
            for entry in read_category(self.data, category):
                problem = self.problem(category, *entry)
                if problem.reference and self.verify(problem, problem.reference).passed:
                    yield problem

    def problem(
        self, category: str, row: Row, expected: Sequence[Mapping[str, Mapping[str, Any]]]
    ) -> Problem:
        """Turn an entry of the leaderboard into a problem."""
        functions = row.get("function")
        tools = {function["name"]: describe_tool(function) for function in functions}
        given = {"category": category, "expected": expected, "tools": tools}
        calls = [
            Call(name, _plainest_arguments(possible, tools[name]["required"]))
            for call in expected
            for name, possible in call.items()
        ]
        schemas = [
            describe(f["name"], f["description"], _schema(f["parameters"])) for f in functions
        ]
        return Problem.create(
            self.messages(row.get("question")[0]), given, write_calls(calls), schemas
        )

    def chosen(self, problem: Problem) -> bool:
        """Whether the problem's category takes part."""
        return problem.given["category"] in self.categories

    def judge_calls(self, problem: Problem, calls: Sequence[Call]) -> Verdict:
        """Judge calls by the leaderboard's rule."""
        return judge_calls(calls, problem.given["expected"], problem.given["tools"])

    def tool_names(self, problem: Problem) -> Sequence[str]:
        """Return the names of the tools offered."""
        return list(problem.given["tools"])

    def expected_calls(self, problem: Problem) -> int:
        """Return how many calls are expected."""
        return len(problem.given["expected"])


def find_data(folder: str | None) -> Path:
    """Return the folder of the leaderboard's data files, without importing its package.

    Raises:
        MulliganError: If it cannot be found.
    """
    if folder is None:
        package = find_spec("bfcl_eval")
        if package is None or not package.submodule_search_locations:
            raise MulliganError(f"the package bfcl-eval is not installed; {_HOW_TO_INSTALL}")
        folder = package.submodule_search_locations[0]
    for inside in ("", "data", "bfcl_eval/data"):
        data = Path(folder).expanduser() / inside
        if (data / f"{_PREFIX}{CATEGORIES[0]}.json").is_file():
            return data
    raise MulliganError(f"no file {_PREFIX}{CATEGORIES[0]}.json in {folder!r}; {_HOW_TO_INSTALL}")


def read_category(data: Path, category: str) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """Yield each entry of a category with its possible answers.

    Raises:
        MulliganError: If a file or the answers to an entry are missing.
    """
    file = f"{_PREFIX}{category}.json"
    answers = {
        row.get("id"): row.get("ground_truth")
        for row in read_rows(str(data / "possible_answer" / file))
    }
    for row in read_rows(str(data / file)):
        if row.get("id") not in answers:
            raise MulliganError(f"{row.where}: there are no possible answers to {row.get('id')!r}")
        yield row, answers[row.get("id")]


def _plainest_arguments(
    possible: Mapping[str, Sequence[Any]], required: Sequence[str]
) -> dict[str, Any]:
    """Return the first possible value of every parameter that cannot be left out."""
    return {
        name: _filled_in(_first(values))
        for name, values in possible.items()
        if name in required or "" not in values
    }


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if value != ""), "")


def _filled_in(value: Any) -> Any:
    """Choose the values in a dictionary, which holds possible ones by key, and in lists of them."""
    if isinstance(value, dict):
        return {key: _first(values) for key, values in value.items() if "" not in values}
    if isinstance(value, list):
        return [_filled_in(item) if isinstance(item, dict) else item for item in value]
    return value


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the leaderboard's names of types into JSON schema's, at every level."""
    result = dict(schema)
    kind = schema.get("type")
    if kind == "any":
        del result["type"]
    elif kind in _SCHEMA_TYPES:
        result["type"] = _SCHEMA_TYPES[kind]
    if isinstance(schema.get("properties"), dict):
        result["properties"] = {
            name: _schema(details) for name, details in schema["properties"].items()
        }
    if isinstance(schema.get("items"), dict):
        result["items"] = _schema(schema["items"])
    return result
