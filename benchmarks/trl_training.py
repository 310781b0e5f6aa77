"""TRL's side of the training benchmark: ``GRPOTrainer._compute_loss`` and backward."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from benchmarks.groups import LORA, TEMPERATURE, random_group, rewards_of
from mulligan.models.load import load_tokenizer
from mulligan.objectives.advantages import group_advantages
from mulligan.types import TokenIds

Options = dict[str, Any]
Step = Callable[[], None]


def trl(model: PreTrainedModel, options: Options) -> Step:
    """Return the step of TRL's trainer, from the batch that its own generation would have left."""
    return _trl_step(_trainer(GRPOTrainer, model, options), options)


def trl_without_entropies(model: PreTrainedModel, options: Options) -> Step:
    """Return TRL's step without the entropies that it computes for its log."""
    trainer = _trainer(_WithoutEntropies, model, options)
    # Its head is put on anew, to compute log-probs alone.
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs",))
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
    shape, vocabulary = tuple(options["shape"]), trainer.model.config.vocab_size
    groups = [random_group(shape, vocabulary, number) for number in range(options["groups"])]
    batches = [
        batch
        for prompt_ids, completions in groups
        for batch in _batches(prompt_ids, completions, options, trainer.model.device)
    ]

    def step() -> None:
        for batch in batches:
            trainer._compute_loss(trainer.model, batch).backward()
        trainer.model.zero_grad()

    return step


def _batches(
    prompt_ids: TokenIds, completions: Sequence[TokenIds], options: Options, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a group as TRL's own generation would leave it, so many rows at a time."""
    _, completion, size = options["shape"]
    prompts = torch.tensor([prompt_ids] * size, device=device)
    replies = torch.tensor(completions, device=device)
    advantages = torch.tensor(group_advantages(rewards_of(size)), device=device)
    tokens = torch.tensor(options["groups"] * size * completion, device=device)
    for at in range(0, size, options["rows"]):
        part = slice(at, at + options["rows"])
        yield {
            "prompt_ids": prompts[part],
            "prompt_mask": torch.ones_like(prompts[part]),
            "completion_ids": replies[part],
            "completion_mask": torch.ones_like(replies[part]),
            "advantages": advantages[part],
            "num_items_in_batch": tokens,
        }


STEPS = {"trl": trl, "trl without entropies": trl_without_entropies}
