import platform
import subprocess
import sys

import pytest

from mulligan.models import load
from mulligan.models.load import load_model

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")

AMID_OTHERS = """
import re, sys
import numpy as np
from pathlib import Path
from mulligan.models.heap import keep_freed_memory, map_large_blocks

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

for name in sys.argv[1:]:
    globals()[name]()
np.ones(16 << 20, np.uint8)  # once such a block was freed, glibc takes the next ones from its heap
blocks = [np.ones(2 << 20, np.uint8) for _ in range(60)]
full = resident()
del blocks[::2]
print(full - resident())
"""

KEPT = """
import re, sys
from pathlib import Path
from mulligan.models.heap import bound_freed_memory, keep_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

keep_freed_memory()
blocks = [b"x" * (1 << 20) for _ in range(200)]
del blocks[::2]
full = resident()
bound_freed_memory(int(sys.argv[1]) << 20)
print(full - resident())
"""

AGAIN_AND_AGAIN = """
import resource, sys
from threading import Thread
from mulligan.models.heap import keep_freed_memory

def work():
    for _ in range(5):
        [b"x" * (size << 20) for size in (1, 5, 20, 30, 30, 30)]

def in_a_thread():
    thread = Thread(target=work)
    thread.start()
    thread.join()

if "keep" in sys.argv:
    keep_freed_memory()
run = in_a_thread if "thread" in sys.argv else work
run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        (["map_large_blocks"], 50, 70),
        (["keep_freed_memory", "map_large_blocks"], 50, 70),
        ([], -1, 20),
    ],
)
def test_blocks_freed_amid_others_go_back_to_the_system(settings, least, most):
    assert least < printed(AMID_OTHERS, *settings) < most  # MiB, of 60


def test_what_is_kept_goes_back_once_it_is_more_than_the_bound():
    assert 90 < printed(KEPT, "50") < 110  # MiB, of 100 in holes
    assert printed(KEPT, "500") < 2


@pytest.mark.parametrize("where", ["main", "thread"])
def test_memory_that_was_freed_costs_no_page_faults_when_it_is_used_again(where):
    assert printed(AGAIN_AND_AGAIN, where) > 50_000  # pages of 4 KiB: 116 MiB, 5 times
    assert printed(AGAIN_AND_AGAIN, where, "keep") < 1_000


@pytest.mark.parametrize(("device", "kept"), [("cpu", 1), ("meta", 0)])
def test_a_model_on_a_cpu_is_loaded_into_memory_that_is_kept(tiny_llama, monkeypatch, device, kept):
    calls = []
    monkeypatch.setattr(load, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(load, "_refuse_broken", lambda *_: None)
    load_model(str(tiny_llama), "float32", device)
    assert len(calls) == kept
