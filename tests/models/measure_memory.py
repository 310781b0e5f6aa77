"""Measure two training updates of the 135M model, in a process of its own, on the CPU or a GPU.

Prints the peak above the loaded process, and what was planned for it, in bytes, as JSON.
"""

import json
import re
import sys
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # loaded before the count begins

from mulligan.config import check_recipe
from mulligan.engines.local.engine import LocalEngine
from mulligan.logprobs.packing import PromptGroup
from mulligan.models.load import load_model
from mulligan.models.memory import Demands, Shape, plan_stages
from mulligan.models.policies import FullPolicy, LoraPolicy
from mulligan.objectives.objective import make_objective
from mulligan.trainer.update import make_updater

ANSWER = 20
"""Tokens of the failed answer, which are part of a reflection's prompt."""


def memory(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024


class PeakOfProcess:
    """The resident memory of this process."""

    def __init__(self):
        self.before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")

    def above(self):
        return memory("VmHWM") - self.before


class PeakOfGpu:
    """What torch has allocated on the GPU."""

    def __init__(self):
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()

    def above(self):
        return torch.cuda.max_memory_allocated() - self.before


def make_group(setting, number):
    """A prompt and its completions, of tokens that differ between groups."""
    prompt = tuple(range(100 + number, 100 + number + setting["prompt"]))
    rows = [
        tuple((row * 37 + place + number) % 40000 + 50 for place in range(setting["reflection"]))
        for row in range(setting["group"])
    ]
    return prompt, rows


def main():
    setting = json.loads(sys.argv[1])
    device, count = setting.get("device", "cpu"), setting.get("groups", 1)
    recipe = check_recipe(
        {
            "name": "measured",
            "task": "countdown",
            "dtype": "bfloat16",
            "lora": setting.get("lora"),
            "generate": {"answer_tokens": ANSWER, "reflection_tokens": setting["reflection"]},
            "engine": {"kind": "local", "memory_gib": 0.001},
            "collect": {"problems": 8},
            "evaluate": {"problems": 8},
            "train": {"steps": 2, "failures_per_step": count, "group_size": setting["group"]}
            | setting["train"],
        },
        "measured",
    )
    peak = PeakOfProcess() if device == "cpu" else PeakOfGpu()
    model, tokenizer = load_model("smollm2-135m", "bfloat16" if recipe.lora else "float32", device)
    shape = Shape.of(model)
    engine = LocalEngine(model, tokenizer, dtype=torch.bfloat16)
    policy = (
        LoraPolicy(model, **recipe.lora.model_dump(), base="smollm2-135m", seed=0)
        if recipe.lora
        else FullPolicy(model)
    )
    updater = make_updater(policy, make_objective(recipe).loss, recipe)
    groups = [
        PromptGroup(prompt, rows[part])
        for prompt, rows in (make_group(setting, number) for number in range(count))
        for part in updater.scorer.parts(prompt, rows)
    ]
    passes = updater.scorer.streams(groups)

    def loss(together):
        if updater.reference is not None:
            with torch.no_grad(), updater.as_reference():
                updater.reference.score(groups[together], 0.9)
        scored = updater.scorer.score(groups[together], 0.9)
        return -torch.stack([logprobs_GR.mean() for logprobs_GR, _ in scored]).sum()

    for version in (1, 2):
        engine.update_weights(policy.model, version)
        updater.optimizer.step(lambda each=each: loss(each) for each in passes)
    adapter = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    plan = plan_stages(
        shape,
        recipe,
        Demands(setting["prompt"] - ANSWER, reference=updater.reference is not None),
        adapter=adapter if recipe.lora else 0,
        on_cpu=device == "cpu",
    )[1]
    print(json.dumps({"measured": peak.above(), "planned": plan.total}))  # noqa: T201


main()
