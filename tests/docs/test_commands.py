"""Every command that the pages show is run, or its page says what it needs.

A command runs in a folder that has what the pages speak of, small: a finished run of a tiny model,
recipes, a task, rows, a log. Not run are those whose lines say that they need a hub or a GPU.
"""

import json
import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import pytest
import typer.main
import yaml

from mulligan.cli import app
from mulligan.tasks.scaffold import TASK
from tiny import run_cli, write_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
MARKED = re.compile(r"needs (a GPU|GPUs|a hub|a package index)")

ELSEWHERE = {
    "mulligan watch": "tests/report/live/test_browser.py",
    "mulligan serve": "tests/serving/test_serve.py",
    "mulligan chat": "tests/serving/test_chat.py",
    "mulligan study": "tests/study/test_study.py",
    "mulligan evaluate RUN --engine server": "tests/run/test_other_model.py",
    "mulligan run recipes/demo.yaml engine.kind=vllm": "tests/distributed/test_vllm_slow.py",
    "mulligan examine": "tests/study/examine/test_examination.py",
    "mulligan run recipes/demo.yaml name=brief": "tests/docs/test_objectives.py",
    "mulligan forget runs/demo --tasks mmlu_dev": "tests/evaluation/forgetting/test_harness.py",
    "torchrun --no-python": "tests/distributed/test_torchrun_slow.py",
    "python examples/trl_rollout_func": "tests/examples/test_trl_rollout_func.py",
    "python -m benchmarks": "tests/benchmarks/test_main.py",
    "make vllm": "tests/distributed/test_vllm_slow.py",
    "make demo": "tests/test_wheel.py",
    "make test-faults": "tests/test_faults.py",
    "make test": "tests",
}
"""Commands that need a server, a person or minutes, and the tests that do what they do."""

SLOW = ("mulligan run ", "mulligan forget", "mulligan train rec", "mulligan collect rec")
"""They train or load models."""

BEFORE = {"collect.store=production": "import logs.jsonl --task my_task.py --into production"}
"""What has to be done before a command that says so."""

STANDS_FOR = {
    "[name=value ...]": "",
    "RUN_OR_RECIPE": "runs/demo",
    "runs/NAME": "runs/demo",
    "RUN": "runs/demo",
    "RECIPE": "recipe.yaml",
    "FOLDER": "out",
    "USER/NAME": "me/tiny",
    "path/to/folder": "model",
}


EVEN = """
from parity_task import Parity


class Mine(Parity):
    name = "my_task"

    def __init__(self, length: int = 2) -> None:
        super().__init__()
        self.length = length
"""
"""A task that a random model passes now and then, so that there is something to learn."""


def shown(page):
    """Yield the lines of a page's blocks that are typed into a terminal, comments included."""
    fence = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```")
            continue
        typed = line if fence == "" else line[4:] if fence is None and line[:4] == "    " else ""
        if re.match(r"(mulligan|make|pip|python|torchrun|uv) ", typed):
            yield typed


def alternatives(line):
    """Yield the commands of a line such as ``mulligan collect | train RUN``."""
    first, *others = line.removeprefix("mulligan ").split(" | ")
    arguments = (others or [first])[-1].partition(" ")[2]
    for part in (first, *others):
        name = part.split()[0]
        takes = any(each.required for each in COMMANDS[name].params)
        yield f"mulligan {name} {arguments}" if part == name and takes else f"mulligan {part}"


def commands():
    """Every command of every page that is to be run here."""
    for page in PAGES:
        for line in shown(page):
            command, _, comment = (part.strip() for part in line.partition("#"))
            if MARKED.search(comment) or any(map(command.startswith, ELSEWHERE)):
                continue
            if not command.startswith("mulligan "):
                yield pytest.param(command, id=f"{page.stem}: {command}")
                continue
            for each in alternatives(command):
                if not any(map(each.startswith, ELSEWHERE)):
                    marks = [pytest.mark.slow] if each.startswith(SLOW) else []
                    yield pytest.param(each, id=f"{page.stem}: {each}", marks=marks)


@pytest.fixture
def place(tiny_run, tiny_llama, tmp_path, monkeypatch):
    """A folder with what the pages speak of."""
    for name in ("demo", "demo_lora", "first", "second", "countdown_24gb"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    (tmp_path / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        path = write_recipe(tmp_path, tiny_llama, name=recipe.stem, train__steps=1)
        path.rename(tmp_path / "recipes" / recipe.name)
    write_recipe(tmp_path, tiny_llama, name="mine", task="my_task.py", train__steps=1)
    (tmp_path / "model").symlink_to(tiny_llama)
    (tmp_path / "my_task.py").write_text(TASK.substitute(name="my_task", cls="MyTask"))
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Sort 3, {n}."},
                {"role": "assistant", "content": "3 3"},
            ],
            "given": {"numbers": [3, n]},
        }
        for n in range(5)
    ]
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "problems.jsonl").write_text('{"messages": "Even?", "given": {}}\n')
    example = ROOT / "examples" / "row_tasks"
    shutil.copyfile(example / "questions.jsonl", tmp_path / "questions.jsonl")
    with sqlite3.connect(tmp_path / "shop.sqlite") as shop:
        shop.executescript((example / "shop.sql").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_runs(command, place):
    assert command.startswith("mulligan "), f"nothing runs {command!r}"
    if "new-task" in command:
        (place / "my_task.py").unlink()
    if "rows.json" in command and "--rows" not in command:
        run_cli("report", "runs/demo", "--rows", "rows.json")
    for text, first in BEFORE.items():
        if text in command:
            assert run_cli(*first.split()).code == 0
    if command.startswith(SLOW):
        (place / "my_task.py").write_text(EVEN)
    for name, thing in STANDS_FOR.items():
        command = command.replace(name, thing)

    for name in re.findall(r"^mulligan run recipes/(\w+)\.yaml$", command):
        shutil.rmtree(place / "runs" / name, ignore_errors=True)  # of that run, the first

    outcome = run_cli(*shlex.split(command)[1:])

    assert outcome.code == 0, outcome.err + outcome.out


@pytest.mark.parametrize(("command", "test"), ELSEWHERE.items())
def test_what_runs_elsewhere_is_shown_and_its_test_is_there(command, test):
    assert (ROOT / test).exists()
    assert any(line.startswith(command) for page in PAGES for line in shown(page))


@pytest.mark.slow
def test_a_run_is_repeated_from_its_own_settings(place):
    [command] = re.findall(
        r"`mulligan (run runs/demo/config\.yaml name=again)`",
        (ROOT / "docs" / "index.md").read_text(encoding="utf-8"),
    )

    assert run_cli(*command.split()).code == 0

    again, first = place / "runs" / "again", place / "runs" / "demo"
    assert yaml.safe_load((again / "config.yaml").read_text())["name"] == "again"
    for name in ("failures", "metrics", "episodes", "evaluation/after"):
        assert (again / f"{name}.jsonl").read_bytes() == (first / f"{name}.jsonl").read_bytes()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_command_within_a_sentence_exists_with_its_options(page):
    for text in re.findall(r"`(mulligan [a-z][^`]*)`", page.read_text(encoding="utf-8")):
        for line in alternatives(" ".join(text.split())):
            name, *words = line.split()[1:]
            assert name in COMMANDS, text
            options = {option for each in COMMANDS[name].params for option in each.opts}
            assert {word for word in words if word.startswith("--")} <= options, text
