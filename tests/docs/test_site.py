"""The site's own pages: generated ones are complete, and what a page shows runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mulligan.cli import COMMANDS
from mulligan.config import Recipe
from mulligan.report.published import read_published
from tiny import write_recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load_hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_in_the_reference_with_its_default():
    page = load_hooks().settings_page()

    for name in Recipe.model_fields:
        assert f"| `{name}` |" in page
    assert "| `train.steps` | required |" in page
    assert "| `generate.temperature` | `0.9` |" in page
    assert "| `evaluate.endpoints.primary` |" in page
    assert "| `sft` | left out |" in page


def test_every_command_is_in_the_reference_with_its_options():
    page = load_hooks().commands_page()

    for command in COMMANDS:
        name = command.__name__.strip("_").replace("_", "-")
        assert f"## mulligan {name}\n" in page
    assert "`--include_path`" in page
    assert "`--with-failures`" in page


def test_the_page_on_forgetting_shows_the_tables_of_the_committed_file():
    page = (DOCS / "forgetting.md").read_text(encoding="utf-8")
    hooks = load_hooks()

    assert hooks.with_forgetting(page) == page, "run: python docs/hooks.py"
    published = read_published(DOCS / "results" / "forgetting.json")
    assert all(f"### {name}\n" in page for name in published)
    assert (hooks.NOTHING_YET in page) == (not published)


def commands_on_the_pages():
    """Every line of a shell block that calls mulligan."""
    for page in sorted(DOCS.glob("*.md")):
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                if line.startswith("mulligan "):
                    yield pytest.param(line.split("#")[0], id=f"{page.stem}: {line}")


@pytest.mark.parametrize("line", commands_on_the_pages())
def test_a_command_on_a_page_has_only_options_that_there_are(line):
    words = line.split()
    page = load_hooks().commands_page()
    section = page.partition(f"## mulligan {words[1]}\n")[2].partition("\n## ")[0]

    assert section, f"there is no command {words[1]}"
    for option in (word for word in words[2:] if word.startswith("--")):
        assert f"`{option}`" in section


def test_the_python_on_its_page_runs_in_blocks_of_ten_lines(
    tmp_path, tiny_llama, monkeypatch, capsys
):
    text = (DOCS / "python_api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    write_recipe(tmp_path, tiny_llama)
    monkeypatch.chdir(tmp_path)

    names = {}
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) <= 10
        exec(block, names)

    assert len(blocks) == 4
    assert (tmp_path / "runs" / "api" / "report.html").exists()
    assert names["change"].low <= names["change"].difference <= names["change"].high


def test_the_menu_takes_what_there_is(tmp_path):
    (tmp_path / "index.md").write_text("# First")
    (tmp_path / "new.md").write_text("# New")

    menu = load_hooks().on_config({"docs_dir": str(tmp_path)})["nav"]

    assert {"Start": [{"First run": "index.md"}]} in menu
    assert {"More": ["new.md"]} in menu
    assert not any("performance.md" in page for entry in menu for page in entry.values())


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}

    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "settings" / "index.html").exists()
