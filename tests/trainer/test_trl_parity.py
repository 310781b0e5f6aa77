"""Log-probs, advantages, loss and gradients against TRL's own GRPOTrainer, in fp32.

The trainer runs as it is: it generates (through its ``rollout_func``), scores, makes advantages and
reference log-probs, and computes its loss. Only what was "sampled" and rewarded is prescribed.
"""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from hand_made import Prescribed, completion, make_group
from mulligan.config import override_recipe
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.policies import FullPolicy
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.objective import make_objective
from mulligan.trainer.update import make_updater
from tiny import tiny_recipe
from tiny_models import ARCHITECTURES, gradients, largest_difference, make_ids, make_model

trl = pytest.importorskip("trl")

TEMPERATURE = 0.9
LONGEST = 11
PROMPTS = [make_ids(19, seed=1), make_ids(13, seed=2), make_ids(5, seed=3)]
COMPLETIONS = [
    [make_ids(length, seed=100 * g + length) for length in lengths]
    for g, lengths in enumerate([(7, 1, LONGEST, 4), (3, 9, 5, 5), (6, 2, 8, 1)])
]
REWARDS = [(1.0, 0.0, 0.0, 1.0), (0.0, 0.25, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0)]
"""The last group is dead."""
ROWS = sum(map(len, COMPLETIONS))


def tiny_tokenizer():
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 97)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_trainer(architecture, beta, loss_type, folder, unbiased_kl=True):
    """A GRPOTrainer whose policy has moved away from its reference."""
    make_model(architecture).save_pretrained(folder / "model")
    settings = trl.GRPOConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        num_generations=len(COMPLETIONS[0]),
        max_completion_length=LONGEST,
        temperature=TEMPERATURE,
        beta=beta,
        use_bias_correction_kl=unbiased_kl,
        loss_type=loss_type,
    )

    def rollout(prompts, trainer):
        prompt_ids = [list(PROMPTS[int(prompt)]) for prompt in prompts]
        completion_ids = [list(ids) for group in COMPLETIONS for ids in group]
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    trainer = trl.GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=lambda completions, **_: [r for group in REWARDS for r in group],
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["0", "1", "2"]}),
        processing_class=tiny_tokenizer(),
        rollout_func=rollout,
    )
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_batch(trainer):
    rows = [{"prompt": str(g)} for g, group in enumerate(COMPLETIONS) for _ in group]
    return trainer._generate_and_score_completions(rows)


def trl_logprobs(trainer, batch):
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, batch["completion_ids"].shape[1]
    )[0]


def our_policy(architecture, trainer, recipe):
    """The policy and what updates it; its reference is the model that TRL's trainer began with."""
    policy = make_model(architecture)
    updater = make_updater(FullPolicy(policy), make_objective(recipe).loss, recipe)
    policy.load_state_dict(trainer.model.state_dict())
    return policy, updater


def our_step(policy, updater, recipe, groups):
    """Loss and gradients of the trainer's own step on groups with the rewards of this file."""
    rewards = [list(each) for each in REWARDS[: len(groups)]]
    objective = replace(make_objective(recipe), reward=Prescribed(rewards))
    taken = {}

    def take(*_):
        taken.update({name: p.grad.clone() for name, p in policy.named_parameters()})

    updater.optimizer.optimizer.register_step_pre_hook(take)
    update, _ = updater.update(objective.score(groups, None))
    return update.loss, taken


