"""One side of the training benchmark, in a process of its own: a step for each question."""

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.cases import OURS
from benchmarks.groups import LORA, benchmark_recipe, random_group, scored_group
from benchmarks.machine import weighed
from benchmarks.models import Arithmetic
from benchmarks.side import serve
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy, LoraPolicy, Policy
from mulligan.objectives.objective import make_objective
from mulligan.trainer.update import TokenSums, make_updater

Options = dict[str, Any]
Step = Callable[[], None]


def ours(model: PreTrainedModel, options: Options) -> Step:
    """Return our step: what the trainer computes of a batch."""
    _, completion, size = options["shape"]
    recipe = benchmark_recipe(
        reflection_tokens=completion,
        failures=options["groups"],
        group_size=size,
        gradient_checkpointing=options["checkpointing"],
    )
    policy: Policy = FullPolicy(model)
    if options["lora"]:
        policy = LoraPolicy(model, **LORA, base=options["folder"], seed=0)
    updater = make_updater(policy, make_objective(recipe).loss, recipe)
    shape, vocabulary = tuple(options["shape"]), model.config.vocab_size
    groups = [
        scored_group(*random_group(shape, vocabulary, number), recipe)
        for number in range(options["groups"])
    ]

    def step() -> None:
        for loss in updater.losses(groups):
            loss(TokenSums()).backward()
        model.zero_grad()

    return step


def step_of(side: str, model: PreTrainedModel, options: Options) -> Step:
    """Return the step of a side."""
    if side == OURS:
        return ours(model, options)
    from benchmarks import trl_training  # noqa: PLC0415  (TRL takes seconds to import)

    return trl_training.STEPS[side](model, options)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Take a step for every line on standard input.")
    parser.add_argument("side")
    parser.add_argument("options", type=json.loads, help="the case, as JSON")
    given = parser.parse_args()
    options = given.options
    model, _ = load_model(options["folder"], torch.bfloat16)
    group = Arithmetic.of(model).group(*options["shape"], frozen=options["lora"])
    flops = options["groups"] * group
    kind = model.device.type
    with tempfile.TemporaryDirectory() as options["output"]:
        step = step_of(given.side, model, options)

        def answer(_: int) -> dict[str, float]:
            # Adapters are in float32, as both libraries leave them: their products are not.
            with torch.autocast(kind, torch.bfloat16, enabled=options["lora"]):
                taken, peak = weighed(step, model.device)
            return {"seconds": taken, "peak_bytes": peak, "flops": flops}

        serve(answer)


if __name__ == "__main__":
    _main()
