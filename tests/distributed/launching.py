"""Starts a script as several processes, as torchrun does, without its supervision."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mulligan.logprobs.shared_prompt import GroupScorer

HERE = Path(__file__).parent


def start(script, *arguments, count=2):
    """Start the processes of a script of this folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=os.environ | shared | threads | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def ends(processes, seconds=120):
    """Wait for processes; return the exit status and what was printed of each."""
    try:
        printed = [each.communicate(timeout=seconds)[0] for each in processes]
    finally:
        for each in processes:
            each.kill()
    return [(each.returncode, text) for each, text in zip(processes, printed, strict=True)]


def what_two_left(script, bench):
    """Run a script as two processes; return the tensors and the numbers that each wrote."""
    done = ends(start(script, bench.folder, bench.model))
    assert [status for status, _ in done] == [0, 0], "\n".join(text for _, text in done)
    return [
        (
            load_file(bench.folder / f"rank-{rank}.safetensors"),
            json.loads((bench.folder / f"rank-{rank}.json").read_text()),
        )
        for rank in (0, 1)
    ]


@contextmanager
def passes_of_two():
    """Let this process cut its groups into the passes that two processes make."""
    cut = GroupScorer.streams
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupScorer, "streams", lambda own, groups, shares: cut(own, groups, 2))
        yield