def our_groups(learn="reflection"):
    groups = [
        make_group(
            [True] * len(completions),
            prompt_ids=prompt_ids,
            reflections=[completion(*ids) for ids in completions],
        )
        for prompt_ids, completions in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    return [tried_afresh(group) for group in groups] if learn == "first_try" else groups


def tried_afresh(group):
    """The same completions, as attempts at a problem rather than as reflections on a failure."""
    episodes = [replace(e, retry=e.reflection, reflection=None) for e in group.episodes]
    return replace(group, episodes=tuple(episodes), retry_prompts_G=())


def our_recipe(temperature=TEMPERATURE, **settings):
    overrides = [f"train.{name}={value}" for name, value in settings.items()]
    overrides += ["train.max_grad_norm=1e9", "train.dead_groups=keep"]
    overrides += [f"generate.reflection_tokens={LONGEST}", f"generate.answer_tokens={LONGEST}"]
    overrides += [f"generate.temperature={temperature}"]
    return override_recipe(tiny_recipe(), overrides, "tiny")


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize(("beta", "unbiased_kl"), [(0.0, True), (0.04, True), (0.04, False)])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_loss_and_every_gradient_are_those_of_trl(architecture, beta, unbiased_kl, kind, tmp_path):
    trainer = make_trainer(architecture, beta, kind, tmp_path, unbiased_kl)
    batch = trl_batch(trainer)
    expected = trainer._compute_loss(trainer.model, batch)
    expected.backward()
    expected_gradients = gradients(trainer.model)
    assert max(g.abs().max().item() for g in expected_gradients.values()) > 1e-2
    form = "unbiased" if unbiased_kl else "k3"
    recipe = our_recipe(loss=kind, kl_beta=beta, kl_form=form)
    loss, found = our_step(*our_policy(architecture, trainer, recipe), recipe, our_groups())
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert largest_difference(found, expected_gradients) < 1e-5


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_logprobs_are_those_of_trl(architecture, tmp_path):
    trainer = make_trainer(architecture, 0.0, "dapo", tmp_path)
    expected = trl_logprobs(trainer, trl_batch(trainer)).view(len(PROMPTS), -1, LONGEST)
    for prompt_ids, completions, expected_GR in zip(PROMPTS, COMPLETIONS, expected, strict=True):
        found_GR, mask_GR = GroupScorer(trainer.model)(prompt_ids, completions, TEMPERATURE)
        difference_GR = found_GR - expected_GR[:, : found_GR.shape[1]]
        assert difference_GR[mask_GR].abs().max().item() < 1e-5


def test_advantages_are_those_of_trl(tmp_path):
    trainer = make_trainer("llama", 0.0, "dapo", tmp_path)
    expected = trl_batch(trainer)["advantages"].tolist()
    found = [advantage for rewards_G in REWARDS for advantage in group_advantages(rewards_G)]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_skipping_the_dead_group_leaves_trls_gradient_when_the_kl_is_off(architecture, tmp_path):
    trainer = make_trainer(architecture, 0.0, "dapo", tmp_path)
    trainer._compute_loss(trainer.model, trl_batch(trainer)).backward()
    recipe = our_recipe(loss="dapo", kl_beta=0.0)
    policy, updater = our_policy(architecture, trainer, recipe)
    assert not updater.keep_dead
    _, found = our_step(policy, updater, recipe, our_groups())
    assert largest_difference(found, gradients(trainer.model)) < 1e-5


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo"])
def test_first_try_is_trls_grpo_loss_and_every_gradient(kind, tmp_path):
    trainer = make_trainer("llama", 0.04, kind, tmp_path, unbiased_kl=False)
    expected = trainer._compute_loss(trainer.model, trl_batch(trainer))
    expected.backward()
    recipe = our_recipe(loss=kind, kl_beta=0.04, learn="first_try")
    policy, updater = our_policy("llama", trainer, recipe)
    loss, found = our_step(policy, updater, recipe, our_groups("first_try"))
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert largest_difference(found, gradients(trainer.model)) < 1e-5


def dpo_trainer(architecture, beta, folder):
    """A DPOTrainer whose policy has moved away from its reference."""
    trainer = trl.DPOTrainer(
        model=make_model(architecture),
        ref_model=make_model(architecture),
        args=trl.DPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            beta=beta,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["w3"], "chosen": ["w4"], "rejected": ["w5"]}),
        processing_class=tiny_tokenizer(),
    )
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    trainer.model.train()
    return trainer


def dpo_batch():
    """Every pair of a group with different rewards, the better ones first, as TRL lays them out."""
    pairs = [
        (prompt_ids, completions[better], completions[worse])
        for prompt_ids, completions, rewards in zip(PROMPTS, COMPLETIONS, REWARDS, strict=True)
        for better in range(4)
        for worse in range(4)
        if rewards[better] > rewards[worse]
    ]
    rows = [(prompt, better) for prompt, better, _ in pairs]
    rows += [(prompt, worse) for prompt, _, worse in pairs]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch = {"input_ids": [], "attention_mask": [], "completion_mask": []}
    for prompt, answer in rows:
        padding = [0] * (longest - len(prompt) - len(answer))
        batch["input_ids"].append([*prompt, *answer, *padding])
        batch["attention_mask"].append([1] * (longest - len(padding)) + padding)
        batch["completion_mask"].append([0] * len(prompt) + [1] * len(answer) + padding)
    return {name: torch.tensor(values) for name, values in batch.items()}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_is_that_of_trl_loss_and_every_gradient(architecture, beta, tmp_path):
    trainer = dpo_trainer(architecture, beta, tmp_path)
    expected = trainer.compute_loss(trainer.model, dpo_batch())
    expected.backward()
    expected_gradients = gradients(trainer.model)
    assert max(g.abs().max().item() for g in expected_gradients.values()) > 1e-2
    recipe = our_recipe(1.0, loss="dpo", dpo_beta=beta, kl_beta=0.0)
    policy, updater = our_policy(architecture, trainer, recipe)
    loss, found = our_step(policy, updater, recipe, our_groups())
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert largest_difference(found, expected_gradients) < 1e-5
