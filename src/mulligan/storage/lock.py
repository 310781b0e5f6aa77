"""One process per run folder."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mulligan.errors import MulliganError
from mulligan.storage.atomic import disk_errors, remove_leftovers

NAME = ".lock"
"""The lock's file in a run folder; empty but for the holder's process id while it is held."""

_ONE_LOOK = 0.05
"""Seconds, far more than `holder` takes."""

_held: set[int] = set()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder while the block runs; the folder is made where it is missing.

    What killed processes left unfinished directly in it is removed first.

    The operating system keeps the lock (``flock``) and drops it when the process dies, however
    it dies: a dead process never blocks its successor.

    Raises:
        MulliganError: another process holds the folder, or it cannot be written.
    """
    with _held_by_us(folder / NAME, folder, "choose another run folder"):
        remove_leftovers(folder)
        yield


@contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Hold a file while the block runs, by a lock beside it; the file itself need not be there.

    Raises:
        MulliganError: another process holds it, or its folder cannot be written.
    """
    with _held_by_us(path.with_name(f".{path.name}{NAME}"), path, "name another file"):
        yield


@contextmanager
def _held_by_us(lock: Path, thing: Path, instead: str) -> Iterator[None]:
    """Hold a lock; an error speaks of what it is for, and of what to do instead of waiting."""
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    try:
        _take(descriptor, thing, instead)
        try:
            yield
        finally:
            _write_owner(descriptor, "")
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def holder(folder: Path) -> int | None:
    """Return the id of the process that holds a run folder, or None where none does.

    Only reads, so that it also works on another user's folder.
    """
    try:
        with (folder / NAME).open("rb") as file:
            text = file.read(32).decode("ascii", "replace").strip()
            if not text.isdigit():
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(text)
    except OSError:
        return None
    return None


def _take(descriptor: int, thing: Path, instead: str) -> None:
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise MulliganError(
                f"{thing} cannot be locked ({error.strerror}), so two processes could write to "
                "it at once. Choose a folder on a file system with locks, such as a local disk."
            ) from error
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise MulliganError(
            f"{thing} is in use by another process (pid {pid}). Wait until it has ended, or "
            f"{instead}."
        ) from error
    _write_owner(descriptor, f"{os.getpid()}\n")


def _lock(descriptor: int) -> None:
    """Take the lock; try twice, since a `holder` that looks for one moment is in the way."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_ONE_LOOK)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_owner(descriptor: int, text: str) -> None:
    """Write the holder's id, as a courtesy: the lock must hold even when the disk is full."""
    if descriptor in _held:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)


def _let_go_in_child() -> None:
    """Close the copies of our locks in a forked child: it must not keep them past our death."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
