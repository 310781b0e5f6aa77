"""Whole runs survive kills; and the harness that shows it would notice if they did not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import faults
from faults import Attempt, Violation, Whereabouts, check_end, check_records, end_state
from mulligan.storage.records import RecordLog
from tiny import lines


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_leave_runs_that_end_as_if_nothing_had_happened():
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "tests.faults", "--kills", "20", "--seed", "1"]
    outcome = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "none lost, none twice" in outcome.stdout


RECORDED = sorted(set(faults.IDS) - {"dev.jsonl"})
"""What a run without evaluations on dev records."""


@pytest.fixture
def attempt(tiny_run, tmp_path):
    """A finished run, every record of which was acknowledged."""
    attempt = Attempt(tmp_path, tmp_path / "recipe.yaml", Whereabouts())
    shutil.copytree(tiny_run, attempt.run)
    notes = [
        f"record\t{name}\t{faults.sha256(line).hexdigest()}\n"
        for name in RECORDED
        for line in (attempt.run / name).read_bytes().splitlines(keepends=True)
    ]
    attempt.notes.write_text("".join(notes))
    return attempt


def test_a_whole_run_passes_the_checks(attempt, tiny_run):
    check_records(attempt)
    check_end(attempt.run, end_state(tiny_run))


@pytest.mark.parametrize("name", RECORDED)
def test_a_lost_record_would_be_noticed(attempt, name):
    path = attempt.run / name
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(Violation, match=r"lost 1 of \d+ acknowledged records"):
        check_records(attempt)


@pytest.mark.parametrize("name", RECORDED)
def test_a_record_that_is_there_twice_would_be_noticed(attempt, name):
    path = attempt.run / name
    first = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(path.read_bytes() + first.replace(b'"schema":1', b'"schema":  1'))
    with pytest.raises(Violation, match="more than once"):
        check_records(attempt)


@pytest.mark.parametrize(
    "name", ["checkpoints/step-4/model.safetensors", "failures.jsonl", "checkpoints/best.json"]
)
def test_a_single_changed_bit_at_the_end_would_be_noticed(attempt, tiny_run, name):
    content = bytearray((attempt.run / name).read_bytes())
    content[-2] ^= 1
    (attempt.run / name).write_bytes(content)
    with pytest.raises(Violation, match=name.replace(".", r"\.")):
        check_end(attempt.run, end_state(tiny_run))


def test_what_a_killed_save_left_at_the_end_would_be_noticed(attempt, tiny_run):
    (attempt.run / "checkpoints" / ".step-4.partial").mkdir()
    (attempt.run / "checkpoints" / ".step-4.partial" / "half").touch()
    with pytest.raises(Violation, match=r"step-4\.partial/half"):
        check_end(attempt.run, end_state(tiny_run))


def test_every_file_of_records_in_a_run_is_looked_at(tiny_run):
    found = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*.jsonl")}
    assert sorted(found) == RECORDED
    for name in RECORDED:
        ids = [json.dumps(faults.IDS[name](row)) for row in lines(tiny_run / name)]
        assert len(set(ids)) == len(ids) > 0
    assert RecordLog.append.__name__ == "append"  # what observes a run stays in its process
