"""Ctrl-C once: finish the step and save. Twice: stop at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console


class StoppedEarly(Exception):  # noqa: N818 - not an error: the run was asked to stop, and did
    """A stage stopped before its end, everything saved; ``--resume`` goes on."""


class StopRequest:
    """Whether the user has asked the run to stop."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        return self._asked

    def check(self, where: str) -> None:
        """Stop here if it was asked for; everything up to here must be saved.

        Raises:
            StoppedEarly: a stop was asked for.
        """
        if self._asked:
            raise StoppedEarly(where)

    @contextmanager
    def listening(self, console: Console) -> Iterator[None]:
        """Take Ctrl-C (and SIGTERM) as a request for as long as the block runs."""

        def ask(number: int, frame: FrameType | None) -> None:
            del frame
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True
            if number == signal.SIGINT:
                console.print("Stopping after this step. Press Ctrl-C again to stop at once.")

        before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
