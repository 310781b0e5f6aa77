"""Log-probs, loss and backward of one group: Mulligan against TRL's GRPOTrainer, same tokens.

TRL runs its own ``_compute_loss`` on a batch as its own generation would leave it. Its gradient
checkpointing, on by default, is off for the ratios: without it TRL is faster. Peak memory is what a
step adds to a process that has loaded the model, gradients included, each in a process of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from benchmarks.machine import Machine, measure, middle, seconds
from mulligan.grpo.advantages import group_advantages
from mulligan.grpo.loss import grpo_loss, loss_normaliser
from mulligan.grpo.trunk import Trunk
from mulligan.models import DEFAULT_MODEL, load_model, load_tokenizer

Shape = tuple[int, int, int]
"""Prompt tokens, completion tokens, completions."""
Step = Callable[[Shape], None]

TIMED: list[Shape] = [(500, 150, 8), (1000, 50, 14)]
WEIGHED: Shape = (1000, 150, 8)
WARM_UP: Shape = (20, 4, 2)
GROWTH: list[Shape] = [
    *((500, 100, size) for size in (2, 4, 8, 12, 16)),
    *((prompt, 100, 8) for prompt in (100, 250, 1000, 1500, 2000)),
]
TEMPERATURE = 0.9
DTYPE = torch.bfloat16
MODEL = os.environ.get("MULLIGAN_BENCHMARK_MODEL", DEFAULT_MODEL)


def run(quick: bool) -> dict[str, Any]:
    """Time and weigh every case; print a table, return the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure(device, DTYPE)
    print(machine)
    # Weighed before this process holds models of its own: TRL's step alone takes much of 24 GiB.
    weights = [weighed(checkpointing) for checkpointing in ((False,) if quick else (False, True))]
    steps = {"mulligan": ours(), "trl": trl()}
    cases = [timed(shape, steps, device, 2 if quick else 3, machine) for shape in TIMED]
    cases += weights
    growth = [] if quick else grow(steps["mulligan"], device)
    return {
        "benchmark": "training",
        "device": machine.device,
        "ratios": {"trl": median(case["ratio"] for case in cases if "ratio" in case)},
        "share_of_limit": cases[0]["share_of_limit"],
        "cases": cases,
        "growth": growth,
    }


