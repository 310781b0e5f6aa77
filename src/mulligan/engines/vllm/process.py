"""A vLLM server that a run starts in an environment of its own, and ends with itself."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mulligan.engines.http import Client
from mulligan.errors import MulliganError

SERVED_NAME = "policy"
"""What a server that we started calls the model."""

_MODULE = "vllm.entrypoints.openai.api_server"
_SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that take weights
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD")
_KEPT_PREFIXES = ("VLLM_", "CUDA_", "NVIDIA_", "NCCL_", "HF_", "OMP_", "TORCH_")
_LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # end with the run, however that ends\n"
    "    if os.getppid() != int(sys.argv[1]): sys.exit('the run has ended')\n"
    "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[2:]])\n"
)
_ENDING_S = 20.0


class VllmProcess:
    """A server on loopback, from its start to its end.

    Args:
        python: the interpreter of vLLM's own environment.
        model: a model folder, with a tokenizer.
        dtype: precision of the arithmetic, such as ``bfloat16``.
        log: what the server prints goes there.
        arguments: more arguments of ``vllm serve``.

    Raises:
        MulliganError: there is no such interpreter.
    """

    def __init__(
        self, python: str, model: Path, dtype: str, log: Path, arguments: Sequence[str] = ()
    ) -> None:
        self.model = model
        """The folder that it was started from."""
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *(python, "-c", _LAUNCHER, str(os.getpid()), _MODULE),
            *("--model", str(model), "--served-model-name", SERVED_NAME, "--dtype", dtype),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
            *arguments,
        ]
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - the user names the interpreter
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_environment(os.environ),
                    start_new_session=True,  # Ctrl-C is the run's: the step is finished first
                )
        except OSError as error:
            raise MulliganError(
                f"engine.python={python!r} cannot be started: {error}. Name the Python of an "
                "environment that has vLLM; `make vllm` makes one for CPUs."
            ) from error

    @property
    def pid(self) -> int:
        """The server's process id, which is that of its process group too."""
        return self._process.pid

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until the server is healthy.

        Raises:
            MulliganError: it ended, or is not healthy in time; its last lines are quoted.
        """
        client = Client(self.root, tries=1, timeout_s=5)
        deadline = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None:
                raise MulliganError(
                    f"The vLLM server ended with {self._process.returncode} while it started. "
                    f"Its log, {self._log}, ends with:\n{self._last_lines()}"
                )
            try:
                client.call("GET", "/health")
            except MulliganError:
                if time.monotonic() > deadline:
                    raise MulliganError(
                        f"The vLLM server is not ready after {seconds:.0f} s. Its log, "
                        f"{self._log}, ends with:\n{self._last_lines()}\n"
                        "Raise engine.start_seconds if it only needs longer."
                    ) from None
                time.sleep(0.5)
            else:
                client.close()
                return

    def close(self) -> None:
        """End the server and everything that it started; a second call does nothing."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(_ENDING_S)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-12:]
        shown = ("".join(c if c.isprintable() else " " for c in line)[:300] for line in lines)
        return "\n".join(shown)


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return what the server needs of our environment: no keys of the user's, no Python paths."""
    kept = {
        name: value
        for name, value in own.items()
        if name in _KEPT or (name.startswith(_KEPT_PREFIXES) and "TOKEN" not in name)
    }
    return {**kept, **_SETTINGS}
