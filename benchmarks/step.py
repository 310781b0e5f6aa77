"""One whole optimiser step of the method, from failures to updated weights, against TRL.

The work is described in ``workload``. Ours is the trainer's own step: send the weights, reflect,
retry, judge, and update float32 weights with AdamW under bfloat16 autocast. TRL's is one step of
``GRPOTrainer.train()`` with a ``rollout_func`` that reflects and retries by ``generate``, and a
reward function that passes the retry's verdict on. TRL holds its weights in bfloat16 and has
gradient checkpointing switched off, both of which make it faster here.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.machine import measure, middle, seconds
from benchmarks.workload import FAILURES, MODEL, REFLECTION, RETRY, SAMPLES, TEMPERATURE, Workload
from mulligan.config import Recipe
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.failures import FailureStore
from mulligan.logprobs.certainty import certainty_of
from mulligan.logprobs.likelihood import likelihood_of
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy
from mulligan.objectives.base import Evidence
from mulligan.objectives.objective import make_objective
from mulligan.tasks.countdown.task import Countdown
from mulligan.trainer.rollouts import Rollouts
from mulligan.trainer.update import make_updater
from mulligan.verifiers.pool import InProcessVerifier

LEARNING_RATE = 1e-6
Step = Callable[[int], float]
"""Number of the step to the seconds that it took."""


def run(quick: bool) -> dict[str, Any]:
    """Let both take their steps in turn and print a table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure(device, torch.bfloat16)
    print(machine)
    taken: dict[str, list[float]] = {"mulligan": [], "trl": []}
    with tempfile.TemporaryDirectory() as folder:
        steps = {"mulligan": ours(Path(folder)), "trl": trl(Path(folder))}
        # One step to warm up; TRL's own takes minutes on a CPU, so a quick run goes without.
        for name in ("mulligan",) if quick else tuple(steps):
            steps[name](0)
        for number in range(1, 2 if quick else 4):
            for name, step in steps.items():
                taken[name].append(step(number))
                print(f"{name}: {taken[name][-1]:.1f} s", flush=True)
    ratio = median(t / m for t, m in zip(taken["trl"], taken["mulligan"], strict=True))
    print(f"{ratio:.2f}x TRL")
    return {
        "benchmark": "step",
        "device": machine.device,
        "ratios": {"trl": ratio},
        "share_of_limit": None,
        "cases": [
            {"failures": FAILURES, "group_size": SAMPLES, "ratio": ratio}
            | {"seconds": {name: middle(values) for name, values in taken.items()}}
        ],
    }


def ours(folder: Path) -> Step:
    """Return our step."""
    policy, tokenizer = load_model(MODEL)
    work = Workload(tokenizer)
    store = FailureStore(folder / "failures.jsonl")
    for failure in work.failures:
        store.append(failure)
    recipe = Recipe.model_validate(
        {
            "name": "step",
            "task": "countdown",
            "generate": {
                "temperature": TEMPERATURE,
                "answer_tokens": RETRY,
                "reflection_tokens": REFLECTION,
            },
            "collect": {"problems": FAILURES},
            "train": {
                "steps": 100,
                "failures_per_step": FAILURES,
                "group_size": SAMPLES,
                "learning_rate": LEARNING_RATE,
                "kl_beta": 0.0,
                "loss": "dapo",
            },
            "evaluate": {"problems": 1},
        }
    )
    engine = LocalEngine(policy, tokenizer, dtype=torch.bfloat16, eos_ids=work.stops)
    objective = make_objective(recipe)
    rollouts = Rollouts(engine, work.conversations, work.verify, store, recipe, objective)
    updater = make_updater(FullPolicy(policy), objective.loss, recipe)
    verifier = InProcessVerifier(Countdown())
    scores = likelihood_of(policy), certainty_of(policy)
    evidence = Evidence(0, verifier, work.conversations, *scores)

    def step(number: int) -> None:
        engine.update_weights(policy, version=number)
        updater.update(rollouts.draw(number, evidence).trained)

    return lambda number: seconds(partial(step, number), policy.device)


def trl(folder: Path) -> Step:
    """Return TRL's step: all of its rows are generated together, and trained on eight at a time."""
    model, tokenizer = load_model(MODEL, "bfloat16")
    work = Workload(tokenizer)
    clock = _Clock()

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        seed = trainer.args.seed
        groups = work.by_transformers(model, work.prompts, SAMPLES, REFLECTION, seed)
        retries = work.by_transformers(model, work.retry_prompts(groups), 1, RETRY, seed + 1)
        problems = [f.attempt.problem for f in work.failures for _ in range(SAMPLES)]
        texts = [work.completion(ids).text for [ids] in retries]
        passed = [v.passed for v in work.verify(list(zip(problems, texts, strict=True)))]
        # TRL asks for every failure once, in an order of its own: a prompt is a failure's number.
        rows = [(int(prompt), j) for prompt in prompts[::SAMPLES] for j in range(SAMPLES)]
        return {
            "prompt_ids": [list(work.prompts[i]) for i, _ in rows],
            "completion_ids": [list(groups[i][j]) for i, j in rows],
            "logprobs": None,
            "passed": [passed[i * SAMPLES + j] for i, j in rows],
        }

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda passed, **_: [float(each) for each in passed],
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            use_cpu=model.device.type == "cpu",
            bf16=False,  # the weights are bfloat16 already
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
            per_device_train_batch_size=SAMPLES,
            gradient_accumulation_steps=FAILURES,
            num_generations=SAMPLES,
            max_completion_length=REFLECTION,
            temperature=TEMPERATURE,
            learning_rate=LEARNING_RATE,
            beta=0.0,
            max_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(FAILURES)]}),
        processing_class=tokenizer,
        callbacks=[clock],
        rollout_func=rollout,
    )

    def step(number: int) -> float:
        trainer.args.seed = 100 + number
        trainer.train()
        return clock.seconds

    return step


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times a step of TRL without what ``train()`` does around it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock; generation comes after this."""
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock; the optimiser has stepped."""
        self.seconds = time.perf_counter() - self._start
