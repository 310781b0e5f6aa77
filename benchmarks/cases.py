"""What is measured, and how: sides that take turns, repeat by repeat, kept as they come.

A benchmark is a list of cases. In a case every side is warmed up by one turn that is not counted,
at the case's own size, then the sides take turns. After each round of turns the result is written,
so that a run that is stopped goes on where it was: only the round under way is lost.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.intervals import ratio, spread
from benchmarks.machine import describe, measure
from mulligan import __version__
from mulligan.errors import MulliganError
from mulligan.models.load import DEFAULT_MODEL
from mulligan.storage.atomic import write_atomically

Size = Literal["full", "quick", "tiny"]
OURS = "mulligan"
FORMAT = 2
"""Of the result files; those of version 0.1.0 had none."""
_REPEATS: Mapping[Size, int] = {"full": 5, "quick": 2, "tiny": 2}
_PACKAGES = ("torch", "transformers", "trl", "peft")


@dataclass(frozen=True)
class Settings:
    """What one invocation measures."""

    size: Size = "full"
    model: str = DEFAULT_MODEL
    """Name or folder of the model whose weights matter."""
    vllm_python: Path | None = None
    """The Python of an environment that has vLLM; without it that peer is left out."""
    minutes: float | None = None
    """Start no further round after so long."""

    @property
    def repeats(self) -> int:
        """How many rounds of turns count."""
        return _REPEATS[self.size]

    @property
    def device(self) -> torch.device:
        """The GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did in one round."""

    seconds: float
    tokens: int | None = None
    """What counts as work done, where the sides do not do exactly the same work."""
    flops: float | None = None
    """Operations that the work needs at least."""
    peak_bytes: float | None = None
    """The most memory that it held beyond the loaded model."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what is known of it."""
        values = {
            "seconds": self.seconds,
            "tokens": self.tokens,
            "flops": self.flops,
            "peak_bytes": self.peak_bytes,
        }
        return {name: value for name, value in values.items() if value is not None} | dict(
            self.details
        )


Play = Callable[[int], Turn]
"""Number of the round (0 warms up) to what the side did in it."""
Opener = Callable[[], AbstractContextManager[Play]]


@dataclass(frozen=True)
class Case:
    """Sides that do the same work."""

    name: str
    sides: Mapping[str, Opener]
    about: Mapping[str, Any] = field(default_factory=dict)
    """The case's own sizes, for the result."""


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """The time that was given is over; what was measured is written."""


