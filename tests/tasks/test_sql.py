import sqlite3
import time

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.databases import QueryFailed, comparable, query
from mulligan.tasks.sql import sorts
from mulligan.verifiers.validate import validate_task
from task_rows import only_problem, task_of

TABLES = (
    "CREATE TABLE city (name TEXT, country TEXT, people INTEGER, area DOUBLE)",
    "INSERT INTO city VALUES ('Lima', 'PE', 10, 2.5), ('Cusco', 'PE', 1, 0.1), "
    "('Paris', 'FR', 2, 0.2), ('Nice', 'FR', NULL, 0.7)",
)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    import duckdb

    folder = tmp_path_factory.mktemp("databases")
    with sqlite3.connect(folder / "cities.sqlite") as connection:
        for statement in TABLES:
            connection.execute(statement)
    connection.close()
    with duckdb.connect(str(folder / "cities.duckdb")) as other:
        for statement in TABLES:
            other.execute(statement)
    return folder


@pytest.fixture(params=["sqlite", "duckdb"])
def database(request, databases):
    return str(databases / f"cities.{request.param}")


def judge(folder, database, reference, answer, **options):
    row = {"messages": "Which?", "reference": reference, "database": database}
    task = task_of("sql", folder, row, **options)
    return task.verify(only_problem(task), answer)


PERUVIAN = "SELECT name FROM city WHERE country = 'PE'"


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (PERUVIAN, "select name from city where country like 'PE' order by people"),
        (PERUVIAN, "Sure:\n```sql\nSELECT c.name AS n FROM city c WHERE c.country = 'PE';\n```"),
        ("SELECT count(*) FROM city", "SELECT 4.0"),
        ("SELECT sum(area) FROM city WHERE people < 3", "SELECT 0.1 + 0.2"),
        ("SELECT people FROM city WHERE name = 'Nice'", "SELECT NULL"),
        (f"{PERUVIAN} ORDER BY people", f"{PERUVIAN} ORDER BY name"),
        (PERUVIAN, "WITH p AS (SELECT * FROM city WHERE country = 'PE') SELECT name FROM p"),
    ],
)
def test_a_query_that_gives_the_same_rows_passes(reference, answer, database, tmp_path):
    assert judge(tmp_path, database, reference, answer).passed


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ("I do not know.", "unparseable", "no_query"),
        ("", "unparseable", "no_query"),
        ("SELECT name FRM city WHERE", "unparseable", "not_sql"),
        (f"{PERUVIAN}; {PERUVIAN}", "unparseable", "not_sql"),
        ("SELECT nam FROM city", "failed", "query_failed"),
        ("SELECT name FROM cities", "failed", "query_failed"),
        (ENDLESS, "failed", "query_failed"),
        ("SELECT a.name FROM city a, city b, city c", "failed", "query_failed"),
        ("SELECT name FROM city", "failed", "wrong_rows"),
        (f"{PERUVIAN} AND people > 1", "failed", "wrong_rows"),
        (f"{PERUVIAN} UNION ALL {PERUVIAN}", "failed", "wrong_rows"),
        ("SELECT name, people FROM city WHERE country = 'PE'", "failed", "wrong_rows"),
        ("SELECT 1 FROM city; DROP TABLE city", "unparseable", "not_sql"),
        ("INSERT INTO city SELECT * FROM city", "failed", "not_read_only"),
        ("CREATE TABLE t AS SELECT 1", "failed", "not_read_only"),
        ("PRAGMA user_version -- from", "failed", "not_read_only"),
        ("ATTACH 'other.db' AS a -- select", "failed", "not_read_only"),
    ],
)
def test_every_way_to_fail_has_its_reason(answer, status, reason, database, tmp_path):
    verdict = judge(tmp_path, database, PERUVIAN, answer, seconds=0.3, max_rows=50)
    assert (verdict.status, verdict.reason) == (status, reason), verdict.detail


