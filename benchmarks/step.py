"""One whole optimiser step of the method, from failures to updated weights, against TRL.

The work is described in ``workload``. Ours is the trainer's own step: send the weights, reflect,
retry, judge, and update float32 weights with AdamW under bfloat16 autocast. TRL's is one step of
``GRPOTrainer.train()`` with a ``rollout_func`` that reflects and retries by ``generate``, and a
reward function that passes the retry's verdict on. TRL holds its weights in bfloat16 and has
gradient checkpointing switched off, both of which make it faster here.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks.cases import OURS, Case, Play, Settings, Turn
from benchmarks.groups import benchmark_recipe
from benchmarks.machine import seconds
from benchmarks.models import model_folder
from benchmarks.workload import Sizes, Workload
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.failures import FailureStore
from mulligan.logprobs.certainty import certainty_of
from mulligan.logprobs.likelihood import likelihood_of
from mulligan.models.load import load_model, load_tokenizer
from mulligan.models.policies import FullPolicy
from mulligan.objectives.base import Evidence
from mulligan.objectives.objective import make_objective
from mulligan.tasks.countdown.task import Countdown
from mulligan.trainer.failure_sources import StoredFailures
from mulligan.trainer.rollouts import Rollouts
from mulligan.trainer.update import make_updater
from mulligan.verifiers.pool import InProcessVerifier

Step = Callable[[int], float]
"""Number of the step to the seconds that it took."""
WORK: Mapping[str, Mapping[str, Sizes]] = {
    "full": {
        "method": Sizes(),
        "512-token reflections": Sizes(failures=2, reflection=512, stops=False),
    },
    "quick": {"method": Sizes()},
    "tiny": {"method": Sizes(2, 2, 6, 4)},
}


def cases(settings: Settings) -> list[Case]:
    """Return the cases of a size."""
    return [
        Case(
            name,
            {side: partial(_side, step, settings.model, sizes) for side, step in STEPS.items()},
            {"sizes": asdict(sizes)},
        )
        for name, sizes in WORK[settings.size].items()
    ]


def trl(scratch: Path, work: Workload, model: str) -> Step:
    """Return TRL's step."""
    from benchmarks import trl_step  # noqa: PLC0415  (TRL takes seconds to import)

    return trl_step.trl(scratch, work, model)


@contextmanager
def _side(make: Callable[[Path, Workload, str], Step], model: str, sizes: Sizes) -> Iterator[Play]:
    folder = model_folder(model)
    tokenizer = load_tokenizer(folder)
    with tempfile.TemporaryDirectory() as scratch:
        step = make(Path(scratch), Workload(tokenizer, model, sizes), folder)
        yield lambda number: Turn(step(number + 1))  # steps count from 1


def ours(scratch: Path, work: Workload, model: str) -> Step:
    """Return our step."""
    policy, tokenizer = load_model(model)
    store = FailureStore(scratch / "failures.jsonl")
    for failure in work.failures:
        store.append(failure)
    recipe = benchmark_recipe(
        reflection_tokens=work.sizes.reflection,
        answer_tokens=work.sizes.retry,
        failures=work.sizes.failures,
        group_size=work.sizes.samples,
    )
    engine = LocalEngine(policy, tokenizer, dtype=torch.bfloat16, eos_ids=work.stops)
    objective = make_objective(recipe)
    failures = StoredFailures(store, recipe.seed, work.sizes.failures)
    rollouts = Rollouts(engine, work.conversations, work.verify, failures, recipe, objective)
    updater = make_updater(FullPolicy(policy), objective.loss, recipe)
    verifier = InProcessVerifier(Countdown())
    scores = likelihood_of(policy), certainty_of(policy)
    evidence = Evidence(0, verifier, work.conversations, *scores)

    def step(number: int) -> None:
        engine.update_weights(policy, version=number)
        updater.update(rollouts.draw(number, evidence).trained)

    return lambda number: seconds(partial(step, number), policy.device)


STEPS = {OURS: ours, "trl": trl}
