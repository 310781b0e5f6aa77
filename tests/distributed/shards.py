"""What a process of a launch computes and trains with its shard of a policy."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from shares import BATCHES, RAGGED, SETTINGS

from hand_made import make_loss
from mulligan.config import override_recipe
from mulligan.interrupt import StoppedEarly
from mulligan.logprobs import shared_prompt
from mulligan.models.policies import FullPolicy, LoraPolicy
from mulligan.models.shards import is_sharded, whole
from mulligan.trainer import sharding
from mulligan.trainer.distributed import Processes
from mulligan.trainer.launch import Launch
from mulligan.trainer.update import make_updater
from tiny import tiny_recipe
from tiny_models import make_model
from training_bench import Bench


def lora_policy(model):
    """A policy with adapters that do something."""
    policy = LoraPolicy(model, rank=4, alpha=8, targets="all-linear", base="tiny", seed=1)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, each in policy.model.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1)
    return policy


LORA = ("lora={rank: 4, alpha: 8}", "train.average_from=0.25")
"""With a mean of weights that is begun by step 2."""
POLICIES = {
    "full": FullPolicy,
    "lora": lora_policy,
    "lora on bfloat16": lambda model: lora_policy(model.to(torch.bfloat16)),
}


PLAIN = "a row for each completion"
CASES = {
    "all weights": ("ragged", "full"),
    "adapters": ("ragged", "lora"),
    "adapters on bfloat16 weights": (
        "ragged",
        "lora on bfloat16",
        "dtype=bfloat16",
        "train.rollout_epochs=1",
    ),
    "a clipped gradient": ("ragged", "full", "train.max_grad_norm=0.5"),
    "activations computed twice": ("ragged", "full", "train.gradient_checkpointing=true"),
    "a process without anything to score": (
        "one group teaches",
        "full",
        "train.dead_groups=skip",
    ),
    PLAIN: ("ragged", "full"),
    "nothing to score": ("no group teaches", "full", "train.dead_groups=skip"),
    "a loss that is not finite": ("a loss that is not finite", "full"),
}
"""Batch, policy and changes of the settings."""


def update(batch, policy, processes, *overrides):
    """Update a tiny policy on a batch; return its gradients and weights, and what is said."""
    recipe = override_recipe(tiny_recipe(), [*SETTINGS, "train.shard=true", *overrides], "shards")
    made = POLICIES[policy](make_model("llama"))
    loss = make_loss("dapo", kl_beta=0.1)
    updater = make_updater(made, loss, recipe, processes=processes)
    model, tensors, steps = made.model, {}, []
    assert all(is_sharded(each) for each in model.parameters()) == (processes.count > 1)

    def note(*_):
        steps.append(None)
        for name, each in model.named_parameters():
            if each.grad is not None:
                tensors[f"gradient {len(steps)} {name}"] = whole(each.grad).clone()

    updater.optimizer.optimizer.register_step_pre_hook(note)
    done, sums = updater.update(batch)
    weights = {name: whole(each).clone() for name, each in model.named_parameters()}
    return tensors | weights, asdict(done) | asdict(sums)


def updates(processes):
    """Update on every batch; return all tensors and all numbers, by names."""
    tensors, numbers = {}, {}
    for case, (batch, policy, *overrides) in CASES.items():
        plain = patch.object(shared_prompt, "why_not_shared", return_value="the test says so")
        with plain if case == PLAIN else nullcontext():
            found, numbers[case] = update(BATCHES[batch], policy, processes, *overrides)
        tensors |= {f"{case}: {key}": each for key, each in found.items()}
    return tensors, numbers


def averaged(processes):
    """The gradients of the mistake that FSDP's averaging is left as it is."""
    undone, sharding._sum_gradients = (
        sharding._sum_gradients,
        lambda module: module.set_force_sum_reduction_for_comms(
            True
        ),  # gloo itself would sum instead of average
    )
    try:
        return update(RAGGED, "full", processes)[0]
    finally:
        sharding._sum_gradients = undone


def locally_normalised(processes):
    """The gradients of the mistake that each process counts the tokens of its own groups only."""
    loss = type(make_loss("dapo", kl_beta=0.1))
    count = loss.normaliser

    def own(self, groups):
        return count(self, processes.share(groups))

    with patch.object(loss, "normaliser", own):
        return update(RAGGED, "full", processes)[0]


def train(folder, model, processes):
    """Train with shards, from the start and from stops of one process and of two."""
    bench = Bench(folder, model)
    for name, *overrides in (
        ("two",),
        ("two-lora", *LORA),
        ("one-then-two",),
        ("two-then-one", "train.stop_after=2"),
        ("two-then-one-lora", "train.stop_after=2", *LORA),
        ("two-then-two", "train.stop_after=3"),
        ("two-then-two",),
    ):
        try:
            bench.train(name, "train.shard=true", *overrides, processes=processes)
        except StoppedEarly:
            continue


def main(folder, model):
    """Do everything as one of several processes, and write down what came of it."""
    launch = Launch()
    processes = Processes(launch)
    tensors, numbers = updates(processes)
    for mistake, found in (
        ("averaged", averaged(processes)),
        ("local normaliser", locally_normalised(processes)),
    ):
        tensors |= {f"{mistake}: {key}": each for key, each in found.items()}
    train(folder, model, processes)
    launch.part()
    save_file(tensors, folder / f"rank-{processes.rank}.safetensors")
    (folder / f"rank-{processes.rank}.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
