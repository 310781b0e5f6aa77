import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from model_server import serving
from mulligan.cli.console import STOPPED
from tiny import CHATML, lines, make_model_folder, run_cli, write_recipe

STARTS_WITHOUT = "torch", "transformers", "datasets", "matplotlib"
MULLIGAN = [sys.executable, "-c", "from mulligan.cli import main; main()"]


@pytest.fixture
def recipe(tmp_path, tiny_llama):
    """Writes the tiny recipe without a warm-up, with changes."""
    return lambda **changes: write_recipe(
        tmp_path, changes.pop("model", tiny_llama), **({"sft": None} | changes)
    )


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "tiny")


def refused(*arguments):
    """Run a command that must fail for the user's own reason; return what it says."""
    outcome = run_cli(*arguments)
    assert outcome.code == 1, outcome
    assert outcome.err.startswith("error "), outcome.err
    assert "Traceback" not in outcome.err
    return outcome.err


def rewrite(path, **changes):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


# The whole way


def test_one_command_makes_every_stage_and_says_where_the_report_lies(tiny_run):
    stages = json.loads((tiny_run / "stages.json").read_text())
    assert stages == ["warmup", "collect", "evaluate-before", "train", "evaluate-after", "report"]
    assert len(lines(tiny_run / "metrics.jsonl")) == 4
    assert len(lines(tiny_run / "evaluation" / "before.jsonl")) == 10
    assert len(lines(tiny_run / "evaluation" / "after.jsonl")) == 10
    assert "<html" in (tiny_run / "report.html").read_text()
    assert yaml.safe_load((tiny_run / "config.yaml").read_text())["made_with"]["format"] == 2


def test_a_finished_run_is_gone_over_without_doing_anything_again(run_copy):
    before = {p: p.read_bytes() for p in run_copy.rglob("*.jsonl")}
    outcome = run_cli("run", run_copy / "config.yaml", "--runs", run_copy.parent, "--resume")
    assert outcome.code == 0
    assert outcome.out.count("already done") == 5
    assert {p: p.read_bytes() for p in run_copy.rglob("*.jsonl")} == before
    assert "First try" in outcome.out
    assert "report.html" in outcome.out


