"""What the page shows is tried as a reader would."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from mulligan.config import load_recipe
from mulligan.tasks.jsonl import VERIFIERS
from mulligan.tasks.registry import list_tasks, load_task
from mulligan.tasks.scaffold import TASK
from mulligan.tasks.splits import first_problems
from mulligan.tasks.sql import Sql
from mulligan.tasks.unit_tests import UnitTests
from mulligan.verifiers.validate import MALFORMED, passed, validate_task
from task_rows import write_rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring_your_own_task.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_task_on_the_page_is_valid(tmp_path):
    (python,) = blocks("python")
    (tmp_path / "my_task.py").write_text(python)
    checks = validate_task(load_task(str(tmp_path / "my_task.py")))
    assert passed(checks), checks


def test_the_task_on_the_page_is_that_of_new_task_in_brief():
    written = TASK.substitute(name="my_task", cls="MyTask").replace("Demonstration, ", "")
    (python,) = blocks("python")
    for line in python.splitlines():
        assert line in written


def test_the_recipes_on_the_page_are_valid(tmp_path):
    whole, *parts = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(whole)
    recipe = load_recipe(path)
    assert (recipe.task, recipe.model) == ("my_task.py", "smollm2-135m")
    changed = load_recipe(path, ["task=other.py", "task_options.length=4", "name=four_numbers"])
    assert (changed.task, changed.task_options) == ("other.py", {"length": 4})
    for part in parts:
        load_recipe(path, [f"{key}={value}" for key, value in _flat(yaml.safe_load(part))])


def test_the_mix_on_the_page_is_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"messages": f"Capital of {n}?", "reference": f"City {n}"} for n in range(60)]
    write_rows(tmp_path, *rows)
    Path("rows.jsonl").rename("capitals.jsonl")
    recipe = yaml.safe_load(blocks("yaml")[-1])
    mix = load_task(recipe["task"], recipe["task_options"])
    assert [p.task for p in first_problems(mix, "dev", 10)].count("countdown") == 7


@pytest.mark.parametrize("name", ["json_schema", "sql", "unit_tests", "mix"])
def test_every_task_of_rows_is_on_the_page(name):
    assert name in {entry.name for entry in list_tasks()}
    assert f"`{name}`" in PAGE


def test_limits_named_on_the_page_are_the_tasks_own():
    assert f"`seconds` ({Sql.seconds:g}) and `max_rows` ({Sql.max_rows:,})" in PAGE
    assert f"`seconds` ({UnitTests.seconds:g}), `memory_mib` ({UnitTests.memory_mib})" in PAGE


def _flat(settings):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in _flat(value))
        else:
            yield key, value


def test_the_recipe_of_the_example_is_valid():
    recipe = load_recipe(ROOT / "examples" / "http_tool_call" / "recipe.yaml")
    assert (ROOT / recipe.task).exists()


def test_the_rows_on_the_page_are_a_task(tmp_path):
    (rows,) = blocks("json")
    path = tmp_path / "capitals.jsonl"
    path.write_text(rows)
    task = load_task(str(path), {"verifier": "exact"})
    problems = [p for split in ("train", "test") for p in task.problems(split)]
    assert {p.reference for p in problems} == {"Paris", "Lima"}


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_verifier_is_on_the_page(name):
    assert f"| `{name}` |" in PAGE


def test_every_check_is_on_the_page(tmp_path):
    (python,) = blocks("python")
    (tmp_path / "my_task.py").write_text(python)
    for check in validate_task(load_task(str(tmp_path / "my_task.py")), count=5):
        assert check.name in PAGE
    assert "" in MALFORMED


def test_the_entry_point_on_the_page_is_in_the_group_that_is_searched():
    from mulligan.tasks.registry import ENTRY_POINT_GROUP

    (toml,) = blocks("toml")
    assert ENTRY_POINT_GROUP in tomllib.loads(toml)["project"]["entry-points"]


def test_the_defaults_named_on_the_page_are_those_of_a_recipe():
    from mulligan.config import Verify

    for name, value in Verify().model_dump().items():
        shown = f"{value:g}" if isinstance(value, float) else value or "none by default"
        assert f"`verify.{name}` ({shown})" in PAGE
