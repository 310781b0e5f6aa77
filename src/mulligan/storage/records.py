"""Files of records: JSON lines that only ever grow.

One line per record, each with its schema version, written by one system call. A record is
acknowledged when ``append`` returns: it has then reached the operating system and survives the
death of the process (SIGKILL included). ``sync`` makes it survive a power cut too.

A line that a kill cut short was never acknowledged: it is left out when the file is opened, said
once, and cut off before the next record is written. Opening and reading change nothing on the
disk, so that a run can be read while it is being written; only who appends writes an index.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Set
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from mulligan.errors import MulliganError
from mulligan.storage.atomic import disk_errors, sync_folder
from mulligan.storage.line_index import LineIndex, hash_key
from mulligan.storage.lines import lines_backwards

SCHEMA = 1
"""Version of the line format; raised whenever older code would misread a line."""

_BLOCK = 2**17

R = TypeVar("R")
log = logging.getLogger("mulligan")


def encode(record: Any) -> bytes:
    """Return a record's whole line: strict JSON, the schema version first, a newline last.

    Text that is not Unicode (half a surrogate pair, as a broken server may send) gets a question
    mark in its place.
    """
    try:
        body = pydantic_core.to_json(record, inf_nan_mode="strings")
    except pydantic_core.PydanticSerializationError:
        text = json.dumps(pydantic_core.to_jsonable_python(record), ensure_ascii=False)
        repaired = pydantic_core.from_json(text.encode("utf-8", "replace"))
        body = pydantic_core.to_json(repaired, inf_nan_mode="strings")
    return b'{"schema":%d,%b\n' % (SCHEMA, body[1:])


def decode(line: bytes, adapter: TypeAdapter[R], where: str) -> R:
    """Return the record of a line.

    Raises:
        MulliganError: it is not such a record, or of a newer format; ``where`` names it.
    """
    try:
        fields = pydantic_core.from_json(line)
        schema = fields.pop("schema", None) if isinstance(fields, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise MulliganError(
                f"{where}: format {schema} was written by a newer Mulligan; this one reads up to "
                f"format {SCHEMA}. Install that version or a later one to go on with this run."
            )
        if not isinstance(schema, int) or schema < 1:
            raise ValueError('expected a JSON object with a "schema" number')
        return adapter.validate_python(fields)
    except (ValueError, ValidationError) as error:
        raise MulliganError(
            f"{where} is not a record that can be read: {_first_line(error)}. "
            "Fix or remove that line."
        ) from error


def newest_records(path: Path, record_type: type[R], count: int) -> list[R]:
    """Return the last records of a file, in order; nothing before them is read.

    Raises:
        MulliganError: one of them cannot be read.
    """
    adapter = TypeAdapter(record_type)
    lines = list(islice(lines_backwards(path), count))
    return [decode(line, adapter, f"{path}, byte {begin}") for begin, line in reversed(lines)]


def find_records(
    path: Path, record_type: type[R], key: Callable[[R], str], wanted: Set[str]
) -> dict[str, R]:
    """Return the records with the wanted ids, by id; lines that hold no such id are not decoded.

    Raises:
        MulliganError: a line that holds one cannot be read.
    """
    adapter, found = TypeAdapter(record_type), {}
    marks = [pydantic_core.to_json(each) for each in wanted]
    if not path.exists():
        return {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and any(mark in line for mark in marks):
                record = decode(line, adapter, f"{path}, line {number}")
                if key(record) in wanted:
                    found[key(record)] = record
            if len(found) == len(wanted):
                break
    return found


class RecordLog(Generic[R]):
    """The records of one file, each with an id of its own.

    Memory stays constant in the number of records but for 8 bytes each to tell ids apart, and
    those only once something is appended or looked up. Use as a context manager, or ``close`` it.
    """

    def __init__(self, path: Path, record_type: type[R], key: Callable[[R], str]) -> None:
        """Open the file's records; an absent file has none.

        Args:
            path: the file of JSON lines.
            record_type: a dataclass, or anything else that pydantic reads from a JSON object.
            key: gives a record's id. A record whose id is there already is not written again.

        Raises:
            MulliganError: a line that is not such a record, or an id that occurs twice.
        """
        self.path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(record_type)
        self._key = key
        self._index = LineIndex(path.with_name(f".{path.name}.index"))
        self._reader: int | None = None
        self._writer: int | None = None
        self._open()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return hash_key(key) in self._index

    def __getitem__(self, position: int) -> R:
        """Read one record, by its position in the file; nothing else is read."""
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path} has {len(self)} records; there is no number {position}")
        start, end = self._index.span(position)
        assert self._reader is not None
        return self._record(os.pread(self._reader, end - start, start), position)

    def __iter__(self) -> Iterator[R]:
        """Stream the records that are there now, in order."""
        for position, line in zip(range(len(self)), self._lines(0), strict=False):
            yield self._record(line, position)

    def append(self, record: R) -> bool:
        """Write a record, unless its id is there already; return whether it was written.

        Raises:
            MulliganError: the disk is full, read-only or forbidden; every earlier record stays.
        """
        key = hash_key(self._key(record))
        if key in self._index:
            return False
        line = encode(record)
        with disk_errors(self.path):
            if self._writer is None:
                self._writer = self._open_for_writing()
            end = self._end()
            try:
                _write_all(self._writer, line)
            except BaseException:  # full disk or Ctrl-C: no half line may stay before the next one
                os.ftruncate(self._writer, end)
                raise
        self._index.add(end + len(line), key)
        return True

    def sync(self) -> None:
        """Force everything appended to the disk, so that it survives a power cut."""
        if self._writer is not None:
            with disk_errors(self.path):
                os.fsync(self._writer)

    def close(self) -> None:
        """Release the file; closing twice is harmless."""
        for descriptor in (self._reader, self._writer):
            if descriptor is not None:
                os.close(descriptor)
        self._reader = self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _record(self, line: bytes, position: int) -> R:
        return decode(line, self._adapter, f"{self.path}, line {position + 1}")

    def _end(self) -> int:
        return self._index.span(len(self) - 1)[1] if len(self) else 0

    def _open(self) -> None:
        with disk_errors(self.path, "read"):
            if not self.path.exists():
                self._index.clear()
                return
            self._reader = os.open(self.path, os.O_RDONLY)
            if not self._index_fits():
                self._index.clear()
            self._scan()

    def _lines(self, begin: int) -> Iterator[bytes]:
        """Stream the lines from a byte on, of the file that was opened, whatever its name holds.

        The last one may be half a line.
        """
        rest = b""
        while self._reader is not None and (block := os.pread(self._reader, _BLOCK, begin)):
            begin += len(block)
            *whole, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in whole)
        if rest:
            yield rest

    def _index_fits(self) -> bool:
        """Whether the kept index belongs to this file: a few of its lines are looked up."""
        assert self._reader is not None
        if len(self) and self._end() > os.fstat(self._reader).st_size:
            return False
        probes = {*range(0, len(self), len(self) // 8 + 1), len(self) - 1} if len(self) else set()
        try:
            return all(self._index.key(line) == hash_key(self._key(self[line])) for line in probes)
        except MulliganError:
            return False

    def _scan(self) -> None:
        """Index the lines that the index does not know yet."""
        end = self._end()
        for line in self._lines(end):
            if not line.endswith(b"\n"):
                self._say_torn(line)
                break
            end += len(line)
            record_id = self._key(self._record(line, len(self)))
            key = hash_key(record_id)
            if key in self._index:
                raise MulliganError(
                    f"{self.path}, line {len(self) + 1}: the id {record_id!r} occurs a second "
                    "time. Ids must be unique: remove one of the two lines."
                )
            self._index.add(end, key)

    def _say_torn(self, line: bytes) -> None:
        log.warning(
            "%s ends in half a line of %d bytes, cut short by a crash or still being written; "
            "it is left out. The %d whole records before it stay.",
            self.path,
            len(line),
            len(self),
        )

    def _open_for_writing(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        writer = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.ftruncate(writer, self._end())
        if self._reader is None:
            self._reader = os.open(self.path, os.O_RDONLY)
        if is_new:
            sync_folder(self.path.parent)
        self._index.begin_writing()
        return writer


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).partition("\n")[0]


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
