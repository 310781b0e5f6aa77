"""Every command says what it is busy with, should that take longer than two seconds."""

import shutil
from types import SimpleNamespace

import pytest

from tiny import TASK_FILE, run_cli, write_recipe


class Impatient:
    """A timer to which everything takes long."""

    def __init__(self, seconds, call, arguments):
        self.call, self.arguments = call, arguments

    def start(self):
        self.call(*self.arguments)

    def cancel(self):
        pass


@pytest.fixture
def long_waits(monkeypatch):
    monkeypatch.setattr("mulligan.interrupt.threading", SimpleNamespace(Timer=Impatient))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


COMMANDS = {
    "report runs/tiny": ("writing the report", "computing the table"),
    "report runs/tiny --json": ("computing the table",),
    "report runs/tiny --rows rows.json": ("writing the rows",),
    "report runs/tiny --figures figures": ("drawing the figures",),
    "evaluate runs/tiny": ("computing the table",),
    "runs runs": ("reading the runs",),
    "compare runs/tiny runs/tiny": ("comparing the runs",),
    "plan recipe.yaml": ("looking at the model",),
    "doctor": ("looking at this machine",),
    "validate countdown -n 3": ("checking: problems can be made",),
    "export runs/tiny --to exported": ("writing the model",),
    "push runs/tiny --to me/tiny --dry-run": ("writing the folder",),
    "collect recipe.yaml --runs new": ("making 8 demonstrations", "saving the warmed-up model"),
    "forget runs/tiny --prompts 2 --tokens 64 --items 2 --tasks task.py": (
        "checking runs/tiny/checkpoints/step-4",
        "loading runs/tiny/warmed_up",
        "2 answers of the model after training",
        "task.py: looking for wrong answers",
        "writing the report",
    ),
    "solve runs/tiny problems.jsonl --out answers.jsonl": ("loading runs/tiny/checkpoints/step-4",),
}


@pytest.mark.usefixtures("long_waits")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_takes_long(
    command, tiny_run, tiny_llama, tmp_path, monkeypatch, caplog
):
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    shutil.copyfile(TASK_FILE, tmp_path / "task.py")
    write_recipe(tmp_path, tiny_llama)
    (tmp_path / "problems.jsonl").write_text('{"messages": "even?", "given": {}}\n')
    monkeypatch.chdir(tmp_path)

    outcome = run_cli(*command.split())

    assert outcome.code == 0, outcome.err
    for wait in COMMANDS[command]:
        assert f"{wait} ..." in caplog.messages


def test_where_there_is_no_terminal_a_line_says_now_and_then_how_far_it_is(
    tiny_llama, tmp_path, monkeypatch
):
    monkeypatch.setattr("mulligan.run.session.LINE_EVERY", 0.0)

    outcome = run_cli("collect", write_recipe(tmp_path, tiny_llama, sft=None), "--runs", tmp_path)

    assert outcome.code == 0, outcome.err
    told = [line for line in outcome.out.splitlines() if line.startswith("collect: ")]
    assert [line.split(" failures")[0].rsplit(" ", 1)[0] for line in told] == [
        f"collect: {done} of 20" for done in (8, 16, 20)
    ]
