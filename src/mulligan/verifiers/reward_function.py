"""A reward function of the user's own, run where it can be killed, as verifiers are."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mulligan.errors import MulliganError, nearest
from mulligan.tasks.base import TaskSource
from mulligan.tasks.user_file import import_file
from mulligan.types import Problem, SeenEpisode, Verdict
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.pool import IsolatedVerifier
from mulligan.verifiers.worker_handle import encode

PREFIX = "reward:"
"""Tells a worker process that it serves a reward function and not a task."""


class RewardFunction:
    """A function of a Python file.

    Args:
        spec: ``file.py:name``.

    Raises:
        MulliganError: there is no such file or function, or its ``range`` is none.
    """

    def __init__(self, spec: str) -> None:
        path, _, name = spec.rpartition(":")
        module = import_file(Path(path))
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        if name not in functions:
            raise MulliganError(f"{path} has no function {name!r}; {nearest(name, functions)}.")
        self.name = spec
        self._function: Callable[[SeenEpisode], object] = getattr(module, name)
        self.range = _checked_range(spec, getattr(self._function, "range", (0.0, 1.0)))

    def __call__(self, episode: SeenEpisode) -> float:
        """Return what the function says of an episode.

        Raises:
            TypeError: it is not a number.
        """
        value = self._function(episode)
        if isinstance(value, bool | int | float):
            return float(value)
        raise TypeError(f"a reward should be a number, not {value!r}"[:200])


class IsolatedReward(IsolatedVerifier):
    """Calls a reward function in worker processes; use it as a context manager.

    Args:
        spec: ``file.py:name``.
        workers: number of worker processes.
        limits: what a worker may use.
    """

    def __init__(self, spec: str, workers: int, limits: Limits) -> None:
        super().__init__(TaskSource(PREFIX + spec, {}, str(Path.cwd())), workers, limits)

    def score_many(self, episodes: Sequence[SeenEpisode]) -> list[float | str]:
        """Return a reward for each episode, or what went wrong where there is none."""
        requests = [
            encode({"n": number, "do": "reward", "episode": asdict(episode)})
            for number, episode in enumerate(episodes)
        ]
        replies = self._exchange(requests, self.limits.deadline_s)
        return [str(r["error"]) if "error" in r else float(r["value"]) for r in replies]


def seen_episode(sent: Mapping[str, Any]) -> SeenEpisode:
    """Return an episode from the plain values that a worker was sent."""
    problem = dict(sent["problem"])
    problem |= {name: tuple(problem[name]) for name in ("messages", "tools")}
    verdict = sent["verdict"] and Verdict(**sent["verdict"])
    return SeenEpisode(**{**sent, "problem": Problem(**problem), "verdict": verdict})


def _checked_range(spec: str, value: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise MulliganError(
            f"The range of the reward {spec} should be two numbers, the smaller first, "
            f"not {value!r}."
        )
    return low, high
