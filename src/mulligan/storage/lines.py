"""Lines of a growing file, counted and read from its end: no index, constant memory.

Readers of a run that is being written use these: they open the file to read, keep one block of it
in memory, and leave out a last line that is not whole yet.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BLOCK = 2**20


def count_lines(path: Path) -> int:
    """Count the whole lines of a file; an absent file has none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def lines_backwards(
    path: Path, before: int | None = None, block: int = _BLOCK
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the whole lines that end before a place, the last one first.

    Args:
        path: the file; an absent one has no lines.
        before: a place in bytes that is the beginning of a line; None is the end of the file.
        block: bytes read at a time. A line may be longer.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        begin = size if before is None else min(before, size)
        rest, torn = b"", True  # what is read and not yielded; whether it ends in half a line
        while begin > 0:
            begin, end = max(0, begin - block), begin
            rest = _read(file, begin, end) + rest
            if torn and (newline := rest.rfind(b"\n")) >= 0:
                rest, torn = rest[: newline + 1], False
            if torn:
                continue
            head = 0 if begin == 0 else rest.find(b"\n") + 1  # it begins further up
            yield from _reversed(rest[head:], begin + head)
            rest = rest[:head]


def _reversed(lines: bytes, begin: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a block that ends in a newline, with their offsets, the last one first."""
    end = begin + len(lines)
    for line in reversed(lines.split(b"\n")[:-1]):
        end -= len(line) + 1
        yield end, line


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)
