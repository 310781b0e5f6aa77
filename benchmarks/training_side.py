"""One side of the training benchmark, in a process of its own: a step for each question."""

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from benchmarks.groups import LORA, TEMPERATURE, benchmark_recipe, random_group, scored_group
from benchmarks.machine import weighed
from benchmarks.models import Arithmetic
from benchmarks.side import serve
from mulligan.models.load import load_model, load_tokenizer
from mulligan.models.policies import FullPolicy, LoraPolicy, Policy
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.objective import make_objective
from mulligan.trainer.update import TokenSums, make_updater

DTYPE = torch.bfloat16
Options = dict[str, Any]
Step = Callable[[], None]


def ours(model: PreTrainedModel, options: Options) -> Step:
    """Return our step: what the trainer computes of a batch of one group."""
    _, completion, size = options["shape"]
    recipe = benchmark_recipe(
        reflection_tokens=completion,
        group_size=size,
        gradient_checkpointing=options["checkpointing"],
    )
    policy: Policy = FullPolicy(model)
    if options["lora"]:
        policy = LoraPolicy(model, **LORA, base=options["folder"], seed=0)
    model.train()
    updater = make_updater(policy, make_objective(recipe).loss, recipe)
    group = scored_group(tuple(options["shape"]), recipe)

    def step() -> None:
        for loss in updater.losses([group]):
            loss(TokenSums()).backward()
        model.zero_grad()

    return step


def trl(model: PreTrainedModel, options: Options) -> Step:
    """Return the step of TRL's trainer, from the batch that its own generation would have left."""
    return _trl_step(_trainer(GRPOTrainer, model, options), options)


def trl_without_entropies(model: PreTrainedModel, options: Options) -> Step:
    """Return TRL's step without the entropies that it computes for its log."""
    trainer = _trainer(_WithoutEntropies, model, options)
    # Its head is put on anew, to compute log-probs alone.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, temperature=TEMPERATURE, outputs=("log_probs",))
    return _trl_step(trainer, options)


class _WithoutEntropies(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, whose log gets zeros for entropies."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **options: Any) -> Any:
        options["compute_entropy"] = False
        logprobs, _, auxiliary = super()._get_per_token_logps_and_entropies(*args, **options)
        return logprobs, torch.zeros_like(logprobs), auxiliary


def _trainer(kind: type[GRPOTrainer], model: PreTrainedModel, options: Options) -> GRPOTrainer:
    adapters = None
    if options["lora"]:
        adapters = LoraConfig(
            r=LORA["rank"],
            lora_alpha=LORA["alpha"],
            target_modules=LORA["targets"],
            task_type="CAUSAL_LM",
        )
    size = options["shape"][2]
    trainer = kind(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=options["output"],
            use_cpu=model.device.type == "cpu",
            bf16=False,  # the weights are bf16 already, as ours are
            report_to="none",
            gradient_checkpointing=options["checkpointing"],
            per_device_train_batch_size=size,
            num_generations=size,
            temperature=TEMPERATURE,
            beta=0.0,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["-"]}),
        processing_class=load_tokenizer(options["folder"]),
        peft_config=adapters,
    )
    if options["checkpointing"]:
        trainer.model.gradient_checkpointing_enable()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1
    return trainer


def _trl_step(trainer: GRPOTrainer, options: Options) -> Step:
    prompt_ids, completions, rewards_G = random_group(tuple(options["shape"]))
    device, rows = trainer.model.device, options["rows"]
    prompts = torch.tensor([prompt_ids] * len(completions), device=device)
    replies = torch.tensor(completions, device=device)
    advantages = torch.tensor(group_advantages(rewards_G), device=device)

    def step() -> None:
        for at in range(0, len(completions), rows):
            part = slice(at, at + rows)
            batch = {
                "prompt_ids": prompts[part],
                "prompt_mask": torch.ones_like(prompts[part]),
                "completion_ids": replies[part],
                "completion_mask": torch.ones_like(replies[part]),
                "advantages": advantages[part],
                "num_items_in_batch": torch.tensor(replies.numel(), device=device),
            }
            trainer._compute_loss(trainer.model, batch).backward()
        trainer.model.zero_grad()

    return step


STEPS = {"mulligan": ours, "trl": trl, "trl without entropies": trl_without_entropies}


def _main() -> None:
    parser = argparse.ArgumentParser(description="Take a step for every line on standard input.")
    parser.add_argument("side", choices=tuple(STEPS))
    parser.add_argument("options", type=json.loads, help="the case, as JSON")
    given = parser.parse_args()
    options = given.options
    model, _ = load_model(options["folder"], DTYPE)
    flops = Arithmetic.of(model).group(*options["shape"], frozen=options["lora"])
    with tempfile.TemporaryDirectory() as options["output"]:
        step = STEPS[given.side](model, options)

        def answer(_: int) -> dict[str, float]:
            taken, peak = weighed(step, model.device)
            return {"seconds": taken, "peak_bytes": peak, "flops": flops}

        serve(answer)


if __name__ == "__main__":
    _main()
