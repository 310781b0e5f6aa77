"""The example is tried as its README says."""

import re
import sqlite3
from pathlib import Path

import pytest

from mulligan.config import as_settings, load_recipe
from mulligan.tasks.registry import load_task
from mulligan.tasks.splits import first_problems
from mulligan.verifiers.validate import validate_task

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "row_tasks"
COMMANDS = re.findall(r"    mulligan validate (.*)", (EXAMPLE / "README.md").read_text())


@pytest.fixture
def above_examples(tmp_path, monkeypatch):
    """The folder above examples/, as its README has it, with the database made."""
    monkeypatch.chdir(tmp_path)
    copy = Path("examples/row_tasks")
    copy.mkdir(parents=True)
    for path in EXAMPLE.iterdir():
        if path.suffix in (".jsonl", ".sql", ".yaml"):
            (copy / path.name).write_bytes(path.read_bytes())
    with sqlite3.connect(copy / "shop.sqlite") as connection:
        connection.executescript((copy / "shop.sql").read_text())
    connection.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_kind_of_rows_is_a_valid_task(command, above_examples):
    name, *options = command.split()
    checks = {c.name: c for c in validate_task(load_task(name, as_settings(options)), count=2)}
    assert [check for check in checks.values() if check.result == "failed"] == []
    assert checks["reference answers pass"].result == "ok"
    assert checks["own wrong answers fail"].result == "ok"


def test_every_reference_passes_and_every_wrong_answer_does_not(above_examples):
    for command in COMMANDS:
        name, *options = command.split()
        task = load_task(name, as_settings(options))
        problems = [problem for split in task.splits for problem in task.problems(split)]
        assert len(problems) == 15
        for problem in problems:
            assert task.verify(problem, problem.reference).passed, problem
            assert not any(
                task.verify(problem, text).passed for text in task.wrong_answers(problem)
            )


def test_the_recipe_mixes_all_three_and_has_problems_enough(above_examples):
    recipe = load_recipe(Path("examples/row_tasks/recipe.yaml"))
    mix = load_task(recipe.task, recipe.task_options)
    for split, count in (
        ("train", recipe.collect.problems),
        ("test", recipe.evaluate.problems),
    ):
        problems = first_problems(mix, split, count)
        assert {p.task for p in problems} == {"orders", "questions", "functions"}
