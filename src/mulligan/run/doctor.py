"""What this machine has and lacks for a run, and the command that installs what is missing."""

import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mulligan import __version__
from mulligan.errors import MulliganError
from mulligan.models.load import DEFAULT_MODEL, INSTALL_DEFAULT_MODEL, cache_folder, packaged_gguf
from mulligan.models.memory import GIB, machine_memory

Level = Literal["ok", "note", "missing"]

NEEDED = ("torch", "transformers", "accelerate", "safetensors", "pydantic")
"""Distributions whose versions are shown; without them nothing runs."""

OPTIONAL = {
    "vllm": "generation on a GPU by vLLM",
    "peft": "LoRA",
    "bitsandbytes": "train.optimizer=adamw_8bit",
    "reasoning-gym": "tasks named reasoning_gym:NAME",
    "jsonschema": "the task json_schema",
    "duckdb": "the task sql on DuckDB files",
    "bfcl-eval": "the task bfcl",
    "fastapi": "mulligan watch and mulligan serve",
    "uvicorn": "mulligan watch and mulligan serve",
    "lm-eval": "mulligan forget --tasks",
    "tensorboard": "track: [tensorboard]",
    "wandb": "track: [wandb]",
    "trackio": "track: [trackio]",
}
"""Distributions that only some commands need, and what they are for."""

_INSTALLED_BY = {
    "fastapi": "fastapi uvicorn",
    "lm-eval": "'lm-eval[hf]'",
    "bfcl-eval": "--no-deps bfcl-eval==2026.3.23",
}
"""Where something other than the distribution itself has to be installed."""

_LEAST_MEMORY_GIB = 6.0
"""What a run of the default model takes at most, with room for the system."""
_LEAST_DISK_GIB = 5.0
_SECONDS = 3.0
"""How long a server may take to answer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    level: Level
    """``missing``: the demo cannot run; ``note``: only some commands are affected."""
    name: str
    says: str
    remedy: str = ""
    """The command, or the step, that fixes it."""


def examine(folder: Path, server: str | None = None) -> list[Check]:
    """Look at everything a run needs.

    Args:
        folder: where runs will be written; its disk is checked.
        server: the base URL of a server that generates, such as http://localhost:8000/v1.
    """
    checks = [*_versions(), *_devices(), _memory(), _disk(folder), _default_model(), _hub()]
    if server is not None:
        checks.append(_server(server))
    return [*checks, *_optional()]


def _versions() -> Iterator[Check]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Check("ok", "mulligan", f"{__version__}, Python {python}")
    for name in NEEDED:
        found = _version(name)
        if found is None:
            yield Check("missing", name, "not installed", f"pip install {name}")
        else:
            yield Check("ok", name, found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        memory = properties.total_memory / GIB
        yield Check("ok", f"cuda:{number}", f"{properties.name}, {memory:.0f} GiB")
    if not torch.cuda.is_available():
        yield Check("note", "GPU", "none that torch can use: runs use the CPU")
    yield Check("ok", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads")


def _memory() -> Check:
    total = machine_memory() / GIB
    says = f"{total:.1f} GiB"
    if total < _LEAST_MEMORY_GIB:
        remedy = "Use a smaller generate.memory_gib and train.tokens_at_once."
        return Check("note", "memory", f"{says}; the demo is made for 6 GiB", remedy)
    return Check("ok", "memory", says)


def _disk(folder: Path) -> Check:
    existing = next(each for each in [folder.resolve(), *folder.resolve().parents] if each.exists())
    if not os.access(existing, os.W_OK):
        return Check("missing", "disk", f"{existing} cannot be written", "Give --runs FOLDER.")
    free = shutil.disk_usage(existing).free / GIB
    says = f"{free:.1f} GiB free in {existing}"
    if free < _LEAST_DISK_GIB:
        return Check("note", "disk", says, "Free some space, or lower train.keep_checkpoints.")
    return Check("ok", "disk", says)


def _default_model() -> Check:
    if (cache_folder() / DEFAULT_MODEL / "config.json").exists():
        return Check("ok", DEFAULT_MODEL, f"converted, in {cache_folder()}")
    if packaged_gguf() is None:
        return Check("missing", DEFAULT_MODEL, "its package is missing", INSTALL_DEFAULT_MODEL)
    return Check("ok", DEFAULT_MODEL, "installed; converted on its first use (half a minute)")


def _hub() -> Check:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Check("note", "model hub", "switched off by HF_HUB_OFFLINE")
    place = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((place.hostname, place.port or 443), _SECONDS).close()
    except OSError:
        remedy = f"Name models by folder, or use {DEFAULT_MODEL}."
        return Check("note", "model hub", "cannot be reached from here", remedy)
    return Check("ok", "model hub", "can be reached")


def _server(url: str) -> Check:
    from mulligan.engines.http import Client, served_models

    key = "OPENAI_API_KEY" if os.environ.get("OPENAI_API_KEY") else None
    try:
        client = Client(url, api_key_env=key, timeout_s=_SECONDS, tries=1)
        models = served_models(client)
    except MulliganError as error:
        return Check("missing", "server", f"{url}: {error}", "Start it, or check the URL.")
    return Check(
        "ok", "server", f"{url} serves {', '.join(each.id for each in models) or 'no model'}"
    )


def _optional() -> Iterator[Check]:
    for name, purpose in OPTIONAL.items():
        found = _version(name)
        if found is None:
            command = f"pip install {_INSTALLED_BY.get(name, name)}"
            yield Check("note", name, f"not installed; needed for: {purpose}", command)
        else:
            yield Check("ok", name, found)
