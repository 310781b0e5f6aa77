import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny import lines, run_cli, write_recipe

TESTS = Path(__file__).parents[1]
MULLIGAN = str(Path(sys.executable).with_name("mulligan"))
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node", "2"],
    "accelerate": [
        *("accelerate.commands.launch", "--no_python", "--multi_gpu"),
        *("--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--main_process_port", "0"),
    ],
}
"""Of two processes. ``--multi_gpu`` is accelerate's word for all of one machine's, CPU or GPU."""


def start(folder, launcher, *arguments):
    """Start a command in two processes that a launcher starts and supervises."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], MULLIGAN, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(folder, launcher, *arguments):
    """Run a command to its end; return its exit status and what it said of errors."""
    started = start(folder, launcher, *arguments)
    try:
        _, said = started.communicate(timeout=280)
    finally:
        started.kill()
    return started.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "settings"),
    [
        ("torchrun", {}),
        ("torchrun", {"collect__failures": "online"}),
        ("torchrun", {"train__shard": True, "evaluate__every": 2, "evaluate__dev_problems": 8}),
        ("accelerate", {"train__shard": True, "lora": {"rank": 4, "alpha": 8}}),
        ("accelerate", {}),
    ],
)
def test_a_launcher_runs_all_stages_and_trains_as_one_process_does(
    tiny_llama, tmp_path, launcher, settings
):
    recipe = write_recipe(tmp_path, tiny_llama, **settings)
    status, said = launch(tmp_path, launcher, "run", recipe, "--runs", "two")
    assert status == 0, said
    assert run_cli("run", recipe, "--runs", tmp_path / "one").code == 0
    one, two = (tmp_path / name / "tiny" for name in ("one", "two"))
    assert lines(two / "episodes.jsonl") == lines(one / "episodes.jsonl")
    for pair in zip(lines(two / "metrics.jsonl"), lines(one / "metrics.jsonl"), strict=True):
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)
    assert lines(two / "evaluation" / "after.jsonl")


@pytest.mark.slow
def test_an_error_before_training_ends_all_processes_with_its_message(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama)
    arguments = ("run", recipe, "task=none-of-this-name", "--runs", tmp_path)
    status, said = launch(tmp_path, "torchrun", *arguments)
    assert status != 0
    assert "none-of-this-name" in said
    assert "has ended" not in said


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_a_process_that_is_killed_in_training_ends_the_launch_with_its_name(
    tiny_llama, tmp_path, shard
):
    recipe = write_recipe(tmp_path, tiny_llama, train__steps=10_000, train__shard=shard)
    started = start(tmp_path, "torchrun", "run", recipe, "--runs", tmp_path)
    try:
        log = tmp_path / "tiny" / "metrics.jsonl"
        while not (log.exists() and lines(log)):
            assert started.poll() is None, started.stderr.read()
            time.sleep(0.2)
        [second] = of_rank(1, recipe)
        os.kill(second, signal.SIGKILL)
        _, said = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode != 0
    assert f"(pid {second} on " in said or f"(pid: {second})" in said, said


def of_rank(rank, argument):
    """Process ids of a rank of the launch that was given an argument."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                named = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            mulligan = {MULLIGAN.encode(), str(argument).encode()} <= set(command)
            if mulligan and f"RANK={rank}".encode() in named:
                yield int(process.name)
