import json
import re
import shutil

import pytest

from faults import end_state
from mulligan.evaluation.dev_curve import read_dev
from mulligan.storage.run_folder import RunFolder
from tiny import lines, run_cli, write_recipe

EVERY_STEP = {"evaluate__every": 1, "evaluate__dev_problems": 6, "train__keep_checkpoints": 1}


def dev_run(folder, model, *overrides, code=0, **changes):
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, model, **(EVERY_STEP | changes))
    outcome = run_cli("run", recipe, *overrides, "--runs", folder, "--resume")
    assert outcome.code == code, outcome.err + outcome.out
    return folder / "tiny"


@pytest.fixture(scope="module")
def watched(tiny_llama, tmp_path_factory):
    """A finished run that was evaluated on dev after every step."""
    return dev_run(tmp_path_factory.mktemp("watched"), tiny_llama)


def solved(run, step):
    rows = [row for row in lines(run / "dev.jsonl") if row["when"] == f"step-{step}"]
    assert len(rows) == 6
    passed = [
        (row["after_reflection"] or row["first_try"])["verdict"]["status"] == "passed"
        for row in rows
    ]
    return sum(passed) / 6


def test_dev_is_evaluated_before_training_and_after_every_step(watched):
    rows = lines(watched / "dev.jsonl")
    assert {row["when"] for row in rows} == {f"step-{step}" for step in range(5)}
    assert all(row["question"].startswith("dev-") for row in rows)
    failed = [row for row in rows if row["first_try"]["verdict"]["status"] != "passed"]
    assert failed
    assert all(row["second_tries"].keys() == {"nothing"} for row in failed)
    curve = read_dev(RunFolder(watched).dev)
    assert [point.step for point in curve] == [0, 1, 2, 3, 4]
    assert [point.after_reflection.value for point in curve] == pytest.approx(
        [solved(watched, step) for step in range(5)]
    )


def test_the_report_draws_the_curve(watched, tiny_run):
    curve = read_dev(RunFolder(watched).dev)
    first, last = (f"{point.after_reflection.value:.1%}" for point in (curve[0], curve[-1]))
    page = (watched / "report.html").read_text()
    assert f"After reflection {first} at step 0, {last} at 4" in page
    assert "Solved on dev" not in (tiny_run / "report.html").read_text()


def test_how_far_the_store_has_drifted_is_measured_at_each_look_and_shown(watched):
    drift = lines(watched / "store_drift.jsonl")
    assert [line["step"] for line in drift] == [0, 1, 2, 3, 4]
    assert {line["judged"] for line in drift} == {6}
    page = " ".join((watched / "report.html").read_text().split())
    first, last = (f"{drift[place]['passed'] / 6:.0%}" for place in (0, -1))
    interval = r"\[\d+%, \d+%\]"
    says = rf"would pass {first} {interval} at step 0 and {last} {interval} at step 4"
    assert re.search(says, page)


def test_evaluating_on_dev_changes_nothing_in_training(watched, tiny_run):
    for name in ("metrics.jsonl", "episodes.jsonl", "evaluation/before.jsonl"):
        assert (watched / name).read_bytes() == (tiny_run / name).read_bytes()


def test_the_best_checkpoint_by_dev_is_kept_marked_and_evaluated(watched, tiny_run):
    scores = {step: solved(watched, step) for step in range(1, 5)}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert best < 4, "the case is of interest where the last step is not the best"
    assert json.loads((watched / "checkpoints" / "best.json").read_text()) == {"step": best}
    assert {path.name for path in (watched / "checkpoints").glob("step-*")} == {
        f"step-{best}",
        "step-4",
    }
    after = (watched / "evaluation" / "after.jsonl").read_bytes()
    assert after != (tiny_run / "evaluation" / "after.jsonl").read_bytes()


def test_a_run_that_is_stopped_and_resumed_ends_as_the_uninterrupted_one(
    watched, tiny_llama, tmp_path
):
    run = dev_run(tmp_path, tiny_llama, "train.stop_after=2", code=130)
    (run / "dev.jsonl").write_bytes((run / "dev.jsonl").read_bytes()[:-40])  # a torn last line
    state, expected = end_state(dev_run(tmp_path, tiny_llama)), end_state(watched)
    del state["config.yaml"], expected["config.yaml"]  # one names the stop
    assert state == expected


def test_training_ends_when_patience_is_used_up_and_the_best_is_evaluated(
    watched, tiny_llama, tmp_path
):
    scores = [solved(watched, step) for step in range(1, 5)]
    first_fall = next(step for step in (2, 3, 4) if scores[step - 1] <= max(scores[: step - 1]))
    run = dev_run(tmp_path, tiny_llama, train__patience=1)
    assert len(lines(run / "metrics.jsonl")) == first_fall < 4
    best = json.loads((run / "checkpoints" / "best.json").read_text())["step"]
    assert best == first_fall - 1
    again = dev_run(tmp_path, tiny_llama, train__patience=1)
    assert len(lines(again / "metrics.jsonl")) == first_fall


def test_a_best_checkpoint_that_cannot_be_made_again_is_named_with_the_way_out(
    watched, tiny_llama, tmp_path
):
    run = shutil.copytree(watched, tmp_path / "tiny")
    best = json.loads((run / "checkpoints" / "best.json").read_text())["step"]
    (run / "checkpoints" / f"step-{best}" / "model.safetensors").write_bytes(b"damaged")
    (run / "stages.json").write_text('["warmup", "collect", "evaluate-before", "train"]')
    (run / "evaluation" / "after.jsonl").unlink()
    recipe = write_recipe(tmp_path, tiny_llama, **EVERY_STEP)
    outcome = run_cli("run", recipe, "--runs", tmp_path, "--resume")
    assert outcome.code == 1
    assert "training starts again, and ends the same" in " ".join(outcome.err.split())
    shutil.rmtree(run / "checkpoints")
    assert run_cli("run", recipe, "--runs", tmp_path, "--resume").code == 0
    assert end_state(run) == end_state(watched)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "train.patience counts evaluations on dev: set evaluate.every too"),
        (["evaluate.every=1", "train.average_from=0.5"], "use one of them"),
    ],
)
def test_patience_that_could_not_work_is_refused(tiny_llama, tmp_path, more, says):
    recipe = write_recipe(tmp_path, tiny_llama, train__patience=2)
    outcome = run_cli("run", recipe, *more, "--runs", tmp_path)
    assert outcome.code == 1
    assert says in " ".join(outcome.err.split())


def test_a_dev_split_that_is_too_small_is_said_before_any_work(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama, evaluate__every=2, evaluate__dev_problems=41)
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert "has 40 dev problems" in outcome.err
    assert not list(tmp_path.rglob("*.jsonl"))
