"""Rows of a data set: from a JSON, JSON lines or Parquet file, or from the Hub.

Every row knows where it came from, so that whoever refuses one can name it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mulligan.errors import MulliganError, nearest

SUFFIXES = (".json", ".jsonl", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set."""

    where: str
    """Its source and place, for messages: ``problems.jsonl, line 3``."""
    values: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """Return a field.

        Raises:
            MulliganError: if the row has no such field.
        """
        if name not in self.values:
            raise MulliganError(
                f"{self.where}: the row has no field {name!r}; {nearest(name, self.values)}"
                if self.values
                else f"{self.where}: the row is empty; it needs a field {name!r}"
            )
        return self.values[name]

    def refuse(self, name: str, expected: str) -> MulliganError:
        """Return the error that says what a field should have been and what came."""
        came = repr(self.values.get(name))
        came = came if len(came) <= 80 else f"{came[:80]}..."
        return MulliganError(f"{self.where}: {name!r} should be {expected}, but is {came}")


def read_rows(source: str, split: str = "train") -> Iterator[Row]:
    """Yield the rows of a data set, in its order.

    Args:
        source: a path that ends in .json (a list, or one object per line), .jsonl or .parquet,
            or a Hub id such as ``Jiayi-Pan/Countdown-Tasks-3to4``.
        split: which split of a Hub data set to read; files have none.

    Raises:
        MulliganError: if the source cannot be found or read, or a row is not an object.
    """
    path = Path(source).expanduser()
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise MulliganError(f"no such file: {source!r}; give the path of a data set's file")
        return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    if path.exists() or not _HUB_ID.fullmatch(source):
        raise MulliganError(
            f"cannot read rows from {source!r}; expected a file that ends in "
            f"{', '.join(SUFFIXES)}, or a Hub id such as 'owner/name'"
        )
    return _hub_rows(source, split)


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if _first_character(path) == "[":
                for index, value in enumerate(_parse_json(file.read(), str(path))):
                    yield _row(f"{path}, row {index + 1}", value)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield _row(where, _parse_json(line, where))
    except (OSError, UnicodeDecodeError) as error:
        raise MulliganError(f"cannot read {path}: {error}") from error


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        return next((line.lstrip()[0] for line in file if line.strip()), "")


def _parse_json(text: str, where: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise MulliganError(f"{where}: not valid JSON ({error}); fix or remove it") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            index = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    index += 1
                    yield _row(f"{path}, row {index}", values)
    except (OSError, pyarrow.ArrowException) as error:
        raise MulliganError(f"cannot read {path} as Parquet: {error}") from error


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the Hub fails in many ways, and all of them are the user's to fix
        raise MulliganError(
            f"cannot load {name!r} (split {split!r}) from the Hub: {error}; check the name and "
            "the network, or download the data set and give the path of its file"
        ) from error
    for index, values in enumerate(rows):
        yield _row(f"{name}, row {index + 1}", values)


def _row(where: str, values: Any) -> Row:
    if not isinstance(values, Mapping):
        raise MulliganError(
            f"{where}: a row should be an object with named fields, but is {type(values).__name__}"
        )
    return Row(where, values)
