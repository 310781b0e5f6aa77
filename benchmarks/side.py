"""One side of a comparison in a process of its own, which answers one job at a time.

Questions and answers are JSON, a line each; what a library prints on the same output is passed
over. A side may be paused between its turns, for the processes of some peers poll while they wait,
and others are being timed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ANSWER = "answer "


class Side:
    """A process that answers.

    Args:
        command: starts it.
        environment: variables besides this process's own.
        pause: whether it is stopped while it has nothing to do.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        pause: bool = False,
    ) -> None:
        self._pause = pause
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that processes of its own pause with it
            env=os.environ | dict(environment or {}),
        )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: Any) -> Any:
        """Give it a job and wait for the answer."""
        self.start(question)
        return self.finish()

    def start(self, question: Any) -> None:
        """Give it a job."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        print(json.dumps(question), file=self._process.stdin, flush=True)

    def finish(self) -> Any:
        """Return the answer to the job that it was given.

        Raises:
            RuntimeError: the process ended instead.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                self._signal(signal.SIGSTOP)
                return json.loads(line.removeprefix(_ANSWER))
        raise RuntimeError(f"a side ended with code {self._process.wait()}: see its errors above")

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._signal(signal.SIGCONT)
        self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        if self._pause and self._process.poll() is None:
            os.killpg(self._process.pid, number)


def own(module: str, *arguments: str, threads: int | None = None) -> Side:
    """Start a module of this package as a side, on so many threads (by default all)."""
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return Side([sys.executable, "-m", f"benchmarks.{module}", *arguments], environment)


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer every line on standard input, until it ends: what a side's process does."""
    for line in sys.stdin:
        say(answer(json.loads(line)))


def say(answer: Any) -> None:
    """Give the answer to a question."""
    print(_ANSWER + json.dumps(answer), flush=True)
