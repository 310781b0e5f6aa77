import json
import shutil

import pytest

from model_server import serving
from mulligan.run.other_model import INSTRUCTIONS, asked
from mulligan.types import Problem
from tiny import lines, run_cli


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "tiny")


def evaluate(run, server, *more):
    return run_cli(
        "evaluate", run, "--engine", "server", "--url", server.url, "--model", "big/tiny",
        "--answer-tokens", 3, "--sweep-problems", 4, *more,
    )  # fmt: skip


def test_another_model_stands_beside_the_runs_own_with_the_best_of_a_stated_sweep(
    run, tiny_llama, monkeypatch
):
    # A random model says the same to everything at temperature 0: then all passes, or nothing.
    monkeypatch.setattr("mulligan.run.other_model.TEMPERATURES", (1.0,))
    with serving(tiny_llama, "big/tiny", ids=False) as server:
        outcome = evaluate(run, server)
        assert outcome.code == 0, outcome.err
        requests = [
            request
            for path, request in server.requests
            if path.endswith("chat/completions") and request["max_tokens"] > 1  # no probes
        ]
        asked_before = len(server.requests)
        assert evaluate(run, server).code == 0
        again = [path for path, _ in server.requests[asked_before:]]
    sweep = json.loads((run / "evaluation" / "big-tiny.sweep.json").read_text())
    ways = {(each["instruction"], each["temperature"]) for each in sweep["tried"]}
    assert ways == {(text, degree) for text in INSTRUCTIONS for degree in (0.9, 1.0)}
    assert sweep["split"] == "dev", "test is what is reported on"
    assert all(each["n"] == 4 for each in sweep["tried"])

    trials = lines(run / "evaluation" / "big-tiny.jsonl")
    own = lines(run / "evaluation" / "before.jsonl")
    assert [each["problem_id"] for each in trials] == [each["problem_id"] for each in own]
    best = max(sweep["tried"], key=lambda each: each["passed"])
    evaluated = requests[4 * len(ways) :]
    assert {request["temperature"] for request in evaluated} == {best["temperature"]}
    assert all(best["instruction"] in request["messages"][0]["content"] for request in evaluated)
    retried = [each for each in trials if each["after_reflection"]]
    failed = [each for each in trials if each["first_try"]["verdict"]["status"] != "passed"]
    assert retried == failed != []
    assert all(1 <= each["first_try"]["tokens"] <= 3 for each in trials)

    assert "Other models, untrained, on the same problems" in outcome.out
    assert "big-tiny" in outcome.out
    assert "(the best, evaluated)" in " ".join(outcome.out.split())
    assert len(again) <= 6, "what is there is not evaluated again"
    printed = json.loads(run_cli("report", run, "--json").out)
    assert {cell["when"] for cell in printed["cells"]} == {"before", "after", "big-tiny"}


def test_a_sweep_of_other_settings_is_not_mixed_with_this_one(run, tiny_llama):
    with serving(tiny_llama, "big/tiny", ids=False) as server:
        assert evaluate(run, server).code == 0
        outcome = evaluate(run, server, "--answer-tokens", 2)
    assert outcome.code == 1
    assert "was made with other settings" in outcome.err


def test_what_is_missing_to_reach_another_model_is_said(run):
    outcome = run_cli("evaluate", run, "--engine", "server", "--model", "big")
    assert outcome.code == 1
    assert "--url and --model" in outcome.err


def test_an_instruction_follows_the_question_and_the_problem_stays_the_same_one():
    problem = Problem.create(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 5?"}], {}
    )
    with_more = asked(problem, "Think first.")
    assert [message["content"] for message in with_more.messages] == [
        "Be brief.",
        "2 + 5?\n\nThink first.",
    ]
    assert with_more.id == problem.id
    assert asked(problem, "") is problem
