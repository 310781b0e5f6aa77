"""Files and folders that appear complete or not at all, and disk errors that a user can fix.

Everything is built beside its destination under a hidden name of its own that ends in
``.partial``, forced to the disk, and renamed into place; a kill at any moment leaves the old
content or the new one. Two processes that write the same file never mix: the later one wins.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mulligan.errors import MulliganError

PARTIAL = ".partial"
"""How the names of unfinished files and folders end."""

_REMEDIES = {
    errno.ENOSPC: "the disk is full. Free some space there, then continue with --resume.",
    errno.EDQUOT: "the disk quota is used up. Free some space there, then continue with --resume.",
    errno.EROFS: "the file system is read-only. Choose a folder that can be written.",
    errno.EACCES: "permission denied. Choose a folder of your own, or change its permissions.",
    errno.EPERM: "the operation is not permitted. Choose a folder of your own.",
}


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a whole file: after a crash it has its old content or all of the new one.

    Text is written as UTF-8. Missing parent folders are made.

    Raises:
        MulliganError: the disk is full, read-only or forbidden; the old content is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _claim(path, folder=False)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Build a folder that appears at ``path`` only when the block ends well.

    Yields:
        An empty folder to fill. It is forced to the disk, then renamed to ``path``.

    Raises:
        MulliganError: the disk is full, read-only or forbidden; nothing is left behind.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _claim(path, folder=True)
        try:
            yield partial
            _sync_tree(partial)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder where it exists; it vanishes under its name at once, never by halves."""
    if not path.exists():
        return
    doomed = _partial(path)
    path.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished directly in a folder.

    What a living process is writing stays: its lock says so.
    """
    for leftover in sorted(folder.glob(f".*{PARTIAL}")):
        if leftover.is_symlink():
            leftover.unlink()
            continue
        with suppress(FileNotFoundError), _locked(leftover) as is_dead:
            if is_dead and leftover.is_dir():
                shutil.rmtree(leftover)
            elif is_dead:
                leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name`` where that is in the folder.

    Raises:
        MulliganError: the name is absolute, climbs out with ``..`` or through a link, or is empty.
    """
    path = folder / name
    root = folder.resolve()
    if not name or "\0" in name or root not in path.resolve().parents:
        raise MulliganError(f"The name {name!r} leaves the folder {folder}. It is not followed.")
    return path


@contextmanager
def disk_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn the operating system's refusals inside the block into errors that name a remedy.

    Args:
        path: what the user is told could not be read or written.
        doing: the verb for it.

    Raises:
        MulliganError: from any ``OSError``, also one that safetensors wraps in an error of its own.
    """
    try:
        yield
    except MulliganError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        remedy = _REMEDIES.get(number, f"{os.strerror(number)}. Fix that, then try again.")
        raise MulliganError(f"Cannot {doing} {path}: {remedy}") from error


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    wrapped = re.search(r"\(os error (\d+)\)", str(error))  # as Rust's standard library prints it
    return int(wrapped.group(1)) if wrapped else None


def _claim(path: Path, *, folder: bool) -> tuple[Path, int]:
    """Make an empty file or folder to build ``path`` in, and lock it while its writer lives.

    Returns:
        Where it is, and the open descriptor that holds the lock.
    """
    while True:
        partial = _partial(path)
        if folder:
            partial.mkdir()
            descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        else:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: nobody tidies up there either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if partial.exists():  # else it was tidied away before it was locked
            return partial, descriptor
        os.close(descriptor)


@contextmanager
def _locked(leftover: Path) -> Iterator[bool]:
    """Yield whether no living process writes a file or folder; none begins in the block."""
    descriptor = os.open(leftover, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{PARTIAL}")


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
