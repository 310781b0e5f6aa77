"""On a GPU: rollouts beside vLLM and ``generate``, a group's loss beside TRL, and a whole step.

At the shapes of models with 0.5 and 1.5 billion weights, which are random: no hub is needed. What
TRL generates with by itself is ``generate``; with vLLM it generates as the vLLM rows say. A whole
step gives the MFU of the update (its operations over its time and the card's nominal rate) and the
peak of its memory.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks import growth, rollouts, training
from benchmarks.cases import OURS, Case, Settings
from benchmarks.growth import Point
from benchmarks.workload import Sizes

MODELS: Mapping[str, tuple[str, ...]] = {
    "full": ("0.5B", "1.5B"),
    "quick": ("0.5B",),
    "tiny": ("tiny",),
}
_SIZES = Sizes(failures=32, reflection=512, retry=128, stops=False)
_TINY_SIZES = Sizes(2, 2, 6, 4, stops=False)
_WORK = training.Work((700, 512, 8))
_TINY_WORK = training.Work((12, 6, 4))
_POINT = Point(prompt=700, completion=512, group_size=8, failures=8)
_TINY_POINT = Point(prompt=6, completion=4, group_size=2, failures=2)
NOMINAL: Mapping[str, float] = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations per second, by the data sheet, by a part of the card's name."""


def cases(settings: Settings) -> list[Case]:
    """Return the cases of a size; only a GPU should measure them."""
    tiny = settings.size == "tiny"
    sizes, work, point = (_TINY_SIZES, _TINY_WORK, _TINY_POINT) if tiny else (_SIZES, _WORK, _POINT)
    found = []
    for model in MODELS[settings.size]:
        theirs = replace(settings, model=model)
        found += [
            rollouts.case_of(f"rollout, {model}", sizes, theirs),
            replace(training.case_of(work, model), name=f"loss and backward, {model}"),
            growth.case_of(f"step, {model}", replace(point, model=model), {}),
        ]
    return found


def conclude(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the update's MFU in each step, where the card's nominal rate is known."""
    nominal = next((rate for card, rate in NOMINAL.items() if card in values["device"]), None)
    found = {}
    for name, case in values["cases"].items():
        if name.startswith("step") and nominal is not None:
            turns = [each[OURS] for each in case["rounds"]]
            found[name] = [
                turn["update_flops"] / turn["update_seconds"] / nominal for turn in turns
            ]
    return found


def sentences(conclusions: Mapping[str, Any]) -> list[str]:
    """Say the update's MFU."""
    return [
        f"{name}: MFU of the update {min(mfus):.0%} to {max(mfus):.0%}"
        for name, mfus in conclusions.items()
    ]


def is_measurable(settings: Settings) -> bool:
    """Whether there is a GPU; the tiniest size runs anywhere, to see that it runs."""
    return torch.cuda.is_available() or settings.size == "tiny"