class Results:
    """The file of one benchmark: every turn of every case, and what follows from them."""

    def __init__(self, path: Path | None, benchmark: str, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._until = None if settings.minutes is None else time.monotonic() + settings.minutes * 60
        about = _about(benchmark, settings)
        self.values: dict[str, Any] = {**about, "matmul_gflops": [], "cases": {}}
        if path is not None and path.exists():
            self.values = _going_on(path, about)

    def measure(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Measure what is still missing of some cases; return the whole result.

        Raises:
            Stopped: the time that was given is over.
        """
        for case in cases:
            kept = self.values["cases"].setdefault(case.name, {"about": {}, "rounds": []})
            kept["about"] = dict(case.about)
            if len(kept["rounds"]) < self._settings.repeats:
                print(f"{case.name}:", flush=True)
                self._rounds(case, kept)
            kept["summary"] = summary(kept["rounds"], max(self.values["matmul_gflops"]) * 1e9)
            self._write()
            print("\n".join(lines(kept["summary"])), flush=True)
        return self.values

    def conclude(self, conclusions: Mapping[str, Any]) -> None:
        """Keep what follows from all cases together."""
        self.values["conclusions"] = dict(conclusions)
        self._write()

    def _rounds(self, case: Case, kept: dict[str, Any]) -> None:
        self._require_time()
        with ExitStack() as stack:
            plays = {name: stack.enter_context(side()) for name, side in case.sides.items()}
            for play in plays.values():
                play(0)
            while len(kept["rounds"]) < self._settings.repeats:
                self._require_time()
                machine = measure(self._settings.device, torch.bfloat16)
                self.values["matmul_gflops"].append(machine.matmul_flops / 1e9)
                number = len(kept["rounds"]) + 1
                turns = {}
                for name in _in_turn(list(plays), number):
                    turns[name] = plays[name](number).as_json()
                    print(f"  {number} {name}: {turns[name]['seconds']:.2f} s", flush=True)
                kept["rounds"].append(turns)
                self._write()

    def _require_time(self) -> None:
        if self._until is not None and time.monotonic() > self._until:
            raise Stopped

    def _write(self) -> None:
        if self._path is not None:
            write_atomically(self._path, json.dumps(self.values, indent=1) + "\n")


def _in_turn(names: Sequence[str], number: int) -> list[str]:
    """Return the sides in the order of a round: each comes first, and last, equally often."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def summary(rounds: Sequence[Mapping[str, Mapping[str, Any]]], limit: float) -> dict[str, Any]:
    """Return for each side its spreads and share of the limit, and its ratio to ours.

    Args:
        rounds: of each round, the turn of each side.
        limit: floating-point operations a second that the machine was seen to reach.
    """
    sides: dict[str, Any] = {}
    for name in sorted(rounds[0], key=lambda name: name != OURS):
        turns = [each[name] for each in rounds]
        seconds = [turn["seconds"] for turn in turns]
        found: dict[str, Any] = {"seconds": spread(seconds)}
        if "tokens" in turns[0]:
            found["tokens_per_s"] = spread([turn["tokens"] / turn["seconds"] for turn in turns])
        if "flops" in turns[0]:
            found["share_of_limit"] = spread(
                [turn["flops"] / turn["seconds"] / limit for turn in turns]
            )
        if "peak_bytes" in turns[0]:
            found["peak_bytes"] = spread([turn["peak_bytes"] for turn in turns])
        if name != OURS and OURS in rounds[0]:
            found |= _ratios([each[OURS] for each in rounds], turns)
        sides[name] = found
    return sides


def _ratios(ours: Sequence[Mapping[str, Any]], peer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many times as fast as a peer ours is, and how many times less memory it takes."""
    found = {"speed_ratio": ratio(_costs(peer), _costs(ours)).as_json()}
    if "peak_bytes" in ours[0] and "peak_bytes" in peer[0]:
        peaks = [[turn["peak_bytes"] for turn in each] for each in (peer, ours)]
        found["memory_ratio"] = ratio(*peaks).as_json()
    return found


def _costs(turns: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return seconds for a token, or for the whole work where that is the same for all."""
    return [turn["seconds"] / turn.get("tokens", 1) for turn in turns]


def lines(sides: Mapping[str, Any]) -> list[str]:
    """Say a summary, a line for each side."""
    said = []
    for name, found in sides.items():
        parts = [_spread(found["seconds"], "s")]
        if "tokens_per_s" in found:
            parts.append(_spread(found["tokens_per_s"], "tokens/s"))
        if "share_of_limit" in found:
            parts.append(f"{found['share_of_limit']['median']:.0%} of the limit")
        if "peak_bytes" in found:
            parts.append(f"{found['peak_bytes']['median'] / 2**30:.2f} GiB")
        for what, sentence in (
            ("speed_ratio", "ours is {} as fast"),
            ("memory_ratio", "needs {} less memory"),
        ):
            if what in found:
                value, low, high = (found[what][key] for key in ("value", "low", "high"))
                parts.append(sentence.format(f"{value:.2f}x [{low:.2f}, {high:.2f}]"))
        said.append(f"  {name}: " + ", ".join(parts))
    return said


def _spread(values: Mapping[str, float], unit: str) -> str:
    digits = 0 if values["median"] >= 100 else 2
    median, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} {unit} ({low} to {high})"


def _about(benchmark: str, settings: Settings) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "size": settings.size,
        "model": settings.model,
        "device": describe(settings.device),
        "versions": {"mulligan": __version__, **_versions(), **_python()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _python() -> dict[str, str]:
    return {"python": platform.python_version()}


def _going_on(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return an earlier part of the same measurement.

    Raises:
        MulliganError: the file holds another one.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        changed = [name for name in about if values.get(name) != about[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise MulliganError(f"Cannot read {path}: {error}.") from error
    if changed:
        listed = ", ".join(f"{name}: {values.get(name)!r}, now {about[name]!r}" for name in changed)
        raise MulliganError(
            f"{path} was measured under other circumstances ({listed}), and figures of both do not "
            "belong together. Move it away, or give another file with --json."
        )
    return values
