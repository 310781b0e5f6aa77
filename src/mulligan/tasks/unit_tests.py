"""Python code that has to pass tests: rows with the tests of each problem."""

import ast
import sys
from dataclasses import dataclass
from typing import ClassVar

from mulligan.errors import MulliganError
from mulligan.tasks.json_values import last_block
from mulligan.tasks.python_runner import run_tests, test_functions
from mulligan.tasks.row_task import RowTask, asked
from mulligan.tasks.rows import Row
from mulligan.types import Problem, Verdict

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_LONGEST_CODE = 20_000
_MOST_CANDIDATES = 5


@dataclass(kw_only=True, eq=False)
class UnitTests(RowTask):
    """Write Python code that passes tests (rows with messages and tests).

    A row's ``tests`` are Python code that finds the answer's names: plain assertions, functions
    ``test_*``, or both. A ``reference``, code that passes, may be added. Answer and tests run in a
    process of their own, in an empty folder, with an environment that holds nothing of the
    user's, with bounds on time, memory and files, and without the network where the system allows
    that. That stops accidents. An answer that sets out to deceive the tests can: it runs in
    the same process as they do.
    """

    name: ClassVar[str] = "unit_tests"
    reasons = (
        "passed",
        "no_code",
        "not_python",
        "failed_test",
        "raised",
        "took_too_long",
        "ended_early",
    )

    seconds: float = 2.0
    """Longest time that answer and tests may take together."""
    memory_mib: int = 512
    """Memory that they may allocate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if sys.platform == "win32":
            raise MulliganError("unit_tests needs a system that can bound processes, not Windows.")
        if self.seconds <= 0 or self.memory_mib < 1:
            raise MulliganError("unit_tests: seconds and memory_mib should be above 0.")

    def problem(self, row: Row) -> Problem:
        """Make the problem of a row.

        Raises:
            MulliganError: the row has no tests, or tests that are not Python or test nothing.
        """
        messages, tools = asked(row)
        tests = row.get("tests")
        if not isinstance(tests, str) or not _tests_something(tests):
            raise row.refuse("tests", "Python code with assertions that run, or functions test_*")
        reference = row.values.get("reference")
        if not isinstance(reference, str | None):
            raise row.refuse("reference", "Python code")
        given = {"tests": tests, "wrong": row.values.get("wrong") or []}
        return Problem.create(messages, given, reference, tools)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Run the tests on the answer's last fenced block, or on all of it."""
        code = _code(answer)
        if not code:
            return Verdict.unparseable("no_code")
        if _parsed(code) is None:
            return Verdict.unparseable("not_python")
        outcome = run_tests(code, problem.given["tests"], self.seconds, self.memory_mib)
        if outcome.reason == "passed":
            return Verdict.right()
        return Verdict.wrong(outcome.reason, outcome.detail)

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers are the same code but for layout and comments."""
        del problem
        trees = _parsed(_code(one)), _parsed(_code(other))
        return None not in trees and ast.dump(trees[0]) == ast.dump(trees[1])  # type: ignore[arg-type]

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether the reflection, or a part of it between empty lines, is code that passes."""
        parts = [part for part in reflection.split("\n\n") if "\n" in part or "(" in part]
        candidates = list(dict.fromkeys([reflection, *parts]))[:_MOST_CANDIDATES]
        return any(self.verify(problem, text).passed for text in candidates)


def _code(answer: str) -> str:
    return last_block(answer, "python", "py", "python3").strip()


def _parsed(code: str) -> ast.Module | None:
    if not code or len(code) > _LONGEST_CODE:
        return None
    try:
        return ast.parse(code)
    except _UNREADABLE:
        return None


def _tests_something(tests: str) -> bool:
    """Whether something is asserted when the tests run: code that waits for a caller may not be."""
    tree = _parsed(tests)
    if tree is None:
        return False
    if test_functions(tree):
        return True
    run = [each for each in tree.body if not isinstance(each, _DEFINITIONS)]
    does_something = any(
        isinstance(node, ast.Assert | ast.Call) for each in run for node in ast.walk(each)
    )
    return does_something and any(isinstance(node, ast.Assert) for node in ast.walk(tree))
