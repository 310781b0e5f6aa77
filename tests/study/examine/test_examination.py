"""The command on a finished run, whose models are tiny."""

import json
import shutil

import pytest
from studies import write_study

from findings_page import load_findings
from tiny import lines, run_cli


@pytest.fixture(scope="module")
def copied(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examined") / "tiny"
    shutil.copytree(tiny_run, folder)
    return folder


@pytest.mark.parametrize("question", ["right_answers", "budget", "worth", "reflections"])
def test_a_finished_run_is_asked_and_what_it_says_is_written_small(copied, question, tmp_path):
    out = tmp_path / f"{question}.json"
    outcome = run_cli("examine", question, copied, "--problems", 6, "--out", out)
    assert outcome.code == 0, outcome.err
    found, rows = json.loads(out.read_text()), json.loads(out.with_suffix(".rows.json").read_text())
    assert (found["question"], found["runs"]) == (question, ["tiny"])
    assert all(q["low"] is None or q["low"] <= q["mean"] <= q["high"] for q in found["quantities"])
    kept = json.loads((copied / "examined" / f"{question}.json").read_text())
    assert [list(row) for row in kept["rows"]] == [rows["columns"]] * len(rows["runs"]["tiny"])
    assert rows["runs"]["tiny"]
    if question != "reflections":
        assert {row["when"] for row in kept["rows"]} == {"before", "after"}

    page = load_findings()
    asked = [each for each in page.QUESTIONS if each.source == question]
    assert asked
    for each in asked:
        known = each.read(found)
        assert known.runs == 1
        if question != "reflections":  # four steps have no five parts to compare
            assert known.lines
            assert page._drawing(each, known).svg.startswith("<svg")

    again = run_cli("examine", question, copied, "--problems", 6, "--json")
    assert json.loads(again.out)["quantities"] == found["quantities"]


def test_what_was_asked_of_other_problems_is_not_mixed_in(copied):
    assert run_cli("examine", "right_answers", copied, "--problems", 6).code == 0
    outcome = run_cli("examine", "right_answers", copied, "--problems", 5)
    assert outcome.code == 1
    assert "holds what 6 problems said, but 5" in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("wroth",), "did you mean 'worth'?"),
        (("curve",), "was not evaluated on dev while it trained"),
    ],
)
def test_what_cannot_be_asked_is_said(copied, arguments, says):
    outcome = run_cli("examine", *arguments, copied)
    assert outcome.code == 1
    assert says in " ".join(outcome.err.split())


def test_a_run_cannot_count_twice(copied):
    outcome = run_cli("examine", "worth", copied, copied)
    assert "ask each run once" in " ".join(outcome.err.split())


def test_the_curve_is_that_of_the_evaluations_on_dev_in_a_run_of_a_study(tiny_llama, tmp_path):
    study = write_study(
        tmp_path,
        tiny_llama,
        arms={"base": {}},
        seeds=[1],
        settings={"evaluate.every": 2, "evaluate.dev_problems": 4},
        in_recipe={"train__steps": 2, "evaluate__problems": 4},
    )
    assert run_cli("study", study, "--runs", tmp_path / "runs").code == 0
    run = tmp_path / "runs" / "tiny_study" / "runs" / "base-1"
    found = json.loads(run_cli("examine", "curve", run, "--json").out)["quantities"]
    solved = {q["when"]: q["mean"] for q in found if q["name"] == "after_reflection"}
    trials = lines(run / "dev.jsonl")
    for step in (0, 2):
        own = [trial for trial in trials if trial["when"] == f"step-{step}"]
        passed = [
            t["first_try"]["verdict"]["status"] == "passed"
            or t["after_reflection"]["verdict"]["status"] == "passed"
            for t in own
        ]
        assert solved[f"step {step}"] == sum(passed) / 4