def test_a_run_is_repeated_from_its_own_config_under_another_name(tiny_run, tmp_path):
    outcome = run_cli("collect", tiny_run / "config.yaml", "name=again", "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    again = tmp_path / "again"
    assert (again / "failures.jsonl").read_bytes() == (tiny_run / "failures.jsonl").read_bytes()
    assert yaml.safe_load((again / "config.yaml").read_text())["name"] == "again"


def test_stages_by_hand_make_what_one_command_makes(tiny_run, tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama)
    for command in ("warmup", "collect", "train"):
        assert run_cli(command, recipe, "--runs", tmp_path).code == 0
    run = tmp_path / "tiny"
    assert run_cli("evaluate", run).code == 0
    assert "First try" in run_cli("report", run).out
    for name in ("failures", "metrics", "episodes", "evaluation/before", "evaluation/after"):
        assert (run / f"{name}.jsonl").read_bytes() == (tiny_run / f"{name}.jsonl").read_bytes()


def test_ctrl_c_finishes_the_step_and_leaves_a_run_that_goes_on_as_if_nothing_had_been(
    recipe, tmp_path
):
    path = recipe(train__steps=500)
    assert run_cli("collect", path, "--runs", tmp_path).code == 0
    run, metrics = tmp_path / "tiny", tmp_path / "tiny" / "metrics.jsonl"
    whole = shutil.copytree(run, tmp_path / "whole")
    process = subprocess.Popen(
        [*MULLIGAN, "train", str(run)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == STOPPED == 130, said
    assert "everything is saved. Go on with --resume" in " ".join(said.split())
    done = len(lines(metrics))
    assert (run / "checkpoints" / f"step-{done}" / "manifest.json").exists()

    for folder in (run, whole):
        outcome = run_cli("train", folder, f"train.stop_after={done + 2}")
        assert outcome.code == STOPPED
    weights = f"checkpoints/step-{done + 2}/model.safetensors"
    for name in ("metrics.jsonl", "episodes.jsonl", weights):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_evaluating_a_run_that_is_half_trained_measures_what_there_is(recipe, tmp_path):
    assert run_cli("collect", recipe(), "--runs", tmp_path).code == 0
    assert run_cli("train", tmp_path / "tiny", "train.stop_after=1").code == STOPPED
    outcome = run_cli("evaluate", tmp_path / "tiny")
    assert outcome.code == 0
    assert "First try" in outcome.out


# The report and episodes


def test_the_report_as_json_is_one_object_with_the_promised_keys(tiny_run):
    outcome = run_cli("report", tiny_run, "--json")
    made = json.loads(outcome.out)
    assert {(c["column"], c["when"]) for c in made["cells"]} == {
        (column, when)
        for column in ("first_try", "after_reflection", "after_nothing", "after_other_reflection")
        for when in ("before", "after")
    }
    for cell in made["cells"]:
        assert {"column", "when", "passed", "n", "low", "high"} <= cell.keys()
        assert 0 <= cell["low"] <= cell["passed"] / cell["n"] <= cell["high"] <= 1
    differences = {d["column"]: d for d in made["differences"]}
    assert differences.keys() == {c["column"] for c in made["cells"]} | {
        "reflection_over_nothing",
        "reflection_over_other_reflection",
        "gain_with_second_chance",
    }
    assert all(d["low"] <= d["difference"] <= d["high"] for d in differences.values())


def test_the_table_of_committed_rows_is_the_table_of_the_run(tiny_run, tmp_path):
    rows = tmp_path / "rows.json"
    assert run_cli("report", tiny_run, "--rows", rows).code == 0
    assert run_cli("report", rows, "--json").out == run_cli("report", tiny_run, "--json").out
    assert "First try" in run_cli("report", rows).out
    assert "need the folder of a run" in refused("report", rows, "--rows", tmp_path / "again.json")


def test_the_first_tries_of_the_report_are_those_of_the_files(tiny_run):
    made = json.loads(run_cli("report", tiny_run, "--json").out)
    trials = lines(tiny_run / "evaluation" / "before.jsonl")
    passed = sum(t["first_try"]["verdict"]["status"] == "passed" for t in trials)
    [cell] = [c for c in made["cells"] if (c["column"], c["when"]) == ("first_try", "before")]
    assert (cell["passed"], cell["n"]) == (passed, 10)


def test_the_table_is_not_cut_short_in_a_log(tiny_run):
    assert "…" not in run_cli("report", tiny_run).out


def test_a_run_without_an_evaluation_has_no_table(recipe, tmp_path):
    run_cli("collect", recipe(), "--runs", tmp_path)
    assert "holds no evaluation" in refused("report", tmp_path / "tiny")


def test_tasks_are_listed_with_their_options():
    outcome = run_cli("tasks")
    assert outcome.code == 0
    assert "countdown" in outcome.out
    assert "TaskEntry(" not in outcome.out


# Starting


def test_help_names_every_stage_in_the_words_of_the_method():
    outcome = run_cli("--help")
    assert outcome.code == 0
    for command in ("demo", "run", "warmup", "collect", "train", "evaluate", "report", "show"):
        assert re.search(rf"\b{command}\b", outcome.out)
    assert "Reflect on the failures, retry, and reward" in outcome.out


def test_help_starts_at_once_because_nothing_heavy_is_imported():
    code = (
        "import sys, time; started = time.process_time(); sys.argv[1:] = ['--help']\n"
        "from mulligan.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {STARTS_WITHOUT} if name in sys.modules], file=sys.stderr)\n"
        "print(time.process_time() - started, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, seconds = ended.stderr.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 2


# Bad input


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/nowhere/at/all", "No such model: '/nowhere/at/all' is neither a folder"),
        ("nonsense", "No such model: 'nonsense' is neither a folder"),
        ("nobody/nothing", "Cannot load model 'nobody/nothing'"),
    ],
)
def test_a_model_that_is_not_there_is_refused(recipe, tmp_path, monkeypatch, model, says):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert says in refused("run", recipe(model=model), "--runs", tmp_path)


def test_a_folder_without_a_model_is_refused(recipe, tmp_path):
    said = refused("run", recipe(model=tmp_path), "--runs", tmp_path)
    assert "it has no config.json" in said


def test_a_model_without_a_chat_template_is_refused(recipe, tmp_path):
    plain = make_model_folder(tmp_path / "plain", chat_template=None)
    assert "has no chat template" in refused("run", recipe(model=plain), "--runs", tmp_path)


def test_a_recipe_with_an_unknown_key_is_refused_with_the_nearest_one(recipe, tmp_path):
    said = refused("run", recipe(train__step=3), "--runs", tmp_path)
    assert "train.step: unknown name; did you mean 'steps'?" in said
    assert not (tmp_path / "tiny").exists()


def test_a_wrong_value_is_refused_with_what_was_expected(recipe, tmp_path):
    said = refused("run", recipe(), "train.steps=many", "--runs", tmp_path)
    assert "train.steps: Input should be a valid integer" in said
    assert "but got 'many'" in said


def test_a_training_set_in_which_nothing_failed_is_refused(recipe, tmp_path):
    path = recipe(task_options={"verdict": "passed"})
    assert "Nothing failed" in refused("collect", path, "--runs", tmp_path)


def test_fewer_failures_than_a_batch_are_refused(recipe, tmp_path):
    path = recipe(task_options={"verdict": "failed"}, collect={"problems": 2})
    said = refused("collect", path, "--runs", tmp_path)
    assert "holds 2, and a batch takes 3" in said


def test_more_problems_than_the_task_has_are_refused(recipe, tmp_path):
    said = refused("collect", recipe(collect={"problems": 41}), "--runs", tmp_path)
    assert "has 40 train problems" in said


def test_too_few_problems_for_the_evaluation_are_refused_before_any_work(recipe, tmp_path):
    said = refused("run", recipe(evaluate={"problems": 41}), "--runs", tmp_path)
    assert "has 40 test problems" in said
    assert not list(tmp_path.rglob("collected.jsonl"))


def test_a_prompt_longer_than_the_context_is_refused(recipe, tmp_path):
    said = " ".join(
        refused("collect", recipe(task_options={"words": 100}), "--runs", tmp_path).split()
    )
    assert "The model's context of 512 tokens is shorter than one conversation" in said
    needed = int(re.search(r"the shortest takes (\d+)\.", said)[1])
    assert needed > 512


@pytest.mark.parametrize("command", ["collect", "evaluate"])
def test_a_server_with_a_shorter_context_than_the_models_sets_the_length(
    recipe, tmp_path, tiny_llama, command
):
    with serving(tiny_llama, context=20) as server:
        engine = {"kind": "server", "url": server.url, "model": server.name}
        said = refused(command, recipe(engine=engine), "--runs", tmp_path)
    assert "context of 20 tokens" in " ".join(said.split())


def test_a_device_that_this_machine_lacks_is_refused(recipe, tmp_path):
    said = refused("collect", recipe(device="gpu"), "--runs", tmp_path)
    assert "Cannot compute on device 'gpu'" in said


def test_weights_that_are_damaged_are_refused(recipe, tmp_path, tiny_llama):
    damaged = shutil.copytree(tiny_llama, tmp_path / "damaged")
    os.truncate(damaged / "model.safetensors", 1000)
    assert "Cannot load model" in refused("collect", recipe(model=damaged), "--runs", tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(recipe, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    said = refused("run", recipe(), "--runs", tmp_path / "file")
    assert str(tmp_path / "file") in said


def test_a_dataset_row_without_its_fields_is_refused_by_its_number(recipe, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"nums": [3, 4], "target": 7}\n{"nums": [3, 4]}\n')
    path = recipe(task="countdown", task_options={"rows": str(rows)}, collect={"problems": 2})
    said = refused("collect", path, "--runs", tmp_path)
    assert "target" in said
    assert re.search(r"(row|line) 2", said), said


def test_a_task_without_demonstrations_cannot_be_warmed_up_on(recipe, tmp_path):
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for n in range(100):
            messages = [{"role": "user", "content": f"{n} + 2?"}]
            print(json.dumps({"messages": messages, "reference": str(n + 2)}), file=file)
    path = recipe(task=str(rows), task_options={"verifier": "exact"}, sft={"examples": 4})
    assert "offers no demonstrations" in refused("warmup", path, "--runs", tmp_path)


def test_an_existing_run_is_refused_unless_told_to_resume_or_overwrite(run_copy, recipe):
    said = refused("run", recipe(), "--runs", run_copy.parent)
    assert "exists already" in said
    assert "--resume" in said
    assert "--overwrite" in said


def test_a_run_is_overwritten_on_request(run_copy, recipe):
    (run_copy / "metrics.jsonl").write_text("old")
    outcome = run_cli("run", recipe(train__steps=1), "--runs", run_copy.parent, "--overwrite")
    assert outcome.code == 0, outcome.err
    assert len(lines(run_copy / "metrics.jsonl")) == 1


def test_a_folder_that_is_no_run_is_never_overwritten(recipe, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("years of work")
    said = refused("run", recipe(), "--runs", tmp_path, "--overwrite")
    assert "is not a run" in said
    assert (tmp_path / "tiny" / "thesis.txt").read_text() == "years of work"


def test_changed_settings_are_refused_by_name_on_resume(run_copy, tmp_path, tiny_llama):
    path = write_recipe(tmp_path, tiny_llama, train__steps=9)
    said = refused("run", path, "seed=1", "--runs", run_copy.parent, "--resume")
    assert "train.steps: 4 -> 9" in said
    assert "seed: 0 -> 1" in said
    assert "train.steps: 4 -> 9" in refused("train", run_copy, "train.steps=9")


def test_a_run_of_a_newer_format_is_refused(run_copy):
    rewrite(run_copy / "config.yaml", made_with={"format": 99, "mulligan": "9.0"})
    said = refused("train", run_copy)
    assert "made by a newer Mulligan (run format 99" in said
    assert "Install mulligan 9.0" in said


def test_a_folder_that_is_no_run_is_named(tmp_path):
    assert "is not a run: it has no config.yaml" in refused("report", tmp_path)


def test_a_stage_that_needs_another_says_how_to_run_it(recipe, tmp_path):
    said = refused("train", recipe(), "--runs", tmp_path)
    assert "needs 'collect' first: run `mulligan collect" in said


def test_a_verifier_that_keeps_breaking_stops_the_run(recipe, tmp_path):
    task = tmp_path / "broken_task.py"
    task.write_text(
        "from parity_task import Parity as Whole\n"
        "class Broken(Whole):\n"
        "    def verify(self, problem, answer):\n"
        "        raise RuntimeError('no service')\n"
    )
    said = refused("collect", recipe(task=str(task)), "--runs", tmp_path)
    assert "The verifier broke on" in said
    assert "no service" in said


def test_a_template_that_speaks_of_tools_is_no_hindrance(recipe, tmp_path):
    model = make_model_folder(
        tmp_path / "tools", chat_template="{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    )
    assert run_cli("collect", recipe(model=model), "--runs", tmp_path).code == 0
