"""Finding an engine by its kind: one of our own, or an entry point of ``mulligan.engines``.

An entry point names a class derived from `EngineMaker`: cheap to import, so that a recipe can be
checked before torch is loaded.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mulligan.engines.base import Abilities, Engine
from mulligan.errors import MulliganError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENTRY_POINT_GROUP = "mulligan.engines"


@dataclass(frozen=True)
class Surroundings:
    """What an engine is made with, besides its own settings."""

    policy: "PreTrainedModel | None"
    """The model whose weights it generates with until it is given others; None where only a server
    generates."""
    tokenizer: "PreTrainedTokenizerBase"
    dtype: str
    """Precision of the arithmetic, such as ``bfloat16``."""
    folder: Path
    """Where it may keep files of its own: a server's log, weights on their way."""


class EngineMaker(ABC):
    """A kind of engine: what it can do at most, and how one is made."""

    abilities: ClassVar[Abilities]
    """The most that an engine of this kind can do; the engine itself says what it does."""

    @staticmethod
    @abstractmethod
    def make(settings: Mapping[str, Any], surroundings: Surroundings) -> Engine:
        """Make an engine from the settings of the recipe's ``engine`` section."""


class LocalMaker(EngineMaker):
    """Generates on this machine with the policy itself."""

    abilities = Abilities(token_ids=True, logprobs=True, weights=True, exact=True, divisible=True)

    @staticmethod
    def make(settings: Mapping[str, Any], surroundings: Surroundings) -> Engine:
        """Make a local engine; ``memory_gib`` bounds its caches."""
        import torch

        from mulligan.engines.local.engine import LocalEngine

        assert surroundings.policy is not None
        return LocalEngine(
            surroundings.policy,
            surroundings.tokenizer,
            dtype=getattr(torch, surroundings.dtype),
            memory_gib=settings["memory_gib"],
        )


class ServerMaker(EngineMaker):
    """Asks a server that speaks OpenAI's protocol; it takes no weights."""

    abilities = Abilities(token_ids=True, logprobs=True, weights=False, exact=False)

    @staticmethod
    def make(settings: Mapping[str, Any], surroundings: Surroundings) -> Engine:
        """Reach the server at ``url`` that serves ``model``."""
        from mulligan.engines.server import connect

        return connect(
            settings["url"],
            settings["model"],
            surroundings.tokenizer,
            api_key_env=settings["api_key_env"],
            timeout_s=settings["timeout_seconds"],
            parallel=settings["parallel"],
        )


class VllmMaker(EngineMaker):
    """Drives a vLLM server, which is given the newest weights."""

    abilities = Abilities(token_ids=True, logprobs=True, weights=True, exact=False)

    @staticmethod
    def make(settings: Mapping[str, Any], surroundings: Surroundings) -> Engine:
        """Reach the server at ``url``, or start one with ``python``."""
        from mulligan.engines.vllm.engine import make_vllm

        assert surroundings.policy is not None
        return make_vllm(
            settings,
            surroundings.policy,
            surroundings.tokenizer,
            surroundings.dtype,
            surroundings.folder,
        )


OWN: Mapping[str, type[EngineMaker]] = {
    "local": LocalMaker,
    "server": ServerMaker,
    "vllm": VllmMaker,
}


def find_engine(kind: str) -> type[EngineMaker]:
    """Return the maker of a kind of engine.

    Raises:
        MulliganError: none of that name is installed, or it cannot be imported.
    """
    if kind in OWN:
        return OWN[kind]
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in installed:
        raise MulliganError(f"There is no engine {kind!r}; {nearest(kind, [*OWN, *installed])}.")
    maker = _imported(installed[kind])
    if not (isinstance(maker, type) and issubclass(maker, EngineMaker)):
        raise MulliganError(
            f"The engine {kind!r} ({installed[kind].value}) should be a class derived from "
            f"mulligan.engines.registry.EngineMaker, but is {maker!r}."
        )
    return maker


def _imported(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise MulliganError(
            f"The engine {point.name!r} ({point.value}) is installed but cannot be imported: "
            f"{type(error).__name__}: {error}. Install what it needs, or use another engine."
        ) from error
