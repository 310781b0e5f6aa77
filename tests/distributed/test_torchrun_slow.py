import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import lines, run_cli, write_recipe

TESTS = Path(__file__).parents[1]
MULLIGAN = str(Path(sys.executable).with_name("mulligan"))


def torchrun(folder, *arguments):
    """Run a command in two processes that torchrun starts and supervises."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
    return subprocess.run(
        [*launcher, "--standalone", "--nproc-per-node", "2", MULLIGAN, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("failures", ["stored", "online"])
def test_torchrun_runs_all_stages_and_trains_as_one_process_does(tiny_llama, tmp_path, failures):
    recipe = write_recipe(tmp_path, tiny_llama, collect__failures=failures)
    done = torchrun(tmp_path, "run", recipe, "--runs", "two")
    assert done.returncode == 0, done.stderr
    assert run_cli("run", recipe, "--runs", tmp_path / "one").code == 0
    one, two = (tmp_path / name / "tiny" for name in ("one", "two"))
    assert lines(two / "episodes.jsonl") == lines(one / "episodes.jsonl")
    for pair in zip(lines(two / "metrics.jsonl"), lines(one / "metrics.jsonl"), strict=True):
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)
    assert lines(two / "evaluation" / "after.jsonl")


@pytest.mark.slow
def test_an_error_before_training_ends_all_processes_with_its_message(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama)
    done = torchrun(tmp_path, "run", recipe, "task=none-of-this-name", "--runs", tmp_path)
    assert done.returncode != 0
    assert "none-of-this-name" in done.stderr
    assert "has ended" not in done.stderr
