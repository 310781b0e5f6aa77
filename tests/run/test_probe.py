import json
import shutil

import pytest

from mulligan.episodes.collect import Collected
from mulligan.models.memory import GIB, StageMemory
from mulligan.run.plan import Plan
from mulligan.run.probe import Lengths, Pace, Probe, describe, describe_memory, expect
from mulligan.types import Completion
from tiny import RECIPE, run_cli, tiny_recipe, write_recipe

PROBE = Probe(
    tried=Collected(0, 32, 8, 20, 4, 0),
    answers=Lengths(32, 14.2, 20, 3),
    reflections=Lengths(24, 30.6, 48, 1),
    retries=24,
    passed_retries=6,
    longest_prompt=60,
    pace=Pace(first_try=0.1, second_try=0.5, update=2.0),
)
PLAN = Plan(
    "cpu",
    int(3.5 * GIB),
    10**9,
    10**9,
    (StageMemory("collect", (("model", GIB),)), StageMemory("train", (("weights", 4 * GIB),))),
    ("train.tokens_at_once=512",),
)


def with_changes(**sections):
    merged = {
        name: RECIPE[name] | changes if isinstance(changes, dict) else changes
        for name, changes in sections.items()
    }
    return tiny_recipe(**merged)


def end_of(run):
    """What a run leaves, less the clock and what only people read."""
    left_out = {"timings.jsonl", "report.html", "stages.json", "config.yaml"}
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(run)): path.read_bytes() for path in files if path.name not in left_out
    }


@pytest.fixture(scope="module")
def probed(tiny_llama, tmp_path_factory):
    """A whole run with a probe, and what it said."""
    folder = tmp_path_factory.mktemp("probed")
    outcome = run_cli("run", write_recipe(folder, tiny_llama, probe=True), "--runs", folder)
    assert outcome.code == 0, outcome.err
    return folder / "tiny", " ".join(outcome.out.split())


def test_a_probe_says_what_to_expect_and_changes_no_number_of_the_run(probed, tiny_run):
    run, said = probed
    assert "Probe of 20 problems:" in said
    for each in ("first tries pass", "retries pass", "Tokens: answers", "Time at this pace"):
        assert each in said
    done = json.loads((run / "stages.json").read_text())
    assert done[:3] == ["warmup", "probe", "collect"]
    assert end_of(run) == end_of(tiny_run)


def test_a_run_that_goes_on_is_not_probed_again(probed, tmp_path):
    run = shutil.copytree(probed[0], tmp_path / "tiny")
    (run / "stages.json").write_text(json.dumps(["warmup", "probe"]))
    outcome = run_cli("run", run / "config.yaml", "--runs", tmp_path, "--resume")
    assert outcome.code == 0, outcome.err
    assert "Probe of" not in outcome.out


def test_a_probe_may_be_switched_off_where_a_run_goes_on(probed, tmp_path):
    run = shutil.copytree(probed[0], tmp_path / "tiny")
    (run / "stages.json").write_text(json.dumps(["warmup"]))
    outcome = run_cli("run", run / "config.yaml", "probe=false", "--runs", tmp_path, "--resume")
    assert outcome.code == 0, outcome.err
    assert "Probe of" not in outcome.out


def test_the_time_of_each_stage_follows_from_the_pace():
    recipe = with_changes(
        collect={"problems": 100, "attempts": 2},
        train={"steps": 10, "failures_per_step": 4, "group_size": 8, "rollout_epochs": 2},
        evaluate={"problems": 50, "samples": 2, "greedy": True, "controls": ["nothing"]},
    )
    expected = expect(PROBE, recipe)
    assert expected.collect == pytest.approx(100 * 2 * 0.1)
    assert expected.generating == pytest.approx(10 * 4 * 8 * 0.5)
    assert expected.updating == pytest.approx(10 * 4 * 2 * 2.0)
    failing = 24 / 32
    assert expected.evaluation == pytest.approx(150 * 0.1 + 100 * failing * 2 * 0.5)


def test_failures_found_online_take_no_time_before_training():
    assert expect(PROBE, with_changes(collect={"failures": "online"})).collect == 0


def test_first_tries_that_are_trained_take_a_first_tries_time():
    recipe = with_changes(
        train={"learn": "first_try", "steps": 1, "failures_per_step": 2, "group_size": 4}
    )
    assert expect(PROBE, recipe).generating == pytest.approx(2 * 4 * 0.1)


def test_a_probe_is_told_in_three_lines():
    recipe = with_changes(
        generate={"answer_tokens": 20, "reflection_tokens": 48}, collect={"problems": 1000}
    )
    shares, tokens, times = describe(PROBE, recipe)
    assert shares == (
        "Probe of 32 problems: 8 first tries pass (25%), 4 cannot be read (12%); "
        "6 of 24 retries pass."
    )
    assert "answers 14 on average, 20 at most, 3 of 32 cut off at 20" in tokens
    assert "reflections 31 on average, 48 at most, 1 of 24 cut off at 48" in tokens
    assert "collect 2 min" in times  # 1000 first tries of 0.1 s


def test_memory_is_told_by_stage_beside_what_there_is():
    assert describe_memory(PLAN) == "Memory in GiB: collect 1.0, train 4.0; there are 3.5."


def test_lengths_of_nothing_are_zero_and_a_cut_off_one_counts():
    assert Lengths.of([]) == Lengths(0, 0.0, 0, 0)
    said = [Completion((1, 2, 3), "", "length"), Completion((1,), "", "stop")]
    assert Lengths.of(said) == Lengths(2, 2.0, 3, 1)


def test_a_run_that_will_not_fit_or_whose_answers_are_cut_off_is_warned_of(
    tiny_llama, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("mulligan.run.plan._memory_of", lambda device: 1 << 20)
    recipe = write_recipe(tmp_path, tiny_llama, sft=None, probe=True, train__steps=1)
    assert run_cli("run", recipe, "--runs", tmp_path).code == 0
    said = [each.message for each in caplog.records]
    assert any("has too little memory" in each and "train.tokens_at_once=" in each for each in said)
    assert any("of the reflections of the probe were cut off" in each for each in said)
