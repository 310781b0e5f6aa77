"""vLLM's routes beside generation: versions, weights, adapters, the prefix cache.

They need ``VLLM_SERVER_DEV_MODE=1``, and adapters ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``. They
change what the server is, so nobody else may be able to reach them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mulligan.engines.http import Client, PassingTrouble, Refused
from mulligan.errors import MulliganError

HOW_TO_START = (
    "Start it with VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs (and for adapters "
    "with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 --enable-lora), on an address that only you can reach."
)


class Control:
    """Drives one vLLM server.

    Args:
        client: asks the server; its paths begin above ``/v1``.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return self._client.host

    def weight_version(self) -> str:
        """Return the label of the weights that the server holds; a restarted one has lost ours.

        Raises:
            MulliganError: it cannot be reached, or was started without these routes.
        """
        return str(self._call("GET", "/weight_info")["weight_version"])

    def label_weights(self, label: str) -> None:
        """Give the weights that the server holds a label."""
        self._call("POST", "/update_weight_version", {"new_version": label})

    def world_size(self) -> int:
        """Return how many workers hold the model."""
        return int(self._call("GET", "/get_world_size")["world_size"])

    def checksums(self) -> dict[str, str]:
        """Return a checksum of each tensor of the model, over all workers."""
        reply = self._call("POST", "/weight_checker", {"action": "checksum"})
        sums: dict[str, str] = reply["checksums"]
        return sums

    def reload(self, folder: Path) -> None:
        """Load the weights of a folder that the server can read, in place."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self._tell("/collective_rpc", body)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter under a name of its own."""
        self._tell("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter."""
        self._tell("/v1/unload_lora_adapter", {"lora_name": name})

    def reset_prefix_cache(self) -> None:
        """Drop the keys and values of every prompt.

        Raises:
            MulliganError: the server still holds some after several tries, as it does while
                somebody else's requests run.
        """
        self._client.persist(self._reset_once)

    def _reset_once(self) -> None:
        if not self._call("POST", "/reset_prefix_cache")["success"]:
            raise PassingTrouble("its prefix cache is in use by other requests")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with self._in_words(path):
            return self._client.ask(method, path, body)

    def _tell(self, path: str, body: dict[str, Any]) -> None:
        with self._in_words(path):
            self._client.tell(path, body)

    @contextmanager
    def _in_words(self, path: str) -> Iterator[None]:
        """Say what a failure means for the run."""
        try:
            yield
        except PassingTrouble as trouble:
            raise MulliganError(
                f"The vLLM server {self.host} failed at {path}: {trouble}. Nothing of this step is "
                "kept. Check the server and its log, then continue with --resume."
            ) from None
        except Refused as refused:
            if refused.status == 404:
                raise MulliganError(
                    f"The vLLM server {self.host} has no {path}. {HOW_TO_START}"
                ) from None
            raise
