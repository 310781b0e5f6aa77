import socket
import subprocess
import sys

import pytest
import torch

from mulligan.errors import MulliganError
from mulligan.trainer.launch import _take_gpu, seen_to_live


def test_a_process_of_this_machine_is_seen_to_live_until_it_ends():
    here = socket.gethostname()
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert seen_to_live(process.pid, here)
        assert not seen_to_live(process.pid, f"not-{here}")
        process.kill()
        process.stdin.close()
    finally:
        process.kill()
        process.wait()
    assert not seen_to_live(process.pid, here)


def test_each_process_takes_the_gpu_of_its_number_and_one_too_many_is_told(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    _take_gpu(0)
    _take_gpu(1)
    assert taken == [0, 1]
    with pytest.raises(MulliganError, match=r"Process 3 .*there are 2.*CUDA_VISIBLE_DEVICES="):
        _take_gpu(2)
