"""A person at the terminal while work goes on: Ctrl-C, and what is being waited for.

Ctrl-C once: finish the step and save. Twice: stop at once.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

PATIENCE = 2.0
"""Seconds after which a person wants to know what is being waited for."""

logger = logging.getLogger("mulligan")


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


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say in one line of the log what is being waited for, once that takes two seconds.

    For work that cannot be counted, such as loading a model; what can be counted has a bar.
    """
    timer = threading.Timer(PATIENCE, logger.info, ("%s ...", what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
