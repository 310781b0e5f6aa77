"""Questions to a database: an answer passes if its query gives the rows of the reference's."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from mulligan.errors import MulliganError
from mulligan.tasks.databases import NotAllowed, QueryFailed, Rows, SyntaxFault, query
from mulligan.tasks.json_values import last_block
from mulligan.tasks.row_task import RowTask, asked
from mulligan.tasks.rows import Row
from mulligan.types import Problem, Verdict

_QUERY = re.compile(r"\b(select|with|values|from)\b", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_INNERMOST = re.compile(r"\([^()]*\)")
_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)
_MOST_CANDIDATES = 10


@dataclass(kw_only=True, eq=False)
class Sql(RowTask):
    """Write a query that gives the reference's rows (rows with messages, reference and database).

    The ``reference`` is a query. Rows count as a multiset, in their order only where the reference
    sorts at its end; the names of columns make no difference, their order does. Numbers are equal
    by value, to nine digits. The database, SQLite or DuckDB, is opened for reading only, with one
    statement at a time and no access to other files.
    """

    name: ClassVar[str] = "sql"
    reasons = (
        "passed",
        "no_query",
        "not_sql",
        "query_failed",
        "not_read_only",
        "wrong_rows",
    )

    database: str | None = None
    """The database of rows that name none under ``database``."""
    seconds: float = 1.0
    """Longest time that a query may take; reference and answer have to fit into the deadline."""
    max_rows: int = 10_000
    """Most rows that a query may give."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds <= 0 or self.max_rows < 1:
            raise MulliganError("sql: seconds should be above 0, and max_rows at least 1.")

    def problem(self, row: Row) -> Problem:
        """Make the problem of a row.

        Raises:
            MulliganError: the row has no reference query, or no database that is there.
        """
        messages, tools = asked(row)
        reference = row.get("reference")
        if not isinstance(reference, str) or not reference.strip():
            raise row.refuse("reference", "a query")
        database = row.values.get("database") or self.database
        if not isinstance(database, str) or not Path(database).is_file():
            raise MulliganError(
                f"{row.where}: there is no database {database!r}. Give its file under 'database', "
                "or for all rows under task_options.database."
            )
        wrong = row.values.get("wrong") or []
        given = {"database": database, "reference": reference, "wrong": wrong}
        return Problem.create(messages, given, reference, tools)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Run the answer's query, alone or in a fenced block, and compare its rows."""
        sql = last_block(answer, "sql", "sqlite", "duckdb").strip()
        if not _QUERY.search(sql):
            return Verdict.unparseable("no_query")
        try:
            rows = self._run(problem, sql)
        except SyntaxFault as fault:
            return Verdict.unparseable("not_sql", str(fault))
        except NotAllowed as fault:
            return Verdict.wrong("not_read_only", str(fault))
        except QueryFailed as fault:
            return Verdict.wrong("query_failed", str(fault))
        reference = problem.given["reference"]
        expected = _run_cached(problem.given["database"], reference, self.seconds, self.max_rows)
        if _same_rows(rows, expected, in_order=sorts(reference)):
            return Verdict.right()
        return Verdict.wrong("wrong_rows", f"{len(rows)} rows, where {len(expected)} are right")

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two queries give the same rows."""
        try:
            rows = [self._run(problem, last_block(text, "sql").strip()) for text in (one, other)]
        except QueryFailed:
            return False
        return _same_rows(*rows, in_order=sorts(problem.given["reference"]))

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether the reflection, a block or a line of it is a query that passes."""
        lines = [line.strip(" `") for line in reflection.splitlines() if _QUERY.search(line)]
        candidates = list(dict.fromkeys([reflection, *lines]))[:_MOST_CANDIDATES]
        return any(self.verify(problem, text).passed for text in candidates)

    def _run(self, problem: Problem, sql: str) -> Rows:
        return query(Path(problem.given["database"]), sql, self.seconds, self.max_rows)


def sorts(sql: str) -> bool:
    """Whether a query sorts its rows at its end, not in a part of it only."""
    sql = _QUOTED.sub("", sql)
    while _INNERMOST.search(sql):
        sql = _INNERMOST.sub("", sql)
    return _ORDERED.search(sql) is not None


@lru_cache(maxsize=1000)
def _run_cached(database: str, sql: str, seconds: float, max_rows: int) -> Rows:
    return query(Path(database), sql, seconds, max_rows)


def _same_rows(one: Sequence[tuple], other: Sequence[tuple], *, in_order: bool) -> bool:  # type: ignore[type-arg]
    return list(one) == list(other) if in_order else Counter(one) == Counter(other)
