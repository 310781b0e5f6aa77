"""One query against a database file: for reading only, and bounded."""

import sqlite3
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mulligan.errors import MulliganError

if TYPE_CHECKING:
    import duckdb

Rows = tuple[tuple[Any, ...], ...]

_LONGEST_VALUE = 1_000_000
_LONGEST_QUERY = 10_000
_DUCKDB_SETTINGS: dict[str, Any] = {
    "threads": "1",
    "memory_limit": "256MB",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "lock_configuration": "true",
}
_SQLITE_SYNTAX = ("syntax error", "incomplete input", "unrecognized token", "one statement")
_SQLITE_ALLOWED = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)


class QueryFailed(Exception):  # noqa: N818 - the outcome of a query, not an error of the program
    """The query gives no rows that could be compared."""


class SyntaxFault(QueryFailed):
    """It is not one statement of SQL."""


class NotAllowed(QueryFailed):
    """It does something else than read this database."""


def query(database: Path, sql: str, seconds: float, max_rows: int) -> Rows:
    """Run one query; values are made comparable.

    Args:
        database: A file of SQLite or DuckDB.
        sql: One statement that reads.
        seconds: Longest time that it may take.
        max_rows: Most rows that it may give.

    Raises:
        QueryFailed: the query is refused, fails, takes too long or gives too many rows.
        MulliganError: the file cannot be opened as a database.
    """
    if len(sql) > _LONGEST_QUERY:
        raise SyntaxFault(f"longer than {_LONGEST_QUERY} characters")
    run = _sqlite if _is_sqlite(database) else _duckdb
    rows = run(database, sql, seconds, max_rows)
    if len(rows) > max_rows:
        raise QueryFailed(f"more than {max_rows} rows")
    return tuple(tuple(map(comparable, row)) for row in rows)


def comparable(value: Any) -> Any:
    """Return a value that equals those that mean the same: ``2`` and ``2.0``, ``0.1 + 0.2``."""
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        rounded = float(f"{value:.9g}")
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, list | tuple):
        return tuple(map(comparable, value))
    if value is None or isinstance(value, int | str | bytes):
        return value
    return str(value)


def _is_sqlite(database: Path) -> bool:
    try:
        with database.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise MulliganError(f"The database {database} cannot be read: {error.strerror}.") from error


def _sqlite(database: Path, sql: str, seconds: float, max_rows: int) -> list[Any]:
    refused: list[int] = []

    def authorize(action: int, *_: object) -> int:
        if action in _SQLITE_ALLOWED:
            return sqlite3.SQLITE_OK
        refused.append(action)
        return sqlite3.SQLITE_DENY

    connection = sqlite3.connect(f"file:{quote(str(database.resolve()))}?mode=ro", uri=True)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(authorize)
        ends = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > ends, 1000)
        return connection.execute(sql).fetchmany(max_rows + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        if refused:
            raise NotAllowed(str(error)) from None
        if "interrupted" in str(error):
            raise QueryFailed(f"took longer than {seconds:g} s") from None
        syntax = any(each in str(error) for each in _SQLITE_SYNTAX)
        raise (SyntaxFault if syntax else QueryFailed)(str(error)) from None
    finally:
        connection.close()


def _duckdb(database: Path, sql: str, seconds: float, max_rows: int) -> list[Any]:
    connection = _duckdb_connection(database, database.stat().st_mtime_ns).cursor()
    import duckdb

    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise SyntaxFault(f"{len(statements)} statements, where one is expected")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise NotAllowed(f"a statement of kind {statements[0].type.name}")
        with _interrupted_after(seconds, connection.interrupt):
            return connection.execute(statements[0]).fetchmany(max_rows + 1)
    except duckdb.ParserException as error:
        raise SyntaxFault(str(error)) from None
    except duckdb.InterruptException:
        raise QueryFailed(f"took longer than {seconds:g} s") from None
    except duckdb.PermissionException as error:
        raise NotAllowed(str(error)) from None
    except duckdb.Error as error:
        raise QueryFailed(str(error)) from None
    finally:
        connection.close()


@lru_cache(maxsize=4)
def _duckdb_connection(database: Path, changed: int) -> "duckdb.DuckDBPyConnection":
    """Open a database once, until its file changes: opening takes longer than most queries."""
    del changed
    try:
        import duckdb
    except ImportError as error:
        raise MulliganError(
            f"{database} is not a SQLite database, and DuckDB's need the package duckdb: "
            "pip install 'mulligan[verifiers]'."
        ) from error
    try:
        return duckdb.connect(str(database), read_only=True, config=_DUCKDB_SETTINGS)
    except duckdb.Error as error:
        raise MulliganError(f"{database} cannot be opened as a database: {error}") from error


class _interrupted_after:  # noqa: N801 - reads as a statement
    """Call something after a while, unless the block has ended before."""

    def __init__(self, seconds: float, interrupt: Callable[[], None]) -> None:
        self._timer = threading.Timer(seconds, interrupt)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
