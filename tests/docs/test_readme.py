"""What the README shows is there: commands with their options, linked files, the layout."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

import mulligan
from mulligan.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(mulligan.__file__).parent
(LAYOUT,) = re.findall(r"## The layout\n\n(.*?)\n\n", README, re.DOTALL)
COMMANDS = typer.main.get_command(app).commands
"""By name, as typed."""


def commands_shown():
    """Every line that calls mulligan, with the alternatives in it: ``warmup | collect``."""
    for line in re.findall(r"^    mulligan (.*)$", README, re.MULTILINE):
        yield pytest.param(line.partition("#")[0], id=line)


@pytest.mark.parametrize("line", commands_shown())
def test_a_command_in_the_readme_exists_with_its_options(line):
    words = line.split()
    alternatives = [words[0], *(after for word, after in pairwise(words) if word == "|")]
    for name in alternatives:
        assert name in COMMANDS
    options = {opt for name in alternatives for each in COMMANDS[name].params for opt in each.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", re.findall(r"\]\(([^:)]+)\)", README))
def test_a_link_in_the_readme_leads_to_a_file(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", re.findall(r"mulligan run (recipes/\S+|studies/\S+)", README))
def test_a_recipe_in_the_readme_exists(name):
    assert (ROOT / name).exists()


def test_the_layout_names_every_room_and_no_other():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    rooms = LAYOUT.partition("src/mulligan/\n")[2]
    named = set(re.findall(r"(?:^      |; )(\w+(?:\.py)?)[/: ]", rooms, re.MULTILINE))
    assert entries <= named
    assert set(re.findall(r"^      ([\w.]+)", rooms, re.MULTILINE)) <= entries
    for folder in re.findall(r"^    (\w+)/", rooms, re.MULTILINE):
        assert (ROOT / folder).is_dir()
