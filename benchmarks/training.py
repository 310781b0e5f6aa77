"""Log-probs, loss and backward of one group: Mulligan against TRL's GRPOTrainer, same tokens.

TRL runs its own ``_compute_loss`` on a batch as its own generation would leave it. Its gradient
checkpointing, on by default, is off for the ratios: without it TRL is faster. Each works in a
process of its own, and they take their steps in turn. Peak memory is what a step adds to a process
that has loaded the model, gradients included.
"""

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from benchmarks.machine import Machine, measure, middle, seconds
from mulligan.config import Train
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.load import DEFAULT_MODEL, load_model, load_tokenizer
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.base import Scores
from mulligan.objectives.losses.dapo import Dapo

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
    with peers() as sides:
        cases = [compared(shape, sides, 1 if quick else 3, machine) for shape in TIMED]
        ratios = [case["ratio"] for case in cases]
        if not quick:
            cases.append(compared(WEIGHED, sides, 1, machine))
        growth = [] if quick else grow(sides["mulligan"])
    if not quick:
        with peers("--checkpointing") as sides:
            print("With gradient checkpointing:")
            case = compared(WEIGHED, sides, 1, machine)
            cases.append({"gradient_checkpointing": True, **case})
    return {
        "benchmark": "training",
        "device": machine.device,
        "ratios": {"trl": median(ratios)},
        "share_of_limit": cases[0]["share_of_limit"],
        "cases": cases,
        "growth": growth,
    }


class Side:
    """A process that takes steps and says what each took."""

    def __init__(self, name: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.step(WARM_UP)

    def step(self, shape: Shape) -> dict[str, float]:
        """Take one step; return its ``seconds`` and ``peak_bytes``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(shape), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("step "):
                answer: dict[str, float] = json.loads(line.removeprefix("step "))
                return answer
        raise RuntimeError(f"A side ended with code {self._process.wait()}; see its errors above.")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def peers(*options: str) -> Iterator[dict[str, Side]]:
    """Start both sides, one after the other, and end them."""
    with ExitStack() as stack:
        sides = {}
        for name in STEPS:
            sides[name] = Side(name, *options)
            stack.callback(sides[name].close)
        yield sides


def compared(
    shape: Shape, sides: dict[str, Side], repeats: int, machine: Machine
) -> dict[str, Any]:
    """Let the sides step in turn, so that whatever else the machine does meets them alike."""
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            steps[name].append(side.step(shape))
    taken = {name: [step["seconds"] for step in each] for name, each in steps.items()}
    peaks = {name: median(step["peak_bytes"] for step in each) for name, each in steps.items()}
    case = {
        "shape": shape,
        "ratio": median(t / m for t, m in zip(taken["trl"], taken["mulligan"], strict=True)),
        "memory_ratio": peaks["trl"] / peaks["mulligan"],
        "share_of_limit": flops(shape) / median(taken["mulligan"]) / machine.matmul_flops,
        "seconds": {name: middle(values) for name, values in taken.items()},
        "peak_bytes": peaks,
    }
    print(
        f"{shape}: {case['ratio']:.2f} x as fast as TRL, {case['share_of_limit']:.0%} of the limit,"
        f" {case['memory_ratio']:.2f} x less memory"
    )
    for name, spread in case["seconds"].items():
        times = f"{spread['median']:.2f} s ({spread['low']:.2f} to {spread['high']:.2f})"
        print(f"  {name:9} {times}, {peaks[name] / 2**30:.2f} GiB", flush=True)
    return case


def grow(side: Side) -> list[dict[str, Any]]:
    """Time our step over group sizes and prompts, beside what counting its work predicts."""
    rows = []
    for shape in GROWTH:
        taken = [side.step(shape)["seconds"] for _ in range(3)]
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
    scorer, dapo = GroupScorer(model), Dapo(Train(steps=1, kl_beta=0.0), 0, (0.0, 1.0))

    def step(shape: Shape) -> None:
        prompt_ids, completions, rewards_G = group(shape)
        logprobs_GR, mask_GR = scorer(prompt_ids, completions, TEMPERATURE)
        scores = Scores(logprobs_GR, mask_GR, group_advantages(rewards_G))
        loss, _ = dapo(scores, float(sum(map(len, completions))))
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


STEPS = {"mulligan": ours, "trl": trl}


def weighed(step: Step, shape: Shape) -> dict[str, float]:
    """Take a step; return its seconds, and the most bytes it held beyond what was there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        taken = seconds(lambda: step(shape), torch.device("cuda"))
        peak = torch.cuda.max_memory_allocated() - before
    else:
        ctypes.CDLL(None).malloc_trim(
            0
        )  # memory kept from earlier steps would hide what this needs
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        before = _status("VmRSS")
        taken = seconds(lambda: step(shape), torch.device("cpu"))
        peak = _status("VmHWM") - before
    return {"seconds": taken, "peak_bytes": peak}


def _status(field: str) -> int:
    """Return a line of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Take a step for every shape on standard input.")
    parser.add_argument("name", choices=tuple(STEPS))
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    step = STEPS[options.name](options.checkpointing)
    for line in sys.stdin:
        print("step", json.dumps(weighed(step, tuple(json.loads(line)))), flush=True)


if __name__ == "__main__":
    _main()
