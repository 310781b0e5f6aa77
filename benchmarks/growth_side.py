"""A step of training for each question, in a process of its own or in several that torchrun starts.

Only the first of several reads questions and answers them; all take the step together.
"""

import argparse
import json
import random
import sys
from typing import Any

import torch

from benchmarks.groups import TEMPERATURE, benchmark_recipe, scored_group
from benchmarks.growth import Point
from benchmarks.machine import weighed
from benchmarks.models import Arithmetic
from benchmarks.side import say
from mulligan.engines.local.engine import LocalEngine
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy
from mulligan.objectives.objective import make_objective
from mulligan.trainer.distributed import ALONE, Processes
from mulligan.trainer.launch import launched
from mulligan.trainer.update import make_updater
from mulligan.types import Completion, Sampling


class Step:
    """Samples groups and updates a policy on them, as training does.

    Args:
        point: what is sampled; its model is a folder.
        processes: that take the step together.
    """

    def __init__(self, point: Point, processes: Processes = ALONE) -> None:
        self._point = point
        self._model, tokenizer = load_model(point.model)
        self._recipe = benchmark_recipe(
            reflection_tokens=point.completion,
            failures=point.failures,
            group_size=point.group_size,
        )
        engine = LocalEngine(self._model, tokenizer, dtype=torch.bfloat16, eos_ids=())
        self._engine = processes.engine(engine)
        loss = make_objective(self._recipe).loss
        policy = FullPolicy(self._model)
        self._updater = make_updater(policy, loss, self._recipe, processes=processes)

    def take(self, number: int) -> dict[str, Any]:
        """Take a step; return what ``Turn`` holds of it."""
        point, device = self._point, self._model.device
        draw = random.Random(number)
        vocabulary = range(3, self._model.config.vocab_size)
        prompts = [tuple(draw.choices(vocabulary, k=point.prompt)) for _ in range(point.failures)]
        found: list[list[Completion]] = []

        def sample() -> None:
            self._engine.update_weights(self._model, version=number + 1)
            sampling = Sampling(TEMPERATURE, point.completion, number)
            found.extend(self._engine.generate(prompts, point.group_size, sampling))
            self._engine.reset_cache()

        rollout_seconds, rollout_peak = weighed(sample, device)
        groups = [
            scored_group(prompt, [each.token_ids for each in group], self._recipe)
            for prompt, group in zip(prompts, found, strict=True)
        ]
        update_seconds, update_peak = weighed(lambda: self._updater.update(groups), device)
        arithmetic = Arithmetic.of(self._model)
        shape = point.prompt, point.completion, point.group_size
        rollout_flops = point.failures * arithmetic.rollout(*shape)
        update_flops = point.failures * arithmetic.group(*shape)
        return {
            "seconds": rollout_seconds + update_seconds,
            "tokens": point.failures * point.group_size * point.completion,
            "flops": rollout_flops + update_flops,
            "peak_bytes": max(rollout_peak, update_peak),
            "details": {
                "rollout_seconds": rollout_seconds,
                "update_seconds": update_seconds,
                "rollout_flops": rollout_flops,
                "update_flops": update_flops,
                "rollout_peak_bytes": rollout_peak,
                "update_peak_bytes": update_peak,
                "weights": arithmetic.weights,
                "processes": point.processes,
            },
        }


def _main() -> None:
    parser = argparse.ArgumentParser(description="Take a step for every line on standard input.")
    parser.add_argument("point", type=json.loads, help="what is sampled, as JSON")
    launch = launched()
    processes = Processes(launch)
    step = Step(Point(**parser.parse_args().point), processes)
    while line := processes.first(sys.stdin.readline, str):
        taken = step.take(json.loads(line))
        if processes.leads:
            say(taken)
    if launch is not None:
        launch.part()


if __name__ == "__main__":
    _main()
