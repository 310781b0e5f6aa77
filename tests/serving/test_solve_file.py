import json

import pytest

from mulligan import Mulligan, MulliganError
from mulligan.config import Generate
from mulligan.serving.problems import read_problems
from mulligan.serving.solve_file import solve_file
from mulligan.storage.lock import hold_file
from tiny import TASK_FILE, lines, run_cli

SHORT = Generate(answer_tokens=5, reflection_tokens=6)


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"messages": f"Number {number}.", "given": {"number": number}} for number in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_problems_is_answered_with_a_table_at_the_end(problems, tiny_run, tmp_path):
    out = tmp_path / "answers.jsonl"
    ended = run_cli("solve", tiny_run, problems, "--out", out, "--at-once", 3)
    assert ended.code == 0, ended.err
    answers = lines(out)
    assert [each["row"] for each in answers] == [1, 2, 3, 4, 5, 6, 7]
    first = sum(each["tries"] == 1 and each["verdict"]["status"] == "passed" for each in answers)
    row = next(line for line in ended.out.splitlines() if "first try" in line)
    assert str(first) in row
    assert f"{sum(each['tokens'] for each in answers)} tokens" in ended.out
    for each in answers:
        assert each["answer"] == each["steps"][-1]["text"]
        assert each["tokens"] == sum(step["tokens"] for step in each["steps"])


def test_answers_that_were_cut_off_go_on_to_the_same_file(problems, tiny_run, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run_cli("solve", tiny_run, problems, "--out", whole, "--at-once", 2)
    text = whole.read_bytes()
    cut.write_bytes(text[: len(text) // 2])  # in the middle of a line
    ended = run_cli("solve", tiny_run, problems, "--out", cut, "--at-once", 2)
    assert ended.code == 0, ended.err
    assert cut.read_bytes() == text


@pytest.mark.parametrize(
    ("change", "says"),
    [(["--tries", 3], "answers of another model"), (["--seed", 5], "answers of another model")],
)
def test_answers_are_not_mixed_with_those_made_in_another_way(
    problems, tiny_run, tmp_path, change, says
):
    out = tmp_path / "answers.jsonl"
    run_cli("solve", tiny_run, problems, "--out", out)
    before = out.read_bytes()
    ended = run_cli("solve", tiny_run, problems, "--out", out, *change)
    assert ended.code == 1
    assert says in " ".join(ended.err.split())
    assert out.read_bytes() == before


def test_answers_to_other_problems_are_refused(problems, tiny_llama, tmp_path):
    with Mulligan.load(tiny_llama, task=str(TASK_FILE), generate=SHORT) as mulligan:
        found, out = read_problems(mulligan.task, problems), tmp_path / "answers.jsonl"
        solve_file(mulligan, found, out, at_once=8, progress=lambda done: None)
        with pytest.raises(MulliganError, match=r"answers to other problems \(row 1\)"):
            solve_file(mulligan, found[1:], out, at_once=8, progress=lambda done: None)


def test_answers_that_another_process_writes_are_left_alone(problems, tiny_run, tmp_path):
    out = tmp_path / "answers.jsonl"
    with hold_file(out):
        ended = run_cli("solve", tiny_run, problems, "--out", out)
    assert ended.code == 1
    assert "is in use by another process" in " ".join(ended.err.split())
    assert not out.exists()


def test_answers_of_a_run_that_was_trained_on_are_not_mixed(problems, tiny_llama, tmp_path):
    with Mulligan.load(tiny_llama, task=str(TASK_FILE), generate=SHORT) as mulligan:
        found, out = read_problems(mulligan.task, problems), tmp_path / "answers.jsonl"
        solve_file(mulligan, found[:2], out, at_once=2, progress=lambda done: None)
        mulligan.weights = "runs/demo/checkpoints/step-70"
        with pytest.raises(MulliganError, match="answers of another model"):
            solve_file(mulligan, found, out, at_once=2, progress=lambda done: None)


def test_what_no_verifier_judged_is_counted_apart(problems, tiny_llama, tmp_path):
    options = {"breaks_on": "", "verdict": "passed"}
    with Mulligan.load(
        tiny_llama, task=str(TASK_FILE), task_options=options, generate=SHORT
    ) as mulligan:
        found, out = read_problems(mulligan.task, problems), tmp_path / "answers.jsonl"
        found[3] = type(found[3]).create("long " * 120, {})
        counted = solve_file(mulligan, found, out, at_once=8, progress=lambda done: None)
    assert (counted.problems, counted.first_try, counted.unverified) == (7, 6, 1)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": "hm"}, "line 2: the row has no field 'given'"),
        ({"messages": "hm", "given": 3}, "line 2: 'given' should be an object with what"),
        ({"messages": [], "given": {}}, "line 2: 'messages' should be text, or a list"),
        (
            {"messages": [{"role": "system", "content": "hm"}], "given": {}},
            "line 2: 'messages' should be a conversation in which the user asks something",
        ),
        ({"messages": "hm", "given": {}, "reference": 4}, "line 2: 'reference' should be text"),
    ],
)
def test_a_row_that_puts_no_problem_is_named(tmp_path, tiny_run, row, says):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"messages": "fine", "given": {}}) + "\n" + json.dumps(row) + "\n")
    ended = run_cli("solve", tiny_run, path, "--out", tmp_path / "out.jsonl")
    assert ended.code == 1
    assert says in " ".join(ended.err.split())
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_may_be_those_of_the_task_itself(tmp_path, tiny_llama):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": "1 + 1?", "reference": "2"}) + "\n")
    ended = run_cli(
        *("solve", tiny_llama, rows, "--task", rows, "--out", tmp_path / "out.jsonl"),
        *("--task-options", '{"verifier": "numeric"}'),
    )
    assert ended.code == 0, ended.err
    [answered] = lines(tmp_path / "out.jsonl")
    assert answered["verdict"]["status"] == "error"  # it is longer than the tiny model's context
    assert answered["verdict"]["reason"] == "too_long"
