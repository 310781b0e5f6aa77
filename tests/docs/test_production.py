"""The Python that the README and the page on production show runs."""

import re
import shutil
from pathlib import Path

import pytest

from mulligan.config import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/production.md"])
def test_the_python_on_a_page_has_ten_lines_and_runs(tmp_path, tiny_run, monkeypatch, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copytree(tiny_run, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    names = {}

    exec(block, names)

    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    assert names["solution"].tries in (1, 2, 3)
    assert names["solution"].problem == names["problem"]
    demo = load_recipe(ROOT / "recipes" / "demo.yaml")
    words = names["problem"].messages[0]["content"]
    assert words == demo.task_options["system"], "the model was trained with other words"
