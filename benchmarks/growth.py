"""How cost grows: tokens a second of a training step, one axis at a time.

A step is what training does with groups of random tokens: the engine takes the weights and samples
them, then the policy is updated on them. Its rollout and its update are timed apart, in a process
of its own, or in two that torchrun starts. Each axis gets the exponent b of
``tokens/s = a * size ** b``, beside the one that counting operations gives at a constant rate: an
axis on which the measured one is lower does not scale, and is named.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from benchmarks.cases import OURS, Case, Play, Settings, Turn
from benchmarks.intervals import exponent
from benchmarks.models import model_folder
from benchmarks.side import Side, own
from mulligan.models.load import DEFAULT_MODEL

KINDS = ("rollout", "update")
TOLERANCE = 0.1
"""How much less than the counted exponent a measured one may be."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step that is measured."""

    prompt: int = 200
    """Tokens of each prompt."""
    completion: int = 48
    """Tokens of each completion."""
    group_size: int = 8
    failures: int = 2
    model: str = DEFAULT_MODEL
    processes: int = 1
    threads: int | None = None
    """Of each process; all by default."""


AXES: Mapping[str, str] = {
    "prompt": "tokens of a prompt",
    "group_size": "completions in a group",
    "failures": "failures in a step",
    "model": "weights of the model",
    "processes": "processes of one thread each",
}
_VALUES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "full": {
        "prompt": (125, 250, 500, 1000, 2000),
        "group_size": (2, 4, 8, 16, 32),
        "failures": (1, 2, 4, 8, 16),
        "model": ("tiny", "14M", "47M", "135M", "360M"),
        "processes": (1, 2),
    },
    "quick": {"group_size": (2, 8, 32)},
    "tiny": {"prompt": (4, 8), "processes": (1, 2)},
}
_TINY = Point(prompt=6, completion=4, group_size=2, failures=2)


def cases(settings: Settings) -> list[Case]:
    """Return a case for each point of each axis."""
    base = replace(_TINY if settings.size == "tiny" else Point(), model=settings.model)
    return [
        case_of(f"{axis} {value}", _at(base, axis, value), {"axis": axis})
        for axis, values in _VALUES[settings.size].items()
        for value in values
    ]


def case_of(name: str, point: Point, about: Mapping[str, Any]) -> Case:
    """Return the case of one step."""
    return Case(name, {OURS: partial(_side, point)}, {**about, "point": asdict(point)})


def conclude(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return for each axis its exponents, measured and counted, and what they say."""
    axes = {case["about"]["axis"] for case in values["cases"].values()}
    return {
        axis: {kind: _fit(axis, kind, points_of(values, axis)) for kind in KINDS}
        for axis in AXES
        if axis in axes
    }


def sentences(conclusions: Mapping[str, Any]) -> list[str]:
    """Say what follows, a line for each axis and kind."""
    said = []
    for axis, kinds in conclusions.items():
        for kind, fit in kinds.items():
            said.append(
                f"{AXES[axis]}, {kind}: tokens/s grow with exponent {fit['value']:+.2f} "
                f"[{fit['low']:+.2f}, {fit['high']:+.2f}], {fit['counted']:+.2f} by counting: "
                f"{fit['verdict']}"
            )
    return said


def points_of(values: Mapping[str, Any], axis: str) -> list[dict[str, Any]]:
    """Return the points of an axis in order: its size, and the turns of its rounds."""
    points = [
        {"size": _size(axis, case), "turns": [each[OURS] for each in case["rounds"]]}
        for case in values["cases"].values()
        if case["about"].get("axis") == axis and case["rounds"]
    ]
    return sorted(points, key=lambda point: point["size"])


def rates(point: Mapping[str, Any], kind: str) -> list[float]:
    """Return the tokens a second of each round of a point."""
    return [turn["tokens"] / turn[f"{kind}_seconds"] for turn in point["turns"]]


def counted_rate(point: Mapping[str, Any], kind: str) -> float:
    """Return the tokens for each operation of a process, which at a constant rate is the speed."""
    turn = point["turns"][0]
    return float(turn["tokens"] * turn["processes"] / turn[f"{kind}_flops"])


def _fit(axis: str, kind: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sizes = [point["size"] for point in points]
    measured = exponent(sizes, [rates(point, kind) for point in points])
    counted = exponent(sizes, [[counted_rate(point, kind)] for point in points]).value
    if measured.high < counted - TOLERANCE:
        verdict = "does not scale"
    elif measured.low > counted + TOLERANCE:
        verdict = "better than counted: small sizes leave the machine idle"
    else:
        verdict = "scales"
    return {**measured.as_json(), "counted": counted, "verdict": verdict}


def _size(axis: str, case: Mapping[str, Any]) -> float:
    if axis == "model":
        return float(case["rounds"][0][OURS]["weights"])
    return float(case["about"]["point"][axis])


def _at(base: Point, axis: str, value: Any) -> Point:
    changes: dict[str, Any] = {axis: value}
    if axis == "processes":
        changes |= {"threads": 1, "failures": max(base.failures, 4)}
    return replace(base, **changes)


@contextmanager
def _side(point: Point) -> Iterator[Play]:
    options = json.dumps(asdict(point) | {"model": model_folder(point.model)})
    with _process(point, options) as side:
        yield lambda number: Turn(**side.ask(number))


def _process(point: Point, options: str) -> Side:
    if point.processes == 1:
        return own("growth_side", options, threads=point.threads)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*launcher, str(point.processes), "-m", "benchmarks.growth_side", options]
    return Side([sys.executable, *command], {"OMP_NUM_THREADS": str(point.threads or 1)})
