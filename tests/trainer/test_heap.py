import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import re, sys
import numpy as np
from pathlib import Path
from mulligan.trainer.heap import map_large_blocks

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

if sys.argv[1] == "mapped":
    map_large_blocks()
np.ones(16 << 20, np.uint8)  # once such a block was freed, glibc takes the next ones from its heap
blocks = [np.ones(2 << 20, np.uint8) for _ in range(60)]
full = resident()
del blocks[::2]
print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
@pytest.mark.parametrize(("how", "least", "most"), [("mapped", 50, 70), ("heap", -1, 20)])
def test_blocks_freed_amid_others_go_back_to_the_system(how, least, most):
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE, how], capture_output=True, text=True, check=True
    )
    assert least < float(done.stdout) < most  # MiB, of 60
