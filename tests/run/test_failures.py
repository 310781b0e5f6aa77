import json
import re

import pytest

from faults import end_state
from mulligan.storage.records import RecordLog
from tiny import lines, run_cli, write_recipe

ONLINE = {"collect__failures": "online", "evaluate__every": 2, "evaluate__dev_problems": 6}


def online_run(folder, model, *overrides, code=0):
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, model, **ONLINE)
    outcome = run_cli("run", recipe, *overrides, "--runs", folder, "--resume")
    assert outcome.code == code, outcome.err + outcome.out
    return folder / "tiny"


@pytest.fixture(scope="module")
def online(tiny_llama, tmp_path_factory):
    """A finished run whose steps try problems of their own."""
    return online_run(tmp_path_factory.mktemp("online"), tiny_llama)


def test_every_step_trains_on_what_it_failed_itself(online):
    tries, stored = lines(online / "collected.jsonl"), lines(online / "failures.jsonl")
    assert {line["step"] for line in tries} == {1, 2, 3, 4}
    seeds = {failure["id"]: failure["sampling"]["seed"] for failure in stored}
    trained = {step: set() for step in range(1, 5)}
    for episode in lines(online / "episodes.jsonl"):
        trained[episode["step"]].add(seeds[episode["failure_id"]])
    drawn = [seed for step in trained.values() for seed in step]
    assert len(drawn) == len(set(drawn)) >= 4, "no failure of one step is trained on in another"
    assert not (online / "store_drift.jsonl").exists(), "what is fresh has not drifted"


def test_the_report_says_that_failures_were_fresh(online):
    page = " ".join(re.sub(r"<[^>]*>", " ", (online / "report.html").read_text()).split())
    stored = len(lines(online / "failures.jsonl"))
    assert f"4 steps on {stored} failures of the policy as it was at each step" in page


def test_a_stopped_run_ends_as_the_uninterrupted_one(online, tiny_llama, tmp_path):
    run = online_run(tmp_path, tiny_llama, "train.stop_after=1", code=130)
    assert json.loads((run / "stages.json").read_text())[-1] != "train"
    state, expected = end_state(online_run(tmp_path, tiny_llama)), end_state(online)
    del state["config.yaml"], expected["config.yaml"]  # one names the stop
    assert state == expected


def test_a_run_killed_between_a_step_s_tries_ends_the_same(
    online, tiny_llama, tmp_path, monkeypatch
):
    append = RecordLog.append

    def killed(log, record):
        if log.path.name == "failures.jsonl" and len(log) == 7:
            raise KeyboardInterrupt
        return append(log, record)

    with monkeypatch.context() as patched:
        patched.setattr(RecordLog, "append", killed)
        run = online_run(tmp_path, tiny_llama, code=130)
    assert len(lines(run / "failures.jsonl")) == 7
    assert end_state(online_run(tmp_path, tiny_llama)) == end_state(online)


def test_a_store_of_failures_and_fresh_ones_exclude_each_other(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama, **ONLINE, collect__store=str(tmp_path))
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert "collect.store gives failures" in outcome.err
