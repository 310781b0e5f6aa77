"""What this machine can do: the limits that results are compared with."""

import ctypes
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices that are multiplied."""
_COPIED = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}
"""Bytes that are copied."""
_REPEATS = 7


@dataclass(frozen=True, slots=True)
class Machine:
    """The measured limits of one device in one number type."""

    device: str
    """What it is, in words."""
    dtype: str
    matmul_flops: float
    """Floating-point operations a second of a large square matrix product."""
    copy_bandwidth: float
    """Bytes a second, read and written, of a large copy."""

    def __str__(self) -> str:
        return (
            f"{self.device}: {self.matmul_flops / 1e9:,.0f} GFLOP/s in {self.dtype}, "
            f"copies {self.copy_bandwidth / 1e9:,.1f} GB/s"
        )


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure the limits; the best of a few repeats, since a limit is what can be reached."""
    side = _SIDE.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(_COPIED.get(device.type, 2**28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min(times(lambda: left @ right, device))
    copying = min(times(lambda: target.copy_(source), device))
    name = str(dtype).removeprefix("torch.")
    flops, bandwidth = 2 * side**3 / product, 2 * source.nbytes / copying
    return Machine(describe(device), name, flops, bandwidth)


def describe(device: torch.device) -> str:
    """Name the device and how much of it is used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} cores"


def times(work: Callable[[], object], device: torch.device, repeats: int = _REPEATS) -> list[float]:
    """Return the seconds that each repeat took, after one that is not counted."""
    work()
    return [seconds(work, device) for _ in range(repeats)]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that the work took, until the device has finished it."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def weighed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return the seconds of some work, and the most bytes it held beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        taken = seconds(work, device)
        return taken, float(torch.cuda.max_memory_allocated(device) - before)
    trim = ctypes.CDLL(None).malloc_trim
    trim(0)  # memory that is kept from earlier work would hide what this needs
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status("VmRSS")
    taken = seconds(work, device)
    peak = _status("VmHWM") - before
    trim(0)  # the other sides need it
    return taken, float(peak)


def _status(field: str) -> int:
    """Return a line of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}")