@pytest.mark.parametrize(
    "answer", ["SELECT * FROM read_csv('/etc/passwd')", "COPY city TO 'x' -- from"]
)
def test_duckdb_reaches_no_other_file(answer, databases, tmp_path):
    verdict = judge(tmp_path, str(databases / "cities.duckdb"), PERUVIAN, answer)
    assert verdict.reason == "not_read_only"


def test_an_endless_query_is_stopped_in_time(database, tmp_path):
    began = time.monotonic()
    verdict = judge(tmp_path, database, PERUVIAN, ENDLESS, seconds=0.2)
    assert "longer than 0.2 s" in verdict.detail
    assert time.monotonic() - began < 5


def test_a_huge_value_is_refused(databases):
    with pytest.raises(QueryFailed, match="too big"):
        query(databases / "cities.sqlite", "SELECT randomblob(900000000)", 1, 10)


def test_order_counts_where_the_reference_sorts_at_its_end_only(database, tmp_path):
    ascending = f"{PERUVIAN} ORDER BY people"
    assert not judge(tmp_path, database, ascending, f"{ascending} DESC").passed
    assert judge(tmp_path, database, PERUVIAN, f"{ascending} DESC").passed
    assert sorts("SELECT a FROM t ORDER BY b LIMIT 3")
    assert not sorts("SELECT a FROM (SELECT * FROM t ORDER BY b) WHERE c = ' order by '")


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [(2, 2.0, True), (0.1 + 0.2, 0.3, True), (1.5, 1.6, False), ("1", 1, False)],
)
def test_values_are_equal_by_what_they_mean(one, other, equal):
    assert (comparable(one) == comparable(other)) is equal


def test_queries_that_give_the_same_rows_are_the_same_answer_right_or_wrong(database, tmp_path):
    row = {"messages": "Which?", "reference": PERUVIAN, "database": database}
    task = task_of("sql", tmp_path, row)
    problem = only_problem(task)
    assert task.same_answer(problem, "SELECT name FROM city", "select c.name from city as c")
    assert not task.same_answer(problem, "SELECT name FROM city", PERUVIAN)
    assert not task.same_answer(problem, "SELECT x FROM city", "SELECT x FROM city")


def test_a_reflection_leaks_by_a_block_or_a_line(database, tmp_path):
    row = {"messages": "Which?", "reference": PERUVIAN, "database": database}
    task = task_of("sql", tmp_path, row)
    problem = only_problem(task)
    assert task.leaks(problem, f"I forgot the country. Better:\n{PERUVIAN}\n")
    assert task.leaks(problem, f"So:\n```sql\n{PERUVIAN}\n```")
    assert not task.leaks(problem, "I should select only the cities from Peru.")


def test_questions_to_a_database_are_a_valid_task(database, tmp_path):
    rows = [
        {
            "messages": f"Cities with more than {n} people?",
            "reference": f"SELECT name, {n} FROM city WHERE people > {n}",
            "wrong": ["SELECT name FROM city", "DROP TABLE city"],
        }
        for n in range(30)
    ]
    checks = validate_task(task_of("sql", tmp_path, *rows, database=database), count=3)
    assert [check for check in checks if check.result == "failed"] == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": "x", "database": "DB"}, "no field 'reference'"),
        ({"messages": "x", "database": "DB", "reference": 1}, "'reference' should be a query"),
        ({"messages": "x", "reference": "SELECT 1"}, "line 1: there is no database None"),
        ({"messages": "x", "reference": "SELECT 1", "database": "no.db"}, "database 'no.db'"),
    ],
)
def test_a_row_that_is_no_problem_is_named(row, said, databases, tmp_path):
    if row.get("database") == "DB":
        row = {**row, "database": str(databases / "cities.sqlite")}
    with pytest.raises(MulliganError, match=said):
        only_problem(task_of("sql", tmp_path, row))
