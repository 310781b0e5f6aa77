import json

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.registry import load_task
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.pool import verifier_for
from mulligan.verifiers.validate import passed, validate_task


@pytest.fixture
def rows(tmp_path):
    def write(*rows, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def verdict(path: str, verifier: str, answer: str):
    task = load_task(path, {"verifier": verifier})
    problem = next(p for split in ("train", "test") for p in task.problems(split))
    return task.verify(problem, answer)


@pytest.mark.parametrize(
    ("verifier", "reference", "answer", "status"),
    [
        ("exact", "Paris", " Paris\n", "passed"),
        ("exact", "Paris", "paris", "failed"),
        ("numeric", "1234.50", "That makes 1,234.5 in all.", "passed"),
        ("numeric", 42, "first 41, then 42", "passed"),
        ("numeric", "42", "42, or 41", "failed"),
        ("numeric", "-3", "-3.0", "passed"),
        ("numeric", "5", "five", "unparseable"),
        ("numeric", "5", "٥", "unparseable"),
        ("numeric", "5", "9e999", "failed"),
        ("numeric", "5", "9" * 100_000, "failed"),
        ("json_equal", '{"a": 1, "b": [2]}', '{"b":[2], "a":1.0}', "passed"),
        ("json_equal", {"a": 1}, 'Here:\n```json\n{"a": 1}\n```', "passed"),
        ("json_equal", {"a": 1}, '{"a": true}', "failed"),
        ("json_equal", [1, 2], "[2, 1]", "failed"),
        ("json_equal", [1], "[1", "unparseable"),
        ("json_equal", [1], "[" * 100_000, "unparseable"),
        ("regex", r"\b4[0-9]\b", "It is 47.", "passed"),
        ("regex", r"^4[0-9]$", "It is 47.", "failed"),
    ],
)
def test_a_named_verifier_judges(verifier, reference, answer, status, rows):
    path = rows({"messages": "What?", "reference": reference})
    assert verdict(path, verifier, answer).status == status


def test_a_python_function_judges_and_finds_the_rows_other_fields(rows, tmp_path):
    (tmp_path / "judge.py").write_text(
        "from mulligan import Verdict\n"
        "def at_least(problem, answer): return float(answer) >= problem.given['least']\n"
        "def polite(problem, answer):\n"
        "    return Verdict.right() if 'please' in answer else Verdict.wrong('wrong', 'rude')\n"
    )
    path = rows({"messages": "Bid.", "reference": "10", "least": 5})
    assert verdict(path, f"{tmp_path}/judge.py:at_least", "7").passed
    assert verdict(path, f"{tmp_path}/judge.py:at_least", "3").status == "failed"
    assert verdict(path, f"{tmp_path}/judge.py:polite", "now!").detail == "rude"


def test_a_function_that_returns_neither_verdict_nor_truth_value_is_an_error(rows, tmp_path):
    (tmp_path / "judge.py").write_text("def f(problem, answer): return 0.7\n")
    path = rows({"messages": "What?", "reference": "1"})
    task = load_task(path, {"verifier": f"{tmp_path}/judge.py:f"})
    problem = next(p for split in ("train", "test") for p in task.problems(split))
    with verifier_for(task) as verifier:
        result = verifier.verify_many([(problem, "1")])[0]
    assert result.status == "error"
    assert "returned 0.7, where a Verdict was expected" in result.detail


def test_a_pattern_that_never_ends_is_cut_off_at_the_deadline(rows):
    path = rows({"messages": "What?", "reference": "(a+)+$"})
    task = load_task(path, {"verifier": "regex"})
    problem = next(p for split in ("train", "test") for p in task.problems(split))
    with verifier_for(task, workers=1, limits=Limits(deadline_s=0.3)) as verifier:
        result = verifier.verify_many([(problem, "a" * 40 + "b")])[0]
    assert result.status == "error"
    assert "took longer than 0.3 s" in result.detail


def test_splits_divide_the_questions_and_do_not_move_when_rows_are_added(rows):
    few = [{"messages": f"Question {n}?", "reference": str(n)} for n in range(300)]
    path = rows(*few)
    options = {"verifier": "exact", "test_share": 0.25}
    before = {p.id for p in load_task(path, options).problems("test")}
    train = {p.id for p in load_task(path, options).problems("train")}
    assert len(before) + len(train) == 300
    assert not before & train
    assert 50 <= len(before) <= 100
    rows(*[{"messages": "New?", "reference": "0"}, *few])
    after = {p.id for p in load_task(path, options).problems("test")}
    assert before <= after


def test_one_question_with_two_references_stays_in_one_split(rows):
    path = rows(*[{"messages": f"{n % 50}?", "reference": str(n)} for n in range(100)])
    task = load_task(path, {"verifier": "exact"})
    questions = {
        split: {p.messages[0]["content"] for p in task.problems(split)}
        for split in ("train", "test")
    }
    assert not questions["train"] & questions["test"]


def test_a_test_file_of_its_own_is_never_trained_on(rows):
    test = rows({"messages": "Shared?", "reference": "1"}, name="test.jsonl")
    path = rows({"messages": "Shared?", "reference": "1"}, {"messages": "Own?", "reference": "2"})
    task = load_task(path, {"verifier": "exact", "test_path": test})
    assert [p.messages[0]["content"] for p in task.problems("train")] == ["Own?"]
    assert [p.messages[0]["content"] for p in task.problems("test")] == ["Shared?"]


def test_a_dev_split_is_taken_out_of_training_and_leaves_the_test_as_it_is(rows):
    path = rows(*[{"messages": f"Question {n}?", "reference": str(n)} for n in range(300)])
    without = load_task(path, {"verifier": "exact"})
    task = load_task(path, {"verifier": "exact", "dev_share": 0.2})
    ids = {split: {p.id for p in task.problems(split)} for split in ("train", "dev", "test")}
    assert ids["test"] == {p.id for p in without.problems("test")}
    assert ids["train"] | ids["dev"] == {p.id for p in without.problems("train")}
    assert not ids["train"] & ids["dev"]
    assert 40 <= len(ids["dev"]) <= 80


def test_a_dev_file_of_its_own_meets_neither_train_nor_test(rows):
    test = rows({"messages": "A?", "reference": "1"}, name="test.jsonl")
    dev = rows(*[{"messages": m, "reference": "1"} for m in ("A?", "B?")], name="dev.jsonl")
    path = rows(*[{"messages": m, "reference": "1"} for m in ("A?", "B?", "C?")])
    task = load_task(path, {"verifier": "exact", "test_path": test, "dev_path": dev})
    asked = {
        split: [p.messages[0]["content"] for p in task.problems(split)] for split in task.splits
    }
    assert asked == {"train": ["C?"], "dev": ["B?"], "test": ["A?"]}


@pytest.mark.parametrize(
    ("verifier", "one", "other", "same"),
    [
        ("exact", " Lima", "Lima\n", True),
        ("exact", "Lima", "lima", False),
        ("numeric", "It is 1,000.", "1000.0 in all", True),
        ("numeric", "10", "11", False),
        ("numeric", "none", "none", False),
        ("json_equal", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ("json_equal", "[1]", "[2]", False),
        ("json_equal", "what", "what", False),
    ],
)
def test_answers_are_the_same_as_the_verifier_reads_them(verifier, one, other, same, rows):
    task = load_task(rows({"messages": "?", "reference": "1"}), {"verifier": verifier})
    assert task.compares_answers
    assert task.same_answer(None, one, other) is same


def test_a_verifier_that_only_judges_compares_no_answers(rows):
    task = load_task(rows({"messages": "?", "reference": "1"}), {"verifier": "regex"})
    assert not task.compares_answers
    with pytest.raises(MulliganError, match="cannot say when two answers are the same"):
        task.same_answer(None, "1", "1")


def test_rows_that_are_given_twice_count_once(rows):
    path = rows(*[{"messages": "Same?", "reference": "1"}] * 5)
    task = load_task(path, {"verifier": "exact"})
    assert len([*task.problems("train"), *task.problems("test")]) == 1


def test_a_file_is_a_valid_task_with_its_own_wrong_answers(rows):
    path = rows(
        *[
            {"messages": f"{n}+1?", "reference": str(n + 1), "wrong": [str(n), "none"]}
            for n in range(40)
        ]
    )
    checks = validate_task(load_task(path, {"verifier": "numeric"}))
    assert passed(checks), checks
    assert {c.name: c.result for c in checks}["own wrong answers fail"] == "ok"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": "x"}', "line 2: the row has no field 'reference'"),
        ('{"prompt": "x"}', "line 2: the row has no field 'messages'"),
        ("[1]", "line 2: a row should be an object with named fields, but is list"),
        ("{", "line 2: not valid JSON"),
        ('{"messages": [], "reference": "1"}', "line 2: 'messages' should be text, or a list"),
        (
            '{"messages": [{"role": "user"}], "reference": "1"}',
            "line 2: 'messages' should be text, or a list",
        ),
        ('{"messages": "x", "reference": "1", "tools": "t"}', "line 2: 'tools' should be a list"),
    ],
)
def test_a_row_without_its_fields_is_named(line, said, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"messages": "fine", "reference": "1"}\n' + line + "\n")
    task = load_task(str(path), {"verifier": "exact"})
    with pytest.raises(MulliganError, match=said):
        for split in ("train", "test"):
            list(task.problems(split))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs the option 'verifier'"),
        ({"verifier": "exat"}, "did you mean 'exact'"),
        ({"verifier": "nowhere.py:f"}, "There is no file nowhere.py"),
        ({"verifier": "exact", "test_share": 1.5}, "between 0 and 1"),
        ({"verifier": "exact", "tset_path": "x"}, "did you mean 'test_path'"),
    ],
)
def test_wrong_options_are_refused(options, said, rows):
    with pytest.raises(MulliganError, match=said):
        load_task(rows({"messages": "What?", "reference": "1"}), options)


def test_a_missing_file_is_refused():
    task = load_task("nowhere.jsonl", {"verifier": "exact"})
    with pytest.raises(MulliganError, match=r"no such file: 'nowhere\.jsonl'"):
        list(task.problems("train"))
