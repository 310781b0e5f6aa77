import json
import shutil
from dataclasses import replace

import pytest

from mulligan.errors import MulliganError
from mulligan.evaluation.trials import read_trials
from mulligan.report.compare import compare
from mulligan.storage.records import encode
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Verdict
from tiny import run_cli


@pytest.fixture
def runs(tiny_run, tmp_path):
    """A run, and one whose every first try passes after training."""
    first = RunFolder(shutil.copytree(tiny_run, tmp_path / "first"))
    second = RunFolder(shutil.copytree(tiny_run, tmp_path / "second"))
    trials = read_trials(second.path)["after"]
    right = [replace(t, first_try=replace(t.first_try, verdict=Verdict.right())) for t in trials]
    second.evaluation("after").write_bytes(b"".join(map(encode, right)))
    return first, second


def test_the_difference_is_paired_over_the_problems_that_both_tried(runs):
    made = compare([run.path for run in runs])

    row = next(row for row in made.rows if row.title == "First try")
    first, second = row.cells
    assert second.rate == 1.0
    assert row.differences[0].difference == pytest.approx(1 - first.rate)
    assert made.shared == (10,)


def test_what_reflection_adds_is_told_of_each_run_and_of_their_difference(runs):
    row = next(
        row
        for row in compare([run.path for run in runs]).rows
        if row.title == "What reflection adds"
    )

    first, second = row.cells
    assert second.difference == 0  # its first tries all pass, so nothing is left to add
    failed = [t for t in read_trials(runs[0].path)["after"] if not t.first_try.verdict.passed]
    reflected = sum(t.after_reflection.verdict.passed for t in failed)
    asked_again = sum(t.second_tries["nothing"].verdict.passed for t in failed)
    assert first.difference == pytest.approx((reflected - asked_again) / 10)
    assert row.differences[0].difference == pytest.approx(-first.difference)
    assert "–" not in row.texts


def test_runs_of_different_problems_cannot_be_paired(runs):
    _, second = runs
    text = second.evaluation("after").read_text().replace('"problem_id":"', '"problem_id":"x')
    second.evaluation("after").write_text(text)

    with pytest.raises(MulliganError, match="different problems"):
        compare([run.path for run in runs])


def test_a_run_that_is_not_evaluated_yet_is_named(runs):
    runs[1].evaluation("after").unlink()

    outcome = run_cli("compare", runs[0].path, runs[1].path)

    assert outcome.code == 1
    assert f"mulligan evaluate {runs[1].path}" in outcome.err


def test_the_command_prints_the_table_and_json(runs):
    printed = run_cli("compare", runs[0].path, runs[1].path)
    assert printed.code == 0, printed.err
    assert "First try" in printed.out
    assert "Paired trials: 10 with second." in printed.out
    as_json = json.loads(run_cli("compare", runs[0].path, runs[1].path, "--json").out)
    assert as_json["names"] == ["first", "second"]


def test_files_of_rows_give_the_same_comparison(runs, tmp_path):
    files = [tmp_path / f"{run.path.name}.json" for run in runs]
    for run, file in zip(runs, files, strict=True):
        assert run_cli("report", run.path, "--rows", file).code == 0
    found = run_cli("compare", *files)
    assert found.code == 0, found.err
    assert found.out == run_cli("compare", runs[0].path, runs[1].path).out
