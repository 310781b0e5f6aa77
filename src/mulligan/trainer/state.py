"""What a training run needs to go on from a checkpoint, to the last bit.

Beside the weights and tokenizer, which ``from_pretrained`` loads, a checkpoint holds the state of
the optimiser and its schedule, the random states, and how far training is.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedTokenizerBase

from mulligan.errors import MulliganError
from mulligan.models.policies import Policy
from mulligan.models.shards import cut_like
from mulligan.storage.checkpoint import refuse_pickles
from mulligan.trainer.average import WeightAverage

TENSORS = "training_state.safetensors"
NUMBERS = "training_state.json"
_WEIGHTS = "weights."


@dataclass(frozen=True, slots=True)
class TrainingState:
    """How far training is."""

    step: int = 0
    """Steps that are done."""
    skipped: int = 0
    """Steps whose update was left out, because loss or gradient was not finite."""

    def after(self, step: int, skipped: bool) -> "TrainingState":
        """Return the state after another step."""
        return TrainingState(step, self.skipped + skipped)


def trained_tensors(
    policy: Policy, optimizer: Optimizer, average: WeightAverage | None = None
) -> dict[str, torch.Tensor]:
    """Return all tensors of a training that processes may hold in shards, by name."""
    weights = {f"{_WEIGHTS}{name}": tensor for name, tensor in policy.tensors().items()}
    means = average.tensors() if average else {}
    return {**weights, **_optimizer_tensors(optimizer.state_dict()), **means}


def save_training_state(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    state: TrainingState,
) -> None:
    """Write weights, tokenizer, optimiser, schedule, mean and random states into an empty folder.

    The folder then loads with ``from_pretrained``, and ``load_training_state`` restores every bit.

    Args:
        folder: gets the files.
        tensors: those of ``trained_tensors``, whole.
        policy: writes its own.
        tokenizer: of the policy.
        optimizer: whose numbers are written.
        scheduler: of the learning rate.
        state: how far training is.

    Raises:
        TypeError: an optimiser or schedule keeps something that is neither tensor nor number.
    """
    weights = {
        name.removeprefix(_WEIGHTS): tensor
        for name, tensor in tensors.items()
        if name.startswith(_WEIGHTS)
    }
    policy.save(folder, weights)
    tokenizer.save_pretrained(folder)
    others = {
        name: tensor.contiguous()
        for name, tensor in tensors.items()
        if not name.startswith(_WEIGHTS)
    }
    save_file({**others, **_random_tensors()}, folder / TENSORS)
    numbers = {
        "step": state.step,
        "extra": {"skipped": state.skipped},
        "optimizer": _optimizer_numbers(optimizer.state_dict()),
        "scheduler": scheduler.state_dict(),
        "python_random": random.getstate(),
        "numpy_random": _numpy_random(),
    }
    (folder / NUMBERS).write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def load_training_state(
    folder: Path,
    *,
    policy: Policy,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    average: WeightAverage | None = None,
) -> TrainingState:
    """Restore what ``save_training_state`` wrote, bit for bit, into objects of the same make.

    The random states of torch (every device), numpy and Python are restored too.

    Raises:
        MulliganError: the checkpoint holds a pickle, lacks a file, or is of another model.
    """
    refuse_pickles(folder)
    try:
        policy.load(folder)
        tensors = load_file(folder / TENSORS)
        numbers = json.loads((folder / NUMBERS).read_bytes())
        optimizer.load_state_dict(_unflatten_optimizer(tensors, numbers["optimizer"], optimizer))
        scheduler.load_state_dict(numbers["scheduler"])
        if average:
            average.restore(tensors)
        _restore_random(tensors, numbers)
        return TrainingState(int(numbers["step"]), int(numbers["extra"]["skipped"]))
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
            f"{' '.join(str(error).split())} Resume with the recipe that it was made with."
        ) from error


def _optimizer_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of an optimiser's state by name."""
    tensors: dict[str, torch.Tensor] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            elif isinstance(value, Mapping):  # bitsandbytes keeps its quantised averages together
                for inner, tensor in value.items():  # and shares tables, which no file may
                    tensors[f"optimizer.{index}.{name}.{inner}"] = tensor.detach().clone()
    return tensors


def _optimizer_numbers(state: dict[str, Any]) -> dict[str, Any]:
    """Return the plain JSON values of an optimiser's state."""
    numbers = {
        str(index): {
            name: value
            for name, value in slots.items()
            if not isinstance(value, torch.Tensor | Mapping)
        }
        for index, slots in state["state"].items()
    }
    return {"state": numbers, "param_groups": state["param_groups"]}


def _unflatten_optimizer(
    tensors: Mapping[str, torch.Tensor], slots: Mapping[str, Any], optimizer: Optimizer
) -> dict[str, Any]:
    """Put tensors and plain values together again, in the form of this optimiser's own state."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in slots["state"].items()
    }
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition(".")
        index, _, name = rest.partition(".")
        name, _, inner = name.partition(".")
        if kind != "optimizer":
            continue
        if inner:
            state[int(index)].setdefault(name, {})[inner] = tensor
        elif tensor.shape == trained[int(index)].shape:  # an average, cut as its weight is
            state[int(index)][name] = cut_like(tensor, trained[int(index)])
        else:
            state[int(index)][name] = tensor
    groups = [
        {key: _like(value, fresh.get(key)) for key, value in saved.items()}
        for saved, fresh in zip(slots["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {"state": state, "param_groups": groups}


def _like(value: Any, fresh: Any) -> Any:
    """Return a saved setting as the optimiser keeps it: JSON knows no tuples, such as betas."""
    return tuple(value) if isinstance(fresh, tuple) else value


def _random_tensors() -> dict[str, torch.Tensor]:
    tensors = {"random.torch": torch.get_rng_state()}
    for device, state in enumerate(torch.cuda.get_rng_state_all()):
        tensors[f"random.cuda.{device}"] = state
    return tensors


def _numpy_random() -> dict[str, Any]:
    state = np.random.get_state(legacy=False)
    internal = {**state["state"], "key": state["state"]["key"].tolist()}
    return {**state, "state": internal}


def _restore_random(tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["random.torch"])
    for device in range(torch.cuda.device_count()):
        if f"random.cuda.{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{device}"], device)
    np.random.set_state(numbers["numpy_random"])
    version, internal, gauss = numbers["python_random"]
    random.setstate((version, tuple(internal), gauss))
