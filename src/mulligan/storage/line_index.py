"""Where each line of a file of records ends, and which ids it holds, in 16 bytes per record.

The index is derived: it is rebuilt from the records whenever it is missing or does not fit. Short
files have none on the disk; long ones keep it in a hidden file beside them, mapped, not read. Only
who writes records writes an index.
"""

import os
from array import array
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mulligan.errors import MulliganError
from mulligan.storage.atomic import write_atomically

SPILL_EVERY = 16_384
"""New entries held in memory before a writer moves them to the index file; a store that is opened
scans at most as many lines."""

_MAGIC = b"mulligan index 1"
_ENTRY = np.dtype([("end", "<u8"), ("key", "<u8")])


def hash_key(key: str) -> int:
    """Return 64 bits that stand for an id.

    Two of a million ids collide with a probability of 3e-8 (n² / 2⁶⁵).
    """
    digest = blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class LineIndex:
    """The end (in bytes) and the hashed id of every line, in order."""

    def __init__(self, path: Path) -> None:
        """Open the index kept in ``path``; an absent or foreign file counts as empty."""
        self._path = path
        self._writes = False
        self._stored = _load(path)
        self._in_file = len(self._stored)
        self._ends = array("Q")
        self._keys = array("Q")
        self._recent: set[int] = set()
        self._sorted: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self._stored) + len(self._ends)

    def __contains__(self, key: int) -> bool:
        if key in self._recent:
            return True
        if self._sorted is None:
            self._sorted = np.sort(self._stored["key"])
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        return place < len(self._sorted) and int(self._sorted[place]) == key

    def begin_writing(self) -> None:
        """From here on, entries are kept in the file: this process writes the records."""
        self._writes = True
        if len(self) - self._in_file >= SPILL_EVERY:
            self._spill()

    def add(self, end: int, key: int) -> None:
        """Append the entry of one line."""
        self._ends.append(end)
        self._keys.append(key)
        self._recent.add(key)
        if len(self._ends) >= SPILL_EVERY:
            self._spill()

    def clear(self) -> None:
        """Forget every entry."""
        self._replace(np.empty(0, _ENTRY))
        self._in_file = 0

    def span(self, line: int) -> tuple[int, int]:
        """Return where a line begins and ends, in bytes; lines count from 0."""
        return (self._end(line - 1) if line else 0), self._end(line)

    def key(self, line: int) -> int:
        """Return the hashed id of a line."""
        stored = len(self._stored)
        return int(self._stored["key"][line] if line < stored else self._keys[line - stored])

    def _end(self, line: int) -> int:
        stored = len(self._stored)
        return int(self._stored["end"][line] if line < stored else self._ends[line - stored])

    def _spill(self) -> None:
        entries = np.empty(len(self), _ENTRY)
        entries["end"] = np.concatenate([self._stored["end"], np.asarray(self._ends)])
        entries["key"] = np.concatenate([self._stored["key"], np.asarray(self._keys)])
        if not self._writes:
            self._replace(entries)
            return
        try:
            write_atomically(self._path, _MAGIC + entries.tobytes())
        except MulliganError:  # a full disk: do without the file
            self._replace(entries)
        else:
            self._replace(_load(self._path))
            self._in_file = len(self._stored)

    def _replace(self, entries: NDArray[np.void]) -> None:
        self._stored = entries
        self._ends, self._keys = array("Q"), array("Q")
        self._recent.clear()
        self._sorted = None


def _load(path: Path) -> NDArray[np.void]:
    """Map an index file; a writer may put another in its place meanwhile, so it is opened once."""
    if not path.is_file():
        return np.empty(0, _ENTRY)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size - len(_MAGIC)
        known = file.read(len(_MAGIC)) == _MAGIC
        if not known or size <= 0 or size % _ENTRY.itemsize:
            return np.empty(0, _ENTRY)
        shape = (size // _ENTRY.itemsize,)
        return np.memmap(file, _ENTRY, mode="r", offset=len(_MAGIC), shape=shape)
