import json
import re
import shutil

import pytest

from faults import end_state
from mulligan.evaluation.rounds import read_rounds
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from tiny import lines, run_cli, write_recipe

ROUNDS = {
    "rounds": 2,
    "collect__problems": 16,
    "train__steps": 2,
    "evaluate__dev_problems": 6,
    "evaluate__problems": 4,
}


def in_rounds(folder, model, *overrides, code=0, **changes):
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, model, **(ROUNDS | changes))
    outcome = run_cli("run", recipe, *overrides, "--runs", folder, "--resume")
    assert outcome.code == code, outcome.err + outcome.out
    return folder / "tiny"


@pytest.fixture(scope="module")
def two_rounds(tiny_llama, tmp_path_factory):
    """A finished run of two rounds."""
    return in_rounds(tmp_path_factory.mktemp("rounds"), tiny_llama)


def tried(folder):
    return {
        row["attempt"]["problem"]["given"]["number"] for row in lines(folder / "failures.jsonl")
    }


def test_each_round_collects_on_problems_that_no_earlier_round_has_tried(two_rounds):
    first, second = (tried(two_rounds / "rounds" / name) for name in "12")
    assert first and second
    assert max(first) < 16 <= min(second)
    assert max(second) < 32


def test_each_round_keeps_what_a_run_of_one_round_keeps(two_rounds):
    for number in "12":
        folder = two_rounds / "rounds" / number
        assert len(lines(folder / "metrics.jsonl")) == 2
        assert {path.name for path in folder.glob("*.jsonl")} == {
            "collected.jsonl",
            "episodes.jsonl",
            "failures.jsonl",
            "metrics.jsonl",
            "timings.jsonl",
        }
    assert not (two_rounds / "metrics.jsonl").exists()
    assert json.loads((two_rounds / "stages.json").read_text()) == [
        "warmup",
        "collect",
        "evaluate-before",
        "round-0-dev",
        "round-1-train",
        "round-1-dev",
        "round-2-collect",
        "round-2-train",
        "round-2-dev",
        "train",
        "evaluate-after",
        "report",
    ]


def test_the_first_round_is_a_run_of_one_round(two_rounds, tiny_llama, tmp_path):
    one = in_rounds(tmp_path, tiny_llama, rounds=1)
    assert not (one / "rounds").exists()
    assert not (one / "rounds.jsonl").exists()
    for name in ("failures.jsonl", "metrics.jsonl", "episodes.jsonl"):
        assert (one / name).read_bytes() == (two_rounds / "rounds" / "1" / name).read_bytes()
    weights = "checkpoints/step-2/model.safetensors"
    assert (one / weights).read_bytes() == (two_rounds / "rounds" / "1" / weights).read_bytes()


def test_dev_is_evaluated_before_the_first_round_and_after_each(two_rounds):
    rows = lines(two_rounds / "rounds.jsonl")
    assert [row["when"] for row in rows] == [f"round-{n}" for n in range(3) for _ in range(6)]
    assert all(row["question"].startswith("dev-") for row in rows)
    rounds = read_rounds(RunFolder(two_rounds))
    assert [each.number for each in rounds] == [0, 1, 2]
    for each in rounds[1:]:
        found = lines(two_rounds / "rounds" / str(each.number) / "collected.jsonl")
        failed = sum(row["failed"] + row["unparseable"] for row in found)
        assert sum(row["attempts"] for row in found) == 16
        assert each.failed.value == failed / 16
    assert rounds[0].failed is None
    assert rounds[0].drift is None


def test_how_far_a_round_s_store_has_drifted_is_measured_after_it(two_rounds):
    drift = lines(two_rounds / "store_drift.jsonl")
    assert [(line["step"], line["judged"]) for line in drift] == [(1, 6), (2, 6)]
    for line, each in zip(drift, read_rounds(RunFolder(two_rounds))[1:], strict=True):
        assert each.drift.value == line["passed"] / 6


def test_the_report_shows_the_curves_with_their_intervals(two_rounds):
    page = " ".join(re.sub(r"<[^>]*>", " ", (two_rounds / "report.html").read_text()).split())
    for title in ("First try", "What reflection adds", "Failures found", "Failures now passed"):
        assert f"{title}, over rounds" in page
    last = read_rounds(RunFolder(two_rounds))[-1].dev.first_try
    assert f"{last.value:.1%} {last.low:.1%} to {last.high:.1%}" in page


def test_stored_failures_are_those_of_the_first_round(two_rounds, tiny_llama, tmp_path):
    run = in_rounds(tmp_path, tiny_llama, collect__failures="stored")
    one, two = (run / "rounds" / name for name in "12")
    assert (one / "failures.jsonl").read_bytes() == (two / "failures.jsonl").read_bytes()
    assert (one / "metrics.jsonl").read_bytes() != (two / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("round_number", "name", "after"),
    [
        pytest.param(None, "rounds.jsonl", 2, marks=pytest.mark.slow),
        pytest.param("1", "metrics.jsonl", 1, marks=pytest.mark.slow),
        (None, "rounds.jsonl", 8),
        pytest.param("2", "collected.jsonl", 1, marks=pytest.mark.slow),
        ("2", "episodes.jsonl", 3),
        pytest.param(None, "rounds.jsonl", 14, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_in_any_part_of_a_round_ends_the_same(
    two_rounds, tiny_llama, tmp_path, monkeypatch, round_number, name, after
):
    append = RecordLog.append

    def killed(log, record):
        of_round = round_number is None or log.path.parent.name == round_number
        if log.path.name == name and of_round and len(log) == after:
            raise KeyboardInterrupt
        return append(log, record)

    with monkeypatch.context() as patched:
        patched.setattr(RecordLog, "append", killed)
        in_rounds(tmp_path, tiny_llama, code=130)
    assert end_state(in_rounds(tmp_path, tiny_llama)) == end_state(two_rounds)


def test_a_lost_model_is_made_again(two_rounds, tiny_llama, tmp_path):
    run = shutil.copytree(two_rounds, tmp_path / "tiny")
    shutil.rmtree(run / "rounds" / "2" / "checkpoints" / "step-2")
    (run / "rounds" / "2" / "checkpoints" / "best.json").unlink(missing_ok=True)
    stages = json.loads((run / "stages.json").read_text())
    (run / "stages.json").write_text(json.dumps(stages[:-2]))
    (run / "evaluation" / "after.jsonl").unlink()
    assert end_state(in_rounds(tmp_path, tiny_llama)) == end_state(two_rounds)


@pytest.mark.slow
def test_adapters_of_a_round_are_merged_into_what_the_next_starts_from(tiny_llama, tmp_path):
    run = in_rounds(tmp_path, tiny_llama, lora={"rank": 2, "alpha": 4})
    for number in "12":
        assert (run / "rounds" / number / "model" / "config.json").is_file()
    outcome = run_cli("export", run, "--to", tmp_path / "adapter")
    assert outcome.code == 1
    assert "Give --merge" in outcome.err
    assert run_cli("export", run, "--to", tmp_path / "whole", "--merge").code == 0
    assert (tmp_path / "whole" / "config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"collect__problems": 30}, "asks for 60"),
        ({"collect__store": "somewhere"}, "later rounds have none of their own"),
        ({"evaluate__dev_problems": 100}, "has 40 dev problems"),
    ],
)
def test_rounds_that_cannot_be_are_refused_before_any_work(tiny_llama, tmp_path, changes, says):
    recipe = write_recipe(tmp_path, tiny_llama, **(ROUNDS | changes))
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert says in " ".join(outcome.err.split())
    assert not list(tmp_path.rglob("failures.jsonl"))
