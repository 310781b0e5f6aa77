"""A run that version 0.1.0 made and left half-way: newer code shows it, and goes on with it."""

import json
import shutil
from pathlib import Path

import pytest

from tiny import lines, run_cli

KEPT = Path(__file__).parent / "old_run"


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """A copy of the run, where its recipe finds its task and model."""
    folder = tmp_path / "kept"
    shutil.copytree(KEPT, folder)
    monkeypatch.chdir(folder)
    return Path("runs/old")


def test_its_report_is_written(old_run):
    outcome = run_cli("report", old_run)
    assert outcome.code == 0, outcome.err
    assert "First try" in (old_run / "report.html").read_text()


def test_its_episodes_are_shown(old_run):
    outcome = run_cli("show", old_run)
    assert outcome.code == 0, outcome.err
    assert "reflection" in outcome.out.lower()


def test_it_goes_on_to_what_the_old_version_made_of_it(old_run):
    outcome = run_cli("run", "recipe.yaml", "train.stop_after=null", "--runs", "runs", "--resume")
    assert outcome.code == 0, outcome.err
    expected = lines(KEPT / "expected" / "metrics.jsonl")
    found = lines(old_run / "metrics.jsonl")
    for line, old_line in zip(found, expected, strict=True):
        assert line["learning_rate"] == old_line["learning_rate"]
        assert line["live_groups"] == old_line["live_groups"]
        assert line["loss"] == pytest.approx(old_line["loss"], abs=1e-6)
        assert line["gradient_norm"] == pytest.approx(old_line["gradient_norm"], rel=1e-4)


def test_a_large_old_run_is_not_gone_on_with_for_its_batches_had_another_order(
    old_run, monkeypatch
):
    monkeypatch.setattr("mulligan.run.failures.SAME_IN_FORMAT_1", 4)
    outcome = run_cli("run", "recipe.yaml", "train.stop_after=null", "--runs", "runs", "--resume")
    assert outcome.code == 1
    assert "drew batches from more than 4 failures in another order" in " ".join(
        outcome.err.split()
    )


def test_it_ends_with_the_rates_that_the_old_version_found(old_run):
    run_cli("run", "recipe.yaml", "train.stop_after=null", "--runs", "runs", "--resume")
    outcome = run_cli("report", old_run, "--json")
    old = json.loads((KEPT / "expected" / "table.json").read_text())
    cells = {
        (c["column"], c["when"]): (c["passed"], c["n"]) for c in json.loads(outcome.out)["cells"]
    }
    for cell in old["cells"]:
        assert cells[cell["column"], cell["when"]] == (cell["passed"], cell["n"])