def timed(
    shape: Shape, steps: dict[str, Step], device: torch.device, repeats: int, machine: Machine
) -> dict[str, Any]:
    """Time the steps in turn, so that whatever else the machine does meets them alike."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(WARM_UP)
    for _ in range(repeats):
        for name, step in steps.items():
            taken[name].append(seconds(lambda step=step: step(shape), device))
    pairs = zip(taken["trl"], taken["mulligan"], strict=True)
    case = {
        "shape": shape,
        "ratio": median(theirs / our for theirs, our in pairs),
        "share_of_limit": flops(shape) / median(taken["mulligan"]) / machine.matmul_flops,
        "seconds": {name: middle(values) for name, values in taken.items()},
    }
    print(f"{shape}: {case['ratio']:.2f} x TRL, {case['share_of_limit']:.0%} of the limit")
    for name, spread in case["seconds"].items():
        print(f"  {name:9} {spread['median']:.2f} s ({spread['low']:.2f} to {spread['high']:.2f})")
    return case


def weighed(checkpointing: bool) -> dict[str, Any]:
    """Measure the peak memory of one step of each, in a process of its own."""
    peaks = {name: peak_in_a_process(name, WEIGHED, checkpointing) for name in ("mulligan", "trl")}
    case = {
        "shape": WEIGHED,
        "gradient_checkpointing": checkpointing,
        "memory_ratio": peaks["trl"] / peaks["mulligan"],
        "peak_bytes": peaks,
    }
    how = "with" if checkpointing else "without"
    print(f"{WEIGHED}, {how} gradient checkpointing: {case['memory_ratio']:.2f} x less memory")
    for name, peak in peaks.items():
        print(f"  {name:9} {peak / 2**30:.2f} GiB above the loaded model")
    return case


def grow(step: Step, device: torch.device) -> list[dict[str, Any]]:
    """Time our step over group sizes and prompts, beside what counting its work predicts."""
    rows = []
    for shape in GROWTH:
        taken = [seconds(lambda shape=shape: step(shape), device) for _ in range(3)]
        rows.append({"shape": shape, "seconds": middle(taken), "flops": flops(shape)})
    rate = median(row["flops"] / row["seconds"]["median"] for row in rows)
    for row in rows:
        row["predicted"] = row["flops"] / rate
        ratio = row["seconds"]["median"] / row["predicted"]
        print(f"{row['shape']}: {row['seconds']['median']:.2f} s, {ratio:.2f} x the model")
    return rows


def flops(shape: Shape) -> float:
    """Count forward and backward of SmolLM2-135M on one group with the prompt computed once.

    Two operations a weight and token forward, four backward; scores and their use likewise, over
    the visible keys.
    """
    prompt, completion, size = shape
    backbone, vocabulary, width, layers = 106_203_456, 49_152, 576, 30
    tokens = prompt + size * (completion - 1)
    keys = prompt**2 / 2 + size * completion * (prompt + completion / 2)
    return (
        6.0 * backbone * tokens
        + 6.0 * vocabulary * width * size * completion
        + 12.0 * layers * width * keys
    )


def ours(checkpointing: bool = False) -> Step:
    """Return our step."""
    model = benchmark_model()
    if checkpointing:
        model.gradient_checkpointing_enable()
    trunk = Trunk(model)

    def step(shape: Shape) -> None:
        prompt_ids, completions, rewards_G = group(shape)
        logprobs_GR, mask_GR = trunk(prompt_ids, completions, TEMPERATURE)
        normaliser = loss_normaliser("dapo", [len(ids) for ids in completions], shape[1])
        loss, _ = grpo_loss(logprobs_GR, mask_GR, group_advantages(rewards_G), normaliser)
        loss.backward()
        model.zero_grad()

    return step


def trl(checkpointing: bool = False) -> Step:
    """Return the step of TRL's trainer, from the batch that its own generation would have left."""
    model = benchmark_model()
    device = model.device
    folder = tempfile.TemporaryDirectory()
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=folder.name,
            use_cpu=device.type == "cpu",
            bf16=False,  # the weights are bf16 already, as ours are
            report_to="none",
            gradient_checkpointing=checkpointing,
            per_device_train_batch_size=8,
            num_generations=8,
            temperature=TEMPERATURE,
            beta=0.0,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["-"]}),
        processing_class=load_tokenizer(MODEL),
    )
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1

    def step(shape: Shape) -> None:
        prompt_ids, completions, rewards_G = group(shape)
        prompts = torch.tensor([prompt_ids] * shape[2], device=device)
        replies = torch.tensor(completions, device=device)
        batch = {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": replies,
            "completion_mask": torch.ones_like(replies),
            "advantages": torch.tensor(group_advantages(rewards_G), device=device),
            "num_items_in_batch": torch.tensor(replies.numel(), device=device),
        }
        trainer._compute_loss(trainer.model, batch).backward()
        trainer.model.zero_grad()

    step.folder = folder  # type: ignore[attr-defined]  # lives as long as the step
    return step


def benchmark_model() -> PreTrainedModel:
    """Load the model to train, in bf16."""
    model, _ = load_model(MODEL, DTYPE)
    return model.train()


def group(shape: Shape) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[float]]:
    """Return a prompt, completions and rewards: random tokens, for cost depends on shape alone."""
    prompt, completion, size = shape
    draw = random.Random(repr(shape))
    prompt_ids, *completions = (
        tuple(draw.randrange(100, 40_000) for _ in range(length))
        for length in (prompt, *[completion] * size)
    )
    return prompt_ids, completions, [float(i % 4 == 0) for i in range(size)]


def peak_in_a_process(name: str, shape: Shape, checkpointing: bool) -> float:
    """Run this file as a program, which prints the bytes that one step added at its peak."""
    command = [sys.executable, "-m", "benchmarks.training", name, *map(str, shape)]
    if checkpointing:
        command.append("--checkpointing")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def peak_of_a_step(step: Step, shape: Shape) -> int:
    """Return how many bytes a step needs at its peak beyond what was there before it."""
    step(WARM_UP)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(shape)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status("VmRSS")
    step(shape)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Return a line of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Print the bytes that one step adds at its peak.")
    parser.add_argument("name", choices=("mulligan", "trl"))
    parser.add_argument("shape", type=int, nargs=3)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    step = {"mulligan": ours, "trl": trl}[options.name](options.checkpointing)
    prompt, completion, size = options.shape
    print(json.dumps(peak_of_a_step(step, (prompt, completion, size))))


if __name__ == "__main__":
    _main()
