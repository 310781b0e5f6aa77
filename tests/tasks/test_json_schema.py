import pytest

from mulligan.errors import MulliganError
from mulligan.verifiers.pool import verifier_for
from mulligan.verifiers.validate import validate_task
from task_rows import only_problem, task_of

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def judge(folder, answer, schema=PERSON):
    task = task_of("json_schema", folder, {"messages": "Who?", "schema": schema})
    return task.verify(only_problem(task), answer)


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ada"}',
        'Here it is:\n```json\n{"name": "Ada", "tags": ["a", "b"]}\n```\nAnything else?',
        '{"name": "Ada", "born": "1815-12-10"}',
    ],
)
def test_json_that_the_schema_accepts_passes(answer, tmp_path):
    assert judge(tmp_path, answer).passed


@pytest.mark.parametrize(
    ("answer", "status", "reason", "detail"),
    [
        ("Ada", "unparseable", "not_json", "Expecting value"),
        ("", "unparseable", "not_json", ""),
        ('{"name": "Ada"', "unparseable", "not_json", ""),
        ('{"name": NaN}', "unparseable", "not_json", "NaN is not JSON"),
        ("[" * 100_000, "unparseable", "not_json", "nested too deeply"),
        ("{}", "failed", "violates_schema", "'name' is a required property"),
        ('{"name": 1}', "failed", "violates_schema", "$.name: 1 is not of type 'string'"),
        ('{"name": "A", "age": 3}', "failed", "violates_schema", "'age' was unexpected"),
        ('{"name": "A", "born": "1815"}', "failed", "violates_schema", "is not a 'date'"),
        ('{"name": "A", "tags": ["a", "a"]}', "failed", "violates_schema", "non-unique"),
        ('[{"name": "A"}]', "failed", "violates_schema", "is not of type 'object'"),
    ],
)
def test_what_it_does_not_accept_says_where_and_why(answer, status, reason, detail, tmp_path):
    verdict = judge(tmp_path, answer)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert detail in verdict.detail


def test_the_draft_that_a_schema_names_is_the_one_that_counts(tmp_path):
    tuples = {"type": "array", "items": [{"type": "integer"}], "additionalItems": False}
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **tuples}
    assert judge(tmp_path, "[1]", old).passed
    assert not judge(tmp_path, "[1, 2]", old).passed


def test_a_reference_to_another_document_is_never_fetched(tmp_path, monkeypatch):
    import urllib.request

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("fetched"))
    task = task_of(
        "json_schema", tmp_path, {"messages": "x", "schema": {"$ref": "http://127.0.0.1:9/s.json"}}
    )
    with verifier_for(task, workers=1) as verifier:
        verdict = verifier.verify_many([(only_problem(task), "1")])[0]
    assert verdict.status == "error"
    assert "Unresolvable" in verdict.detail


def test_equal_json_is_the_same_answer(tmp_path):
    task = task_of("json_schema", tmp_path, {"messages": "Who?", "schema": PERSON})
    problem = only_problem(task)
    assert task.same_answer(problem, '{"a": 1, "b": [2]}', '{"b": [2.0],\n"a": 1}')
    assert not task.same_answer(problem, '{"a": 1}', '{"a": true}')
    assert not task.same_answer(problem, "what", "what")


def test_rows_with_a_schema_are_a_valid_task(tmp_path):
    rows = [
        {
            "messages": f"Describe person {n}.",
            "schema": PERSON,
            "reference": {"name": f"Person {n}"},
            "wrong": ["{}"],
        }
        for n in range(40)
    ]
    checks = {c.name: c for c in validate_task(task_of("json_schema", tmp_path, *rows), count=5)}
    assert {name for name, check in checks.items() if check.result == "failed"} == set()
    assert checks["reference answers pass"].result == "ok"
    assert checks["own wrong answers fail"].result == "ok"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": "x"}, "line 1: the row has no field 'schema'"),
        ({"messages": "x", "schema": {"type": "strin"}}, "line 1: 'schema' is not a JSON schema"),
        ({"messages": "x", "schema": [1]}, "line 1: 'schema' is not a JSON schema"),
        ({"messages": "", "schema": {}}, "line 1: 'messages' should be text"),
    ],
)
def test_a_row_that_is_no_problem_is_named(row, said, tmp_path):
    with pytest.raises(MulliganError, match=said):
        only_problem(task_of("json_schema", tmp_path, row))
