"""Makes real faults: processes killed by SIGKILL, full and read-only disks, missing permission."""

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Acknowledge = Callable[[int], None]
NOBODY = 65534


def killed_after(seconds: float, work: Callable[[Acknowledge], None]) -> list[int]:
    """Run ``work`` in a process of its own, kill it, and return what it had acknowledged.

    The clock starts with the first acknowledgement, so that the kill lands in the work.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work_and_leave(lambda: work(lambda number: _tell(writer, number)))
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        first = told.readline()
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        rest = told.read().splitlines()
    os.waitpid(child, 0)
    return [int(line) for line in [first.strip(), *rest] if line]


def as_nobody(work: Callable[[], None]) -> None:
    """Run ``work`` in a process that has no rights, not even root's; its failure fails the test."""
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        _work_and_leave(work)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def in_background(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        _work_and_leave(work)
    return child


def ended(child: int) -> int:
    """Wait for a process from ``in_background``; return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def let_everybody_in(folder: Path) -> None:
    """Open a test's folder, and pytest's own folders above it, to a process without rights."""
    for each in (folder, *folder.parents):
        each.chmod(0o755)
        if each.name.startswith("pytest-of-"):
            return


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a real file system of a given size; the test is skipped where that is not allowed."""
    folder.mkdir()
    options = f"size={size},mode=0777"
    _mount(["-t", "tmpfs", "-o", options, "tmpfs", str(folder)])
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    """Remount a disk made by ``small_disk`` so that nothing on it can change."""
    _mount(["-o", "remount,ro", str(disk)])


def fill(disk: Path, leave: int = 0) -> Path:
    """Write a file until the disk is full but for ``leave`` bytes; return the file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


def _mount(arguments: list[str]) -> None:
    result = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"mounting is not permitted here: {result.stderr.strip()}")


def _tell(writer: int, number: int) -> None:
    os.write(writer, b"%d\n" % number)


def _work_and_leave(work: Callable[[], None]) -> None:
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
