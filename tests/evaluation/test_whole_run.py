import json

import pytest

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.trials import read_trials
from tiny import TASK_FILE, run_cli, write_recipe


def test_every_control_of_a_run_appears_in_its_table_page_and_json(tiny_llama, tmp_path):
    recipe = write_recipe(
        tmp_path,
        tiny_llama,
        warmup=None,
        train__steps=1,
        evaluate__problems=16,
        evaluate__greedy=True,
        evaluate__constant="Check it.",
        evaluate__controls=[control.name for control in CONTROLS],
    )
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    made = json.loads(run_cli("report", tmp_path / "tiny", "--json").out)
    columns = {(cell["column"], cell["when"]) for cell in made["cells"]}
    page = (tmp_path / "tiny" / "report.html").read_text()
    for control in CONTROLS:
        assert (control.column, "after") in columns
        assert ((control.column, "before") in columns) is not control.needs_untrained
        assert control.title in outcome.out
        assert control.title in page
    assert {("greedy", "before"), ("greedy", "after")} <= columns


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate__controls": ["noting"]}, "no control 'noting'; did you mean 'nothing'"),
        ({"evaluate__controls": ["constant"]}, "set evaluate.constant"),
        ({"evaluate__endpoints": {"primary": "first"}}, "no endpoint 'first'"),
        ({"evaluate__split": "train"}, "evaluate.split"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_any_work(tiny_llama, tmp_path, changes, said):
    recipe = write_recipe(tmp_path, tiny_llama, warmup=None, **changes)
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert said in " ".join(outcome.err.split())
    assert not (tmp_path / "tiny" / "failures.jsonl").exists()


def test_an_evaluation_on_dev_asks_the_problems_of_dev(tiny_llama, tmp_path):
    task = tmp_path / "task_with_dev.py"
    splits = 'safe = True\n    splits = ("train", "dev", "test")'
    task.write_text(TASK_FILE.read_text().replace("safe = True", splits))
    changes = {"warmup": None, "evaluate__split": "dev", "evaluate__problems": 2}
    recipe = write_recipe(tmp_path, tiny_llama, task=str(task), **changes)
    assert run_cli("evaluate", recipe, "--runs", tmp_path).code == 0
    trials = read_trials(tmp_path / "tiny")["before"]
    assert [trial.question for trial in trials] == ["dev-0", "dev-1"]
