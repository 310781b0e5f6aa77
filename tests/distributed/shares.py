"""What a process of a launch computes and trains; run alone it computes all of it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from hand_made import make_group, make_loss
from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly
from mulligan.logprobs import shared_prompt
from mulligan.models.policies import FullPolicy
from mulligan.trainer.distributed import Processes
from mulligan.trainer.launch import Launch
from mulligan.trainer.update import make_updater
from mulligan.types import ScoredGroup, Span
from tiny import tiny_recipe
from tiny_models import make_ids, make_model
from training_bench import Bench

SETTINGS = ["train.loss=dapo", "train.kl_beta=0.1", "train.rollout_epochs=2"]
SETTINGS += ["train.max_grad_norm=1e9", "train.warmup_ratio=0"]


def scored_group(seed, lengths, advantages):
    """A group of one prompt with completions of some lengths; one without advantages is dead."""
    prompt = make_ids(5 + seed, seed)
    spans = [
        Span(prompt, make_ids(length, 10 * seed + at), (True,) * length, advantage, None)
        for at, (length, advantage) in enumerate(zip(lengths, advantages, strict=True))
    ]
    group = make_group([each > 0 for each in advantages])
    rewards = tuple(float(each > 0) for each in advantages)
    return ScoredGroup(group, rewards, tuple(advantages), tuple(spans), any(advantages))


RAGGED = [
    scored_group(1, (3, 9, 1), (1.0, -1.0, 0.5)),
    scored_group(2, (4, 4), (0.0, 0.0)),
    scored_group(3, (12, 2, 7, 5), (-1.0, 1.0, 1.0, -1.0)),
    scored_group(4, (1, 15), (1.0, -1.0)),
]
BATCHES = {
    "ragged": RAGGED,
    "one group teaches": RAGGED[:2],
    "no group teaches": RAGGED[1:2],
    "a loss that is not finite": [*RAGGED, scored_group(5, (2, 2), (float("nan"), 1.0))],
}


class LocalNormaliser(Processes):
    """A mistake: each process divides its share by what it counts itself."""

    def share(self, items):
        return items


def update(batch, processes):
    """Update a tiny model on a batch; return gradients, weights, and what the update says."""
    recipe = override_recipe(tiny_recipe(), SETTINGS, "shares")
    loss = make_loss("dapo", kl_beta=0.1)
    updater = make_updater(FullPolicy(make_model("llama")), loss, recipe, processes=processes)
    if isinstance(processes, LocalNormaliser):
        batch = batch[processes.rank :: processes.count]
    policy, tensors, steps = updater.optimizer.policy, {}, []

    def note(*_):
        steps.append(None)
        for name, each in policy.named_parameters():
            if each.grad is not None:
                tensors[f"gradient {len(steps)} {name}"] = each.grad.clone()

    updater.optimizer.optimizer.register_step_pre_hook(note)
    done, sums = updater.update(batch)
    weights = {name: each.detach() for name, each in policy.named_parameters()}
    return tensors | weights, asdict(done) | asdict(sums)


def updates(processes):
    """Update on every batch; return all tensors and all numbers, by names."""
    tensors, numbers = {}, {}
    for name, batch in BATCHES.items():
        found, numbers[name] = update(batch, processes)
        tensors |= {f"{name}: {key}": each for key, each in found.items()}
    return tensors, numbers


def train(folder, model, processes):
    """Train from the start, from a stop of one process, and up to a stop; return the weights."""
    bench, weights = Bench(folder, model), {}
    for name, *overrides in (
        ("two",),
        ("one-then-two",),
        ("two-then-one", "train.stop_after=2"),
        ("two-then-two", "train.stop_after=3"),
        ("two-then-two",),
    ):
        try:
            policy = bench.train(name, *overrides, processes=processes)
        except StoppedEarly:
            continue
        weights |= {f"{name}: {key}": each for key, each in policy.state_dict().items()}
    try:
        bench.train("asked", stop=lambda: processes.rank == 1, processes=processes)
    except StoppedEarly as stopped:
        return weights, str(stopped)
    return weights, ""


def difference(ones, twos, prefix):
    """The largest difference of the tensors whose names begin so."""
    names = {name for name in ones if name.startswith(prefix)}
    assert names == {name for name in twos if name.startswith(prefix)}
    return max((ones[name] - twos[name]).abs().max().item() for name in names)


def path_where_one_objects(processes):
    """The path that a group takes where the check of one process alone fails."""
    scorer = shared_prompt.GroupScorer(make_model("llama"), agree=processes.agree)
    true = shared_prompt.disagreement

    def objecting(model, path, *group):
        odd = path == "shared" and processes.rank == 1
        return "it is another machine" if odd else true(model, path, *group)

    shared_prompt.disagreement = objecting
    try:
        return scorer.path(make_ids(5, 1), [make_ids(3, 2)])
    finally:
        shared_prompt.disagreement = true


def unequal(processes):
    """What is said where one process has other weights than the first."""
    model = make_model("llama")
    with torch.no_grad():
        next(model.parameters())[0, 0] += processes.rank * 1e-6
    try:
        processes.require_equal(model.parameters())
    except MulliganError as error:
        return str(error)
    return ""


def main(folder, model):
    """Do everything as one of several processes, and write down what came of it."""
    launch = Launch()
    processes = Processes(launch)
    tensors, numbers = updates(processes)
    wrong, _ = update(RAGGED, LocalNormaliser(launch))
    tensors |= {f"local normaliser: {key}": each for key, each in wrong.items()}
    weights, stopped = train(folder, model, processes)
    said = {
        "numbers": numbers,
        "stopped": stopped,
        "path": path_where_one_objects(processes),
        "unequal": unequal(processes),
    }
    launch.part()
    tensors = {key: each.clone() for key, each in (tensors | weights).items()}
    save_file(tensors, folder / f"rank-{processes.rank}.safetensors")
    (folder / f"rank-{processes.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
