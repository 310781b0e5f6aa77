import json
import shutil

import pytest

from mulligan.evaluation.forgetting.records import read_forgetting
from mulligan.storage.run_folder import RunFolder
from tiny import TASK_FILE, lines, run_cli, write_recipe

SMALL = ("--items", 6, "--prompts", 2, "--tokens", 64)


@pytest.fixture
def run(tiny_run, tmp_path):
    return RunFolder(shutil.copytree(tiny_run, tmp_path / "tiny"))


def test_three_checkpoints_are_compared_and_the_report_and_json_say_so(run):
    outcome = run_cli("forget", run.path, *SMALL, "--tasks", TASK_FILE)

    assert outcome.code == 0, outcome.err
    made = read_forgetting(run.forgetting)
    assert made.checkpoints == ("original", "warmed_up", "trained")
    drifts = {(row.text, row.first, row.second): row for row in made.drifts}
    assert len(drifts) == 6
    assert all(row.forward.value > 0 and row.backward.value > 0 for row in drifts.values())
    assert {row.tokens for row in made.perplexities} == {64}
    assert {row.task for row in made.scores} == {str(TASK_FILE)}
    assert len(lines(run.forgetting_items)) == made.scores[0].n <= 6
    assert "Perplexity of English text" in run.report.read_text()
    assert "after the warm-up" in outcome.out
    as_json = json.loads(run_cli("report", run.path, "--json").out)
    assert as_json["forgetting"]["checkpoints"] == ["original", "warmed_up", "trained"]


def test_the_same_run_is_measured_the_same_twice(run):
    first = run_cli("forget", run.path, *SMALL, "--json").out
    assert run_cli("forget", run.path, *SMALL, "--json").out == first


def test_an_adapter_is_compared_on_its_base(tmp_path, tiny_llama):
    pytest.importorskip("peft")
    recipe = write_recipe(tmp_path, tiny_llama, lora={"rank": 4}, train__steps=1, sft=None)
    trained = run_cli("run", recipe, "--runs", tmp_path)
    assert trained.code == 0, trained.err

    outcome = run_cli("forget", tmp_path / "tiny", *SMALL)

    assert outcome.code == 0, outcome.err
    made = read_forgetting(RunFolder(tmp_path / "tiny").forgetting)
    assert made.checkpoints == ("original", "trained")
    assert all(row.forward.value >= 0 for row in made.drifts)


def test_a_run_still_in_training_is_refused(run):
    run.stages.write_text('["warmup", "collect", "evaluate-before"]')

    outcome = run_cli("forget", run.path)

    assert outcome.code == 1
    assert "still in training" in outcome.err
    assert not run.forgetting.exists()


def test_a_missing_checkpoint_is_named(run):
    shutil.rmtree(run.checkpoints)

    assert "is missing, which is the trained model" in run_cli("forget", run.path).err


def test_a_damaged_file_of_results_is_named(run):
    run.forgetting.write_text("{}")

    outcome = run_cli("report", run.path)

    assert outcome.code == 1
    assert "mulligan forget" in outcome.err
