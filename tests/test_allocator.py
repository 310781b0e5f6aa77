"""Memory that is freed serves the next allocation."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from mulligan.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
import torch
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill(): torch.ones(100 * 2**20, dtype=torch.uint8)
fill()
before = faults()
for _ in range(4):
    fill()
print(faults() - before)
"""


def faults(way: str) -> int:
    """Page faults of writing 400 MiB, after 100 MiB were freed."""
    command = [sys.executable, "-c", SCRIPT, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_kept_memory_is_not_asked_of_the_kernel_again() -> None:
    assert faults("kept") < 20
    assert faults("returned") > 100, "the test's own premise: 200 at least, in huge pages of 2 MiB"
