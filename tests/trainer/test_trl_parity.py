"""Log-probs, advantages, loss and gradients against TRL's own GRPOTrainer, in fp32.

The trainer runs as it is: it generates (through its ``rollout_func``), scores, makes advantages and
reference log-probs, and computes its loss. Only what was "sampled" and rewarded is prescribed.
"""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.loss import grpo_loss, loss_normaliser
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
SIZES = [len(ids) for group in COMPLETIONS for ids in group]


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
        per_device_train_batch_size=len(SIZES),
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


def our_loss(model, reference, beta, kind, unbiased_kl=True):
    """The batch's loss, group by group, each with its own backward."""
    scorer, normaliser, total = GroupScorer(model), loss_normaliser(kind, SIZES, LONGEST), 0.0
    for prompt_ids, completions, rewards_G in zip(PROMPTS, COMPLETIONS, REWARDS, strict=True):
        ref_GR = None
        if beta:
            with torch.no_grad():
                ref_GR, _ = GroupScorer(reference)(prompt_ids, completions, TEMPERATURE)
        logprobs_GR, mask_GR = scorer(prompt_ids, completions, TEMPERATURE)
        loss, _ = grpo_loss(
            logprobs_GR,
            mask_GR,
            group_advantages(rewards_G),
            normaliser,
            kind=kind,
            ref_logprobs_GR=ref_GR,
            beta=beta,
            unbiased_kl=unbiased_kl,
        )
        loss.backward()
        total += loss.item()
    return total


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
    found = our_loss(trainer.model, trainer.ref_model, beta, kind, unbiased_kl)
    assert found == pytest.approx(expected.item(), abs=1e-5)
    assert largest_difference(gradients(trainer.model), expected_gradients) < 1e-5


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
def test_skipping_the_dead_group_leaves_trls_gradient_when_the_kl_is_off(
    architecture, tmp_path, monkeypatch
):
    trainer = make_trainer(architecture, 0.0, "dapo", tmp_path)
    trainer._compute_loss(trainer.model, trl_batch(trainer)).backward()
    expected = gradients(trainer.model)
    for name in ("PROMPTS", "COMPLETIONS", "REWARDS"):
        monkeypatch.setitem(globals(), name, globals()[name][:-1])
    our_loss(trainer.model, None, 0.0, "dapo")
    assert largest_difference(gradients(trainer.model), expected) < 1e-5
