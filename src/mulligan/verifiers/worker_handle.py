"""One worker process, as the process that started it sees it: asked, listened to, and killed.

What runs in it is ``worker_main.py``; ``pool.py`` keeps several of them busy.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from mulligan.errors import MulliganError
from mulligan.tasks.base import TaskSource
from mulligan.verifiers.limits import Limits, processes_by_session

START_S = 120.0
"""How long a worker may take to load its task, in seconds."""
CLOSED_S = 5.0
"""How long a worker that has closed its pipe may take to end, in seconds."""
_CHUNK = 65536
_log = logging.getLogger(__name__)


class WorkerHandle:
    """Starts ``worker_main.py`` and talks to it, without ever blocking.

    Args:
        source: The task that the worker loads.
        limits: What the worker may use.
    """

    def __init__(self, source: TaskSource, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.in_flight: deque[int] = deque()
        """Requests sent and not yet answered, oldest first: the oldest is being worked on."""
        self.outgoing = bytearray()
        """Bytes that the pipe had no room for yet."""
        self.leaving = False
        """Whether the worker has said that it ends, so that nothing in flight is to blame."""
        self.closed = False
        """Whether the worker has closed its end of the pipe, so that nothing more can come."""
        self._ready = False
        self._unread = b""
        self._trouble = ""
        self._clock = time.monotonic()
        self._start()
        self.outgoing += encode(
            {"spec": source.spec, "options": dict(source.options), **self._setup}
        )

    def ask(self, index: int, request: bytes) -> None:
        """Queue a request; its deadline runs from the moment the worker can begin with it."""
        if not self.in_flight and self._ready:
            self._clock = time.monotonic()
        self.in_flight.append(index)
        self.outgoing += request

    def push(self) -> None:
        """Write as much of what is queued as the pipe takes."""
        try:
            while self.outgoing:
                del self.outgoing[: os.write(self.requests, self.outgoing[:_CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing.clear()  # The other end is gone: reading will tell why.

    def listen(self, deadline_s: float | None = None) -> dict[int, dict[str, Any]]:
        """Read the replies that have come; afterwards ``trouble`` says whether the worker is lost.

        Args:
            deadline_s: Longest time that the oldest request may take, in seconds; by default, the
                limits'.

        Returns:
            Reply for each request index.

        Raises:
            MulliganError: the worker could not load its task.
        """
        # Looked up before reading, so that the last words of a worker that ended are not missed.
        ended = self.process.poll() is not None
        replies = self._read()
        limit_s = START_S
        if self._ready:
            limit_s = self.limits.deadline_s if deadline_s is None else deadline_s
        if ended:
            self._trouble = self._trouble or _how_it_ended(self.process)
        elif self.closed and self._busy_s > CLOSED_S:
            self._trouble = self._trouble or "closed the pipe to its parent and was killed"
        elif self._busy_s > limit_s:
            self._trouble = f"took longer than {limit_s:g} s and was killed"
        if self._trouble and not self._ready:
            raise MulliganError(
                f"A worker process could not load the task {self.source.spec!r}: "
                f"it {self._trouble}."
            )
        return replies

    def count(self, processes: int) -> None:
        """Take note of how many processes the worker and what it started are."""
        if self._ready and processes > self.limits.processes + 1:
            self._trouble = self._trouble or (
                f"started {processes - 1} processes, where {self.limits.processes} are allowed, "
                "and was killed"
            )

    @property
    def trouble(self) -> str:
        """What ended the worker, as the end of a sentence; empty while it is well."""
        return self._trouble

    @property
    def _busy_s(self) -> float:
        """How long the worker has been loading its task or working on its oldest request."""
        busy = self.in_flight or not self._ready or self.closed
        return time.monotonic() - self._clock if busy else 0.0

    @property
    def lost_while_idle(self) -> bool:
        """Whether the worker ended with nothing to do."""
        return not self.in_flight and self.process.poll() is not None

    def kill(self) -> None:
        """Kill the worker and all that it started, and release what belonged to it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in processes_by_session().get(self.process.pid, ()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)  # one of another group, such as a verifier's child
        self.process.wait()
        os.close(self.requests)
        os.close(self.replies)

    @property
    def _setup(self) -> dict[str, Any]:
        """The bounds that the worker sets itself."""
        return {
            "memory_mib": self.limits.memory_mib,
            "file_mib": self.limits.file_mib,
            "cpu_s": self.limits.cpu_s,
            "network": self.limits.network,
            "orphan_s": 2 * max(self.limits.deadline_s, START_S),
        }

    def _start(self) -> None:
        theirs_in, self.requests = os.pipe()
        self.replies, theirs_out = os.pipe()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        command = [sys.executable, "-P", "-m", "mulligan.verifiers.worker_main"]
        try:
            self.process = subprocess.Popen(  # noqa: S603 (our own module)
                [*command, str(theirs_in), str(theirs_out)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs_in, theirs_out),
                cwd=self.source.folder,
                env=self.limits.variables(),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.requests)
            os.close(self.replies)
            raise MulliganError(f"No worker process could be started: {error}.") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def _read(self) -> dict[int, dict[str, Any]]:
        """Return the new replies."""
        data, closed = _available(self.replies)
        if closed and not self.closed:
            self.closed = True
            self._clock = time.monotonic()
        *lines, self._unread = (self._unread + data).split(b"\n")
        replies: dict[int, dict[str, Any]] = {}
        for line in lines:
            reply = _decoded(line)
            if reply is None or not self._expects(reply):
                self._trouble = "wrote into the pipe to its parent and was killed"
                break
            self._clock = time.monotonic()
            if self._ready:
                replies[self.in_flight.popleft()] = reply
                self.leaving = "leaving" in reply
            elif "failed" in reply:
                raise MulliganError(str(reply["failed"]))
            else:
                self._ready = True
                _say_once_if_online(str(reply.get("online", "")))
        return replies

    def _expects(self, reply: dict[str, Any]) -> bool:
        """Whether a reply is to the oldest request; a last word need not say to which it is."""
        if not self._ready:
            return "failed" in reply or reply.get("value") == "ready"
        if not self.in_flight:
            return False
        return "leaving" in reply or reply.get("n") == self.in_flight[0]


def _available(pipe: int) -> tuple[bytes, bool]:
    """Return the bytes that have come through a pipe, and whether its other end was closed."""
    data = bytearray()
    try:
        while chunk := os.read(pipe, _CHUNK):
            data += chunk
    except BlockingIOError:
        return bytes(data), False
    return bytes(data), True


def _how_it_ended(process: "subprocess.Popen[bytes]") -> str:
    """Describe how a process ended, as the end of a sentence."""
    code = process.wait()
    if code < 0:
        return f"crashed: killed by {signal.Signals(-code).name}"
    return f"ended its process with exit code {code}"


@cache
def _say_once_if_online(why: str) -> None:
    if why:
        _log.warning(
            "Verifiers can reach the network: this system does not allow cutting it off (%s).", why
        )


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as one line of JSON.

    Raises:
        TypeError: something in it is not a JSON value.
        ValueError: it holds NaN or an infinity, or contains itself.
    """
    return json.dumps(message, allow_nan=False).encode() + b"\n"


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
