"""Checkpoints: complete or absent, never half; and everything a training run needs to go on.

A checkpoint is a folder ``step-N`` that ``from_pretrained`` loads, with the optimiser, scheduler
and random states beside the weights, and ``manifest.json``, written last, with the size and the
SHA-256 of every file. Nothing in it is a pickle, and one that holds a pickle is refused.
"""

import hashlib
import json
import logging
import operator
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mulligan.errors import MulliganError
from mulligan.storage.atomic import (
    disk_errors,
    inside,
    remove_folder,
    remove_leftovers,
    whole_folder,
    write_atomically,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCHEMA = 1
"""Version of the checkpoint format; raised whenever older code would misread a checkpoint."""

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
TENSORS = "training_state.safetensors"
NUMBERS = "training_state.json"
_BEST = "best.json"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})

log = logging.getLogger("mulligan")


class DamagedCheckpointError(MulliganError):
    """A checkpoint that does not agree with its manifest, or has none."""


class Checkpoints:
    """The checkpoints of one run, in one folder. One process at a time: the run's lock is held."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Look after a folder of checkpoints; it is made by the first save.

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
        info: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the checkpoint of a step, then remove the oldest beyond ``keep``.

        A complete checkpoint of the same step is kept as it is: a resumed run repeats the same
        numbers. A damaged one is replaced.

        Args:
            step: the step it belongs to.
            write: fills the folder it is given.
            info: plain JSON values that the manifest keeps under ``info``.

        Raises:
            MulliganError: the disk is full, read-only or not ours; earlier checkpoints stay.
        """
        path = self.path(step)
        if not _is_whole(path):
            with whole_folder(path) as partial:
                write(partial)
                _write_manifest(partial, step, info or {})
                remove_folder(path)
        self._newest = step
        self._tidy()
        return path

    def newest(self) -> int | None:
        """Return the step of the newest complete checkpoint; None where there is none.

        Damaged ones are named in a warning and passed over. What killed saves left is removed.

        Raises:
            MulliganError: a checkpoint holds a pickle or was made by a newer version.
        """
        for step in sorted(self.steps(), reverse=True):
            try:
                verify(self.path(step))
            except DamagedCheckpointError as error:
                log.warning("%s It is passed over.", error)
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

    def best(self) -> Path | None:
        """Return the checkpoint marked as the best; None where none is marked, or it is gone.

        Raises:
            MulliganError: the mark cannot be read.
        """
        mark = self.folder / _BEST
        if not mark.is_file():
            return None
        try:
            path = self.path(operator.index(json.loads(mark.read_bytes())["step"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MulliganError(
                f'{mark} is not of the form {{"step": N}}. Remove it, or mend it.'
            ) from error
        return path if path.is_dir() else None

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
                if path != best:
                    remove_folder(path)


def verify(path: Path) -> None:
    """Check a checkpoint against its manifest, file by file.

    Raises:
        DamagedCheckpointError: a file is missing or differs, or there is no manifest.
        MulliganError: it holds a pickle, was made by a newer version, or names a file outside.
    """
    _refuse_pickles(path)
    for name, expected in _read_manifest(path)["files"].items():
        file = inside(path, name)
        if not file.is_file():
            raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {name} is missing.")
        if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
            raise DamagedCheckpointError(
                f"Checkpoint {path} is damaged: {name} is not what was saved."
            )


def read_info(path: Path) -> Mapping[str, Any]:
    """Return what the manifest of a checkpoint keeps under ``info``.

    Raises:
        MulliganError: the manifest is missing, damaged, or of a newer version.
    """
    info: Mapping[str, Any] = _read_manifest(path)["info"]
    return info


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except DamagedCheckpointError:
        return False
    return True


def _write_manifest(folder: Path, step: int, info: Mapping[str, Any]) -> None:
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = {"schema": SCHEMA, "step": step, "info": info, "files": files}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")


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
        raise DamagedCheckpointError(f"Checkpoint {path} is damaged: its {MANIFEST} is not ours.")
    return dict(manifest)


def _refuse_pickles(path: Path) -> None:
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


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a restored run goes on."""

    step: int
    """Steps that were done when it was saved."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the training loop saved besides, as plain JSON values."""


def save_training_state(
    folder: Path,
    *,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    optimizer: "torch.optim.Optimizer",
    scheduler: "torch.optim.lr_scheduler.LRScheduler",
    step: int,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write weights, tokenizer, optimiser, scheduler and random states into an empty folder.

    The folder then loads with ``from_pretrained``, and ``load_training_state`` restores every
    bit. ``extra`` holds plain JSON values of the training loop's own.

    Raises:
        TypeError: an optimiser or scheduler keeps something that is neither tensor nor number.
    """
    from safetensors.torch import save_file

    # One file, so that it is restored in one go.
    model.save_pretrained(folder, max_shard_size="1000TB")
    tokenizer.save_pretrained(folder)
    tensors, slots = _flatten_optimizer(optimizer.state_dict())
    save_file({**tensors, **_random_tensors()}, folder / TENSORS)
    numbers = {
        "step": step,
        "extra": dict(extra or {}),
        "optimizer": slots,
        "scheduler": scheduler.state_dict(),
        "python_random": random.getstate(),
        "numpy_random": _numpy_random(),
    }
    (folder / NUMBERS).write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def load_training_state(
    folder: Path,
    *,
    model: "PreTrainedModel",
    optimizer: "torch.optim.Optimizer",
    scheduler: "torch.optim.lr_scheduler.LRScheduler",
) -> TrainingState:
    """Restore what ``save_training_state`` wrote, bit for bit, into objects of the same make.

    The random states of torch (every device), numpy and Python are restored too.

    Raises:
        MulliganError: the checkpoint holds a pickle, lacks a file, or is of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    _refuse_pickles(folder)
    try:
        load_model(model, folder / WEIGHTS)
        tensors = load_file(folder / TENSORS)
        numbers = json.loads((folder / NUMBERS).read_bytes())
        optimizer.load_state_dict(_unflatten_optimizer(tensors, numbers["optimizer"], optimizer))
        scheduler.load_state_dict(numbers["scheduler"])
        _restore_random(tensors, numbers)
        return TrainingState(numbers["step"], numbers["extra"])
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise MulliganError(
            f"Checkpoint {folder} does not fit this model and its settings: "
            f"{' '.join(str(error).split())} Resume with "
            "the recipe that it was made with."
        ) from error


def _flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an optimiser's state into named tensors and plain JSON values."""
    import torch

    tensors: dict[str, Any] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        numbers[str(index)] = {}
        for name, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().contiguous()
            else:
                numbers[str(index)][name] = value
    return tensors, {"state": numbers, "param_groups": state["param_groups"]}


def _unflatten_optimizer(
    tensors: Mapping[str, Any], slots: Mapping[str, Any], optimizer: "torch.optim.Optimizer"
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in slots["state"].items()
    }
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition(".")
        index, _, name = rest.partition(".")
        if kind == "optimizer":
            state[int(index)][name] = tensor
    groups = [
        # JSON knows no tuples: the new optimiser says where one belongs, such as AdamW's betas.
        {key: tuple(value) if isinstance(fresh.get(key), tuple) else value for key, value in saved}
        for saved, fresh in zip(
            (group.items() for group in slots["param_groups"]), optimizer.param_groups, strict=True
        )
    ]
    return {"state": state, "param_groups": groups}


def _random_tensors() -> dict[str, Any]:
    import torch

    tensors = {"random.torch": torch.get_rng_state()}
    for device, state in enumerate(torch.cuda.get_rng_state_all()):
        tensors[f"random.cuda.{device}"] = state
    return tensors


def _numpy_random() -> dict[str, Any]:
    state = np.random.get_state(legacy=False)
    internal = {**state["state"], "key": state["state"]["key"].tolist()}
    return {**state, "state": internal}


def _restore_random(tensors: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    import torch

    torch.set_rng_state(tensors["random.torch"])
    for device in range(torch.cuda.device_count()):
        if f"random.cuda.{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{device}"], device)
    np.random.set_state(numbers["numpy_random"])
    version, internal, gauss = numbers["python_random"]
    random.setstate((version, tuple(internal), gauss))
