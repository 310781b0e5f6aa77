"""Starts a script as several processes, as torchrun does, without its supervision."""

import os
import socket
import subprocess
import sys
from pathlib import Path

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
