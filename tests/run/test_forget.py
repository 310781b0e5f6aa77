import json
import shutil
import signal

import pytest
import yaml

from mulligan.evaluation.forgetting.choices import choose
from mulligan.evaluation.forgetting.records import read_forgetting
from mulligan.report.published import published_markdown, read_published
from mulligan.run.session import recipe_of
from mulligan.run.trained import trained_model
from mulligan.storage.atomic import remove_folder
from mulligan.storage.run_folder import RunFolder
from tiny import TASK_FILE, lines, run_cli, write_recipe

HALF_OF_ITS_QUESTIONS_ARE_LONG = """
from mulligan import Problem
from mulligan.types import Verdict
from parity_task import Parity


class Long(Parity):
    def problems(self, split):
        for n in range(9):
            yield Problem.create("?" * 600 * (n % 2) + str(n), {"n": n}, str(n))

    def demonstrations(self, count, seed):
        return iter([])

    def verify(self, problem, answer):
        return Verdict.right() if answer == problem.reference else Verdict.wrong("odd")
"""

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
    assert {row.task for row in made.scores} == {TASK_FILE.name}
    assert len(lines(run.forgetting_items)) == made.scores[0].n <= 6
    assert "Perplexity of English text" in run.report.read_text()
    assert "after the warm-up" in outcome.out
    as_json = json.loads(run_cli("report", run.path, "--json").out)
    assert as_json["forgetting"]["checkpoints"] == ["original", "warmed_up", "trained"]


def test_the_same_run_is_measured_the_same_twice_and_json_is_all_that_is_printed(run):
    first = run_cli("forget", run.path, *SMALL, "--json").out
    assert json.loads(first)["checkpoints"] == ["original", "warmed_up", "trained"]
    assert run_cli("forget", run.path, *SMALL, "--json").out == first


@pytest.mark.parametrize(("presses", "kept"), [(1, 3), (2, 2)])
def test_a_stopped_measurement_goes_on_where_it_was(run, monkeypatch, presses, kept):
    whole = json.loads(run_cli("forget", run.path, *SMALL, "--tasks", TASK_FILE, "--json").out)
    asked = []

    def stops_at_the_third(*arguments):
        for number, outcome in enumerate(choose(*arguments)):
            asked.append(outcome.id)
            if number == 2 and presses:
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)
            yield outcome

    monkeypatch.setattr("mulligan.run.forget.choose", stops_at_the_third)
    stopped = run_cli("forget", run.path, *SMALL, "--tasks", TASK_FILE)
    assert stopped.code == 130
    assert "Go on with the same command" in " ".join(stopped.out.split())
    presses, seen = 0, len(asked)

    again = run_cli("forget", run.path, *SMALL, "--tasks", TASK_FILE, "--json")

    assert json.loads(again.out) == whole
    assert len(set(asked)) == whole["scores"][0]["n"]
    assert len(asked) - seen == whole["scores"][0]["n"] - kept
    assert not run.forgetting_begun.exists()


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


def test_the_model_itself_answers_where_a_server_generated_in_the_run(run, tiny_llama):
    config = yaml.safe_load(run.config.read_text())
    config["engine"] = {"kind": "server", "url": "http://127.0.0.1:9/v1", "model": "other"}
    run.config.write_text(yaml.safe_dump(config))

    assert run_cli("forget", run.path, *SMALL).code == 0


def test_the_best_checkpoint_on_dev_is_the_trained_model(run):
    config = yaml.safe_load(run.config.read_text())
    config["evaluate"] |= {"every": 2, "dev_problems": 2}
    run.config.write_text(yaml.safe_dump(config))
    (run.checkpoints / "best.json").write_text('{"step": 2}')
    remove_folder(run.checkpoints / "step-4")

    assert trained_model(run, recipe_of(run)) == run.checkpoints / "step-2"
    assert run_cli("forget", run.path, *SMALL).code == 0


def test_what_does_not_fit_the_context_is_left_out_and_counted(run, tmp_path, caplog):
    task = tmp_path / "long_task.py"
    task.write_text(HALF_OF_ITS_QUESTIONS_ARE_LONG)

    outcome = run_cli("forget", run.path, *SMALL, "--tasks", task, "--items", 8)

    assert outcome.code == 0, outcome.err
    assert "4 of 8 items do not fit the model's context of 512 tokens" in caplog.text
    assert {row.n for row in read_forgetting(run.forgetting).scores} == {4}


def test_finished_runs_are_added_to_one_file_one_at_a_time(run, tmp_path):
    file = tmp_path / "forgetting.json"
    missing = run_cli("report", run.path, "--forgetting", file)
    assert missing.code == 1
    assert "First run `mulligan forget" in " ".join(missing.err.split())

    assert run_cli("forget", run.path, *SMALL).code == 0
    assert run_cli("report", run.path, "--forgetting", file).code == 0
    config = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump(config | {"name": "adapted", "lora": {"rank": 4}}))
    assert run_cli("report", run.path, "--forgetting", file).code == 0
    assert run_cli("report", run.path, "--forgetting", file).code == 0

    published = read_published(file)
    assert [*published] == ["tiny", "adapted"]
    assert [each.lora_rank for each in published.values()] == [None, 4]
    assert published["tiny"].measured == read_forgetting(run.forgetting)
    assert str(tmp_path) not in file.read_text()
    shown = "\n".join(published_markdown(file))
    assert "### adapted" in shown
    assert "measured by `mulligan forget runs/adapted --prompts 2`." in shown
    assert "LoRA of rank 4" in shown
    assert "| original → after the warm-up | English text |" in shown
    file.write_text("[]")
    refused = run_cli("report", run.path, "--forgetting", file)
    assert "does not hold what runs forgot" in " ".join(refused.err.split())
    assert file.read_text() == "[]"


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
