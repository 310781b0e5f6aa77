"""The page's table is computed, and its commands exist or say that they need what no test has."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main

from benchmarks import on_paper
from mulligan.cli import app
from mulligan.config import load_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line
]
COMMANDS = typer.main.get_command(app).commands
ELSEWHERE = {
    "python examples/trl_rollout_func/train.py": "examples/test_trl_rollout_func.py",
    "python -m benchmarks.on_paper": "docs/test_scale.py",
}
"""Commands that are not Mulligan's own, and the tests that run them."""


def test_the_table_is_what_the_command_prints(capsys):
    runpy.run_path(on_paper.__file__, run_name="__main__")
    assert capsys.readouterr().out in PAGE


def test_the_rates_and_lengths_on_the_page_are_those_of_the_table():
    hardware, work = on_paper.Hardware(), on_paper.Work()
    for number in (
        f"{hardware.flops / 1e12:.0f} TFLOP/s",
        f"{hardware.memory / 1e12:.2f} TB/s",
        f"{hardware.nvlink / 1e9:.0f} GB/s",
        f"{hardware.network / 1e9:.0f} GB/s",
        f"{hardware.disk / 1e9:.0f} GB/s",
        f"{hardware.flops_reached:.0%}",
        f"{hardware.memory_reached:.0%}",
        f"{hardware.links_reached:.0%}",
        f"{work.failures} failures",
        f"{work.group_size} reflections",
        f"{work.prompt} tokens",
        f"{work.reflection} tokens",
        f"{work.question} tokens",
        f"{work.answer} tokens",
        f"{work.tokens_at_once:,} tokens",
    ):
        assert number in PAGE


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_mulligans_own_or_run_elsewhere_or_marked(line):
    command, _, remark = line.partition("#")
    if "needs GPUs" in remark:
        return
    tested = [test for start, test in ELSEWHERE.items() if command.startswith(start)]
    if tested:
        assert (ROOT / "tests" / tested[0]).exists()
        return
    words = shlex.split(command.partition("mulligan ")[2])
    assert command.startswith(("mulligan ", "torchrun --no-python "))
    name, *rest = words
    options = {option for each in COMMANDS[name].params for option in each.opts}
    assert {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize("line", [line for line in LINES if "recipes/" in line])
def test_a_recipe_on_the_page_takes_its_settings(line):
    words = shlex.split(line.partition("#")[0])
    [path] = [word for word in words if word.startswith("recipes/")]
    load_recipe(ROOT / path, [word for word in words if "=" in word and word[0] != "-"])
