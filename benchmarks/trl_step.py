"""TRL's side of the step benchmark: one step of ``GRPOTrainer.train()``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.groups import LEARNING_RATE, TEMPERATURE
from benchmarks.workload import Workload
from mulligan.models.load import load_model


def trl(scratch: Path, work: Workload, name: str) -> Callable[[int], float]:
    """Return TRL's step: all rows are generated together, and trained on a group at a time."""
    model, tokenizer = load_model(name, "bfloat16")
    sizes, clock = work.sizes, _Clock()

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        seed = trainer.args.seed
        groups = work.by_transformers(model, work.prompts, sizes.samples, sizes.reflection, seed)
        retries = work.by_transformers(model, work.retry_prompts(groups), 1, sizes.retry, seed + 1)
        problems = [f.attempt.problem for f in work.failures for _ in range(sizes.samples)]
        texts = [work.completion(ids).text for [ids] in retries]
        passed = [v.passed for v in work.verify(list(zip(problems, texts, strict=True)))]
        # TRL asks for every failure once, in an order of its own: a prompt is a failure's number.
        rows = [
            (int(prompt), j) for prompt in prompts[:: sizes.samples] for j in range(sizes.samples)
        ]
        return {
            "prompt_ids": [list(work.prompts[i]) for i, _ in rows],
            "completion_ids": [list(groups[i][j]) for i, j in rows],
            "logprobs": None,
            "passed": [passed[i * sizes.samples + j] for i, j in rows],
        }

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda passed, **_: [float(each) for each in passed],
        args=GRPOConfig(
            output_dir=str(scratch),
            use_cpu=model.device.type == "cpu",
            bf16=False,  # the weights are bfloat16 already
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
            per_device_train_batch_size=sizes.samples,
            gradient_accumulation_steps=sizes.failures,
            num_generations=sizes.samples,
            max_completion_length=sizes.reflection,
            temperature=TEMPERATURE,
            learning_rate=LEARNING_RATE,
            beta=0.0,
            max_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(sizes.failures)]}),
        processing_class=tokenizer,
        callbacks=[clock],
        rollout_func=rollout,
    )

    trainer.remove_callback(PrinterCallback)

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
