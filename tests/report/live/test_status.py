import json
import shutil
from pathlib import Path

import pytest

from mulligan.errors import MulliganError
from mulligan.report.live.status import (
    Progress,
    find_runs,
    headline_text,
    read_status,
    time_text,
)
from mulligan.storage.lock import hold
from mulligan.storage.run_folder import RunFolder
from tiny import run_cli


@pytest.fixture
def half_done(tiny_run, tmp_path):
    """A run that stopped after two of four training steps."""
    run = RunFolder(shutil.copytree(tiny_run, tmp_path / "runs" / "half"))
    run.stages.write_text(json.dumps(["warmup", "collect", "evaluate-before"]))
    for path in (run.metrics, run.timings):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    shutil.rmtree(run.path / "evaluation")
    return run


def test_a_finished_run_has_no_progress_and_its_headline(tiny_run):
    status = read_status(RunFolder(tiny_run))

    assert (status.state, status.progress) == ("finished", None)
    assert status.headline is not None
    assert "[" in headline_text(status)


def test_a_run_that_nobody_holds_is_stopped_where_it_was(half_done):
    status = read_status(half_done)

    assert status.state == "stopped"
    assert status.progress == Progress("train", 2, 4, "steps")
    assert status.seconds_left is None
    assert status.headline is None


def test_a_run_that_is_held_is_running_and_the_steps_left_take_as_long_as_the_newest(half_done):
    rows = [{"schema": 1, "step": step, "rollout": 3.0, "update": 1.5} for step in (1, 2)]
    half_done.timings.write_text("".join(json.dumps(row) + "\n" for row in rows))

    with hold(half_done.path):
        status = read_status(half_done)

    assert status.state == "running"
    assert status.seconds_left == 9.0


def test_reading_writes_nothing_and_works_on_what_may_only_be_read(half_done):
    for each in [half_done.path, *half_done.path.rglob("*")]:
        each.chmod(0o555 if each.is_dir() else 0o444)
    before = {each: each.stat().st_mtime_ns for each in half_done.path.rglob("*")}

    read_status(half_done)

    assert {each: each.stat().st_mtime_ns for each in half_done.path.rglob("*")} == before


def test_each_stage_counts_what_it_makes(half_done):
    half_done.stages.write_text("[]")
    assert read_status(half_done).progress == Progress("warmup", 2, 2, "steps")
    half_done.stages.write_text('["warmup"]')
    assert read_status(half_done).progress == Progress("collect", 20, 20, "attempts")
    half_done.stages.write_text('["warmup", "collect"]')
    assert read_status(half_done).progress == Progress("evaluate-before", 0, 10, "trials")


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(half_done):
    half_done.config.write_text("name: [")

    status = read_status(half_done)

    assert status.state == "unreadable"
    assert "is not YAML" in status.problem


def test_a_folder_that_may_not_be_looked_into_is_listed_and_hides_no_other(half_done, monkeypatch):
    folder = half_done.path.parent
    (folder / "another").mkdir()
    real = Path.is_file

    def is_file(path):
        if path.parent.name == "another":
            raise PermissionError(13, "Permission denied")  # chmod would not stop root
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)

    states = {each.path.name: read_status(each).state for each in find_runs(folder)}

    assert states == {"another": "unreadable", "half": "stopped"}


def test_a_folder_of_runs_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    outcome = run_cli("runs", tmp_path)

    assert outcome.code == 1
    assert "Permission denied" in outcome.err


def test_a_record_with_text_for_a_number_makes_one_run_unreadable(half_done):
    half_done.timings.write_text('{"schema": 1, "step": 1, "rollout": "x", "update": 1.5}\n')

    with hold(half_done.path):
        status = read_status(half_done)

    assert status.state == "unreadable"
    assert "damaged" in status.problem


def test_runs_are_found_in_a_folder_and_a_run_stands_for_itself(half_done, tmp_path):
    (tmp_path / "runs" / "notes").mkdir()

    assert [run.path.name for run in find_runs(tmp_path / "runs")] == ["half"]
    assert [run.path.name for run in find_runs(half_done.path)] == ["half"]
    with pytest.raises(MulliganError, match="No folder"):
        find_runs(tmp_path / "none")


def test_times_read_as_people_write_them():
    assert [time_text(seconds) for seconds in (None, 5.4, 125, 3725)] == [
        "–",
        "0:05",
        "2:05",
        "1:02:05",
    ]


def test_the_command_lists_runs_and_says_what_is_wrong_with_one(half_done, tmp_path):
    shutil.copytree(half_done.path, tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "config.yaml").write_text("name: \x1b[31mred")

    outcome = run_cli("runs", tmp_path / "runs")

    assert outcome.code == 0
    assert "train 2/4 steps" in outcome.out
    assert "unreadable" in outcome.out
    assert "\x1b[31m" not in outcome.out


def test_the_command_prints_json_for_programs(half_done):
    [status] = json.loads(run_cli("runs", half_done.path, "--json").out)

    assert status["progress"] == {"stage": "train", "done": 2, "total": 4, "unit": "steps"}


def test_a_folder_without_runs_says_how_to_make_one(tmp_path):
    assert "mulligan demo" in run_cli("runs", tmp_path).out
