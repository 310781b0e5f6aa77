"""What the page shows is tried as a reader would, and it names every choice there is."""

import json
import re
from pathlib import Path

import pytest

from mulligan.config import Train
from tiny import lines, run_cli, write_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
(OWN,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_and_the_command_name_every_choice():
    listed = json.loads(run_cli("objectives", "--json").out)
    rows = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert {entry["name"] for entry in listed} <= rows
    printed = run_cli("objectives").out
    assert all(entry["name"] in printed and entry["summary"] for entry in listed)


def test_every_setting_on_the_page_exists():
    table = PAGE.partition("Settings that go with them")[2].partition("## A reward")[0]
    names = [n for row in re.findall(r"^\| (`.*?) \|", table, re.M) for n in row.split("`")[1::2]]
    assert {"kl_beta", "dead_groups", "importance_cap"} <= set(names)
    assert set(names) <= set(Train.model_fields)


@pytest.mark.parametrize(("name", "values"), [("brief", (0.0, 1.0)), ("careful", (-1.0, 1.0))])
def test_a_reader_trains_with_the_reward_on_the_page(name, values, tiny_llama, tmp_path):
    assert len(OWN.splitlines()) <= 40
    file = tmp_path / "my_reward.py"
    file.write_text(OWN)
    recipe = write_recipe(tmp_path, tiny_llama, sft=None, train__steps=1, collect__problems=8)
    for command in ("collect", "train"):
        outcome = run_cli(command, recipe, f"train.reward={file}:{name}", "--runs", tmp_path)
        assert outcome.code == 0, outcome.err
    [metrics] = lines(tmp_path / "tiny" / "metrics.jsonl")
    assert values[0] <= metrics["reward"] <= values[1]
    assert 0 <= metrics["passed"] <= 1
