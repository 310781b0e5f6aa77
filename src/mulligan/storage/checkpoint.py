"""Checkpoints: complete or absent, never half.

A checkpoint is a folder ``step-N`` with ``manifest.json``, written last, that holds the size and
the SHA-256 of every file. Nothing in it is a pickle, and one that holds a pickle is refused.
"""

import hashlib
import json
import logging
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mulligan.errors import MulliganError
from mulligan.storage.atomic import (
    disk_errors,
    inside,
    remove_folder,
    remove_leftovers,
    whole_folder,
    write_atomically,
)

SCHEMA = 1
"""Version of the checkpoint format; raised whenever older code would misread a checkpoint."""

MANIFEST = "manifest.json"
TRAINING_STATE = "training_state"
"""Name, less the ending, of the files that training is resumed from, beside those of the model."""
_BEST = "best.json"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})

log = logging.getLogger("mulligan")


class DamagedCheckpointError(MulliganError):
    """A checkpoint that does not agree with its manifest, or has none."""


class Checkpoints:
    """The checkpoints of one run, in one folder. One process at a time: the run's lock is held."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Manage a folder of checkpoints; it is made by the first save.

        Args:
            folder: the run's ``checkpoints`` folder.
            keep: how many of the newest stay; the best one stays besides.

        Raises:
            MulliganError: ``keep`` is below 1.
        """
        if keep < 1:
            raise MulliganError(f"keep is {keep}, but at least 1 checkpoint has to stay.")
        self.folder = folder
        self.keep = keep
        self._newest = 0
        """The newest step known to be whole."""

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
    ) -> Path:
        """Save the checkpoint of a step, then remove the oldest beyond ``keep``.

        A complete checkpoint of the same step is kept as it is: a resumed run repeats the same
        numbers. A damaged one is replaced.

        Args:
            step: the step it belongs to.
            write: fills the folder it is given.

        Raises:
            MulliganError: the disk is full, read-only or forbidden; earlier checkpoints stay.
        """
        path = self.path(step)
        if not _is_whole(path):
            with whole_folder(path) as partial:
                write(partial)
                _write_manifest(partial, step)
                remove_folder(path)
        self._newest = step
        self._tidy()
        return path

    def newest(self) -> int | None:
        """Return the step of the newest complete checkpoint; None where there is none.

        Damaged ones are named in a warning and skipped. What killed saves left is removed.

        Raises:
            MulliganError: a checkpoint holds a pickle or was made by a newer version.
        """
        for step in sorted(self.steps(), reverse=True):
            try:
                verify(self.path(step))
            except DamagedCheckpointError as error:
                log.warning("%s It is skipped.", error)
            else:
                self._newest = step
                self._tidy()
                return step
        self._newest = 0
        self._tidy()
        return None

    def mark_best(self, step: int) -> None:
        """Say which checkpoint is the best by evaluation: it is never removed.

        The one that was the best until now is removed where it is too old to be kept.

        Raises:
            MulliganError: there is no checkpoint of that step.
        """
        if not self.path(step).is_dir():
            raise MulliganError(f"There is no checkpoint {self.path(step)} to mark as the best.")
        write_atomically(self.folder / _BEST, json.dumps({"step": step}) + "\n")
        self._tidy()

    def best(self) -> int | None:
        """Return the step marked as the best; None where none is marked, or it is gone.

        Raises:
            MulliganError: the mark cannot be read.
        """
        mark = self.folder / _BEST
        if not mark.is_file():
            return None
        try:
            step = operator.index(json.loads(mark.read_bytes())["step"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MulliganError(
                f'{mark} is not of the form {{"step": N}}. Remove or fix it.'
            ) from error
        return step if self.path(step).is_dir() else None

    def keep_best_model(self) -> None:
        """Leave the model of the best checkpoint alone: nothing can be resumed from it.

        Where none is marked as the best, nothing is removed.
        """
        best = self.best()
        if best is None:
            return
        with disk_errors(self.folder):
            for step in self.steps():
                if step != best:
                    remove_folder(self.path(step))
            _forget_training_state(self.path(best))

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of a step is there and agrees with its manifest.

        Raises:
            MulliganError: it holds a pickle or was made by a newer version.
        """
        return _is_whole(self.path(step))

    def steps(self) -> list[int]:
        """Return the steps of which there is a checkpoint, whole or damaged, in order."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(name.group(1)) for name in names if name)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"step-{step}"

    def _tidy(self) -> None:
        """Remove leftovers, and what is older than the newest ``keep`` up to the newest whole one.

        Those of later steps are damaged: they count for nothing, and stay until replaced.
        """
        if not self.folder.is_dir():
            return
        best = self.best()
        older = [self.path(step) for step in self.steps() if step <= self._newest]
        with disk_errors(self.folder):
            remove_leftovers(self.folder)
            for path in older[: -self.keep]:
                if best is None or path != self.path(best):
                    remove_folder(path)


def verify(path: Path) -> None:
    """Check a checkpoint against its manifest, file by file.

    Raises:
        DamagedCheckpointError: a file is missing or differs, or there is no manifest.
        MulliganError: it holds a pickle, was made by a newer version, or names a file outside.
    """
    refuse_pickles(path)
    for name, expected in _read_manifest(path)["files"].items():
        file = inside(path, name)
        if not file.is_file():
            raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {name} is missing.")
        if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
            raise DamagedCheckpointError(
                f"Checkpoint {path} is damaged: {name} is not what was saved."
            )


def _forget_training_state(path: Path) -> None:
    """Remove what training is resumed from; the manifest says so first, for a kill between."""
    manifest = _read_manifest(path)
    files = {k: v for k, v in manifest["files"].items() if not k.startswith(f"{TRAINING_STATE}.")}
    if len(files) < len(manifest["files"]):
        _write(path / MANIFEST, manifest | {"files": files})
    for file in path.glob(f"{TRAINING_STATE}.*"):
        file.unlink()


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except DamagedCheckpointError:
        return False
    return True


def _write_manifest(folder: Path, step: int) -> None:
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = {"schema": SCHEMA, "step": step, "info": {}, "files": files}
    _write(folder / MANIFEST, manifest)


def _write(path: Path, manifest: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(manifest, indent=1, allow_nan=False) + "\n")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        schema = manifest["schema"]
        whole = isinstance(manifest["info"], dict) and all(
            {"size", "sha256"} <= set(entry) for entry in manifest["files"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"Checkpoint {path} is damaged: its {MANIFEST} is missing or cannot be read."
        ) from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise MulliganError(
            f"Checkpoint {path} has format {schema}, made by a newer Mulligan; this one reads up "
            f"to format {SCHEMA}. Install that version or a later one to go on with this run."
        )
    if schema != SCHEMA or not whole:
        raise DamagedCheckpointError(f"Checkpoint {path} is damaged: its {MANIFEST} is not one.")
    return dict(manifest)


def refuse_pickles(path: Path) -> None:
    """Check that a checkpoint holds no pickle.

    Raises:
        MulliganError: it holds one.
    """
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in _PICKLES:
            raise MulliganError(
                f"Checkpoint {path} holds {file.name}, a pickle: loading one can run any program. "
                "It is refused. Mulligan saves safetensors only; remove that file if you did not "
                "put it there."
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
