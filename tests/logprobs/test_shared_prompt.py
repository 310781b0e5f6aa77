import logging

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from mulligan.logprobs import attention, shared_prompt
from mulligan.logprobs.shared_prompt import (
    PATHS,
    GroupScorer,
    group_logprobs,
    model_logprobs,
    plain_logprobs,
)
from mulligan.models.architecture import why_not_shared
from tiny_models import gradients, largest_difference, make_ids, make_model


def weighted_sum(logprobs_GR):
    """A loss in which every token matters, and none as much as another."""
    weights = torch.linspace(-1, 1.5, logprobs_GR.numel()).view_as(logprobs_GR)
    return (logprobs_GR * weights).mean()


def said(caplog):
    """What Mulligan itself logged."""
    return [record.getMessage() for record in caplog.records if record.name == "mulligan"]


@pytest.mark.parametrize("path", ["shared", "plain"])
def test_logprobs_and_gradients_are_those_of_the_models_own_logits(
    model, prompt_ids, completions, path
):
    expected, expected_mask = model_logprobs(model, prompt_ids, completions, 0.9)
    weighted_sum(expected).backward()
    expected_gradients = gradients(model)
    found, mask = PATHS[path](model, prompt_ids, completions, 0.9)
    weighted_sum(found).backward()
    assert torch.equal(mask, expected_mask)
    assert (found - expected).abs().max().item() < 1e-5
    assert largest_difference(gradients(model), expected_gradients) < 1e-5


def test_rows_have_a_logprob_for_each_token_and_zeros_behind(model, prompt_ids, completions):
    logprobs_GR, mask_GR = group_logprobs(model, prompt_ids, completions)
    assert mask_GR.sum(1).tolist() == [7, 1, 0, 12, 12, 3]
    assert logprobs_GR.dtype == torch.float32
    assert (logprobs_GR[mask_GR] < 0).all()
    assert (logprobs_GR[~mask_GR] == 0).all()


def test_a_group_of_equal_lengths_needs_no_padding_and_agrees_too(model, prompt_ids):
    completions = [make_ids(6, seed) for seed in range(4)]
    found, _ = group_logprobs(model, prompt_ids, completions)
    expected, _ = model_logprobs(model, prompt_ids, completions)
    assert (found - expected).abs().max().item() < 1e-5


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_group_of_empty_completions_has_no_logprobs_and_a_gradient_of_zero(
    model, prompt_ids, path
):
    logprobs_GR, mask_GR = PATHS[path](model, prompt_ids, [(), ()])
    assert logprobs_GR.shape == mask_GR.shape == (2, 0)
    logprobs_GR.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("path", sorted(PATHS))
def test_an_empty_prompt_is_refused(model, path):
    with pytest.raises(ValueError, match="at least one token"):
        PATHS[path](model, (), [(3, 4)])


def test_positions_that_run_on_through_the_stream_would_be_noticed(
    model, prompt_ids, completions, monkeypatch
):
    """Nothing raises when completions do not restart at the prompt's end; it is only wrong."""
    expected, _ = plain_logprobs(model, prompt_ids, completions)
    right = shared_prompt.pack

    def wrong(*group):
        packed = right(*group)
        object.__setattr__(packed, "position_ids", tuple(range(len(packed.token_ids))))
        return packed

    monkeypatch.setattr(shared_prompt, "pack", wrong)
    found, mask = group_logprobs(model, prompt_ids, completions)
    assert (found - expected)[mask].abs().mean().item() > 5e-3
    assert GroupScorer(model).path(prompt_ids, completions) == "plain"


def test_parts_of_a_group_give_the_logprobs_and_the_gradient_of_the_whole(
    model, prompt_ids, completions
):
    whole, _ = group_logprobs(model, prompt_ids, completions)
    whole.square().mean().backward()
    whole_gradients = gradients(model)
    scorer = GroupScorer(model, max_tokens=40)
    parts = scorer.parts(prompt_ids, completions)
    assert len(parts) == 2
    for part in parts:
        logprobs, _ = scorer(prompt_ids, completions[part])
        assert (logprobs - whole[part, : logprobs.shape[1]]).abs().max().item() < 1e-5
        (logprobs.square().sum() / whole.numel()).backward()
    assert largest_difference(gradients(model), whole_gradients) < 1e-5


def test_gradient_checkpointing_changes_nothing(model, prompt_ids, completions):
    weighted_sum(group_logprobs(model, prompt_ids, completions)[0]).backward()
    expected = gradients(model)
    model.activation_checkpointing_enable()
    weighted_sum(group_logprobs(model, prompt_ids, completions)[0]).backward()
    assert largest_difference(gradients(model), expected) < 1e-6


@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16])
def test_half_precision_stays_near_full_precision(model, prompt_ids, completions, master):
    expected, mask = model_logprobs(model, prompt_ids, completions)
    model.to(master)
    with torch.autocast("cpu", torch.bfloat16, enabled=master == torch.float32):
        found, _ = group_logprobs(model, prompt_ids, completions)
        found.sum().backward()
    assert (found - expected)[mask].abs().mean().item() < 0.05
    assert all(p.grad.dtype == master and p.grad.isfinite().all() for p in model.parameters())


def test_generation_is_unchanged_after_the_shared_path_was_used(model, prompt_ids, completions):
    model.eval()
    ids = torch.tensor([prompt_ids])
    before = model.generate(ids, max_new_tokens=12, do_sample=False)
    group_logprobs(model, prompt_ids, completions)
    assert model.config._attn_implementation == attention.NAME
    assert torch.equal(model.generate(ids, max_new_tokens=12, do_sample=False), before)


def mistral(window):
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": window}
    return MistralForCausalLM(MistralConfig(**sizes, **heads)).train()


def test_a_sliding_window_is_shared_within_and_computed_plainly_beyond(prompt_ids, caplog):
    scorer = GroupScorer(mistral(window=24))
    assert scorer.path(prompt_ids, [make_ids(4, 1), make_ids(3, 2)]) == "shared"
    long = [make_ids(9, 1), make_ids(3, 2)]
    with caplog.at_level(logging.WARNING, "mulligan"):
        for _ in range(3):
            assert scorer.path(prompt_ids, long) == "plain"
    assert [text.count("window of 24") for text in said(caplog)] == [1]
    found, _ = scorer(prompt_ids, long)
    expected, _ = model_logprobs(scorer.model, prompt_ids, long)
    assert (found - expected).abs().max().item() < 1e-5


def test_attention_dropout_rules_sharing_out_while_training_only():
    model = make_model("llama", attention_dropout=0.1)
    assert "dropout of 0.1" in why_not_shared(model, 10)
    assert why_not_shared(model.eval(), 10) is None


def test_an_attention_layer_that_asks_for_more_is_refused_by_the_attention_itself():
    layout = attention.StreamLayout.create([(4, (3,))], torch.device("cpu"))
    q = torch.randn(1, 2, 7, 8)
    for extra in ({"dropout": 0.1}, {"softcap": 30.0}, {"sliding_window": 5}):
        with pytest.raises(attention.NotShareableError):
            attention.shared_prompt_attention(None, q, q, q, None, stream_layout=layout, **extra)


def tiny_config(name, **sizes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes)).train()


SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FALLBACKS = {
    "gemma2": (SMALL, "soft-capped"),
    "mamba": (
        {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4},
        "not plain attention",
    ),
    "bloom": ({"vocab_size": 97, "hidden_size": 32, "n_layer": 1, "n_head": 4}, "Bloom"),
}


@pytest.mark.parametrize("name", sorted(FALLBACKS))
def test_models_that_cannot_share_fall_back_and_say_why(name, prompt_ids, caplog):
    sizes, reason = FALLBACKS[name]
    scorer = GroupScorer(tiny_config(name, **sizes))
    completions = [make_ids(5, 1), make_ids(2, 2)]
    with caplog.at_level(logging.WARNING, "mulligan"):
        found, _ = scorer(prompt_ids, completions)
    assert reason in said(caplog)[0]
    assert scorer.path(prompt_ids, completions) == "plain"
    expected, _ = model_logprobs(scorer.model, prompt_ids, completions)
    assert (found - expected).abs().max().item() < 1e-5


@pytest.mark.parametrize("name", ["gemma3_text", "phi3", "granite", "cohere", "gpt2", "olmo2"])
def test_other_architectures_share_too(name, prompt_ids, caplog):
    model = tiny_config(name, **SMALL) if name != "gpt2" else gpt2()
    scorer = GroupScorer(model.eval())
    completions = [make_ids(5, 1), make_ids(2, 2)]
    found, _ = scorer(prompt_ids, completions)
    assert said(caplog) == []
    assert scorer.path(prompt_ids, completions) == "shared"
    expected, _ = model_logprobs(model, prompt_ids, completions)
    assert (found - expected).abs().max().item() < 1e-5


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4))


def test_the_first_group_is_checked_and_a_wrong_kernel_falls_back(
    model, prompt_ids, completions, monkeypatch, caplog
):
    merge = attention._merge
    monkeypatch.setattr(attention, "_merge", lambda a, la, b, lb: merge(a, la + 1, b, lb))
    scorer = GroupScorer(model)
    with caplog.at_level(logging.WARNING, "mulligan"):
        found, _ = scorer(prompt_ids, completions)
    assert "differ from the model's own" in said(caplog)[0]
    expected, _ = model_logprobs(model, prompt_ids, completions)
    assert (found - expected).abs().max().item() < 1e-5


def test_a_head_that_is_more_than_a_matrix_falls_back_to_the_models_own_logits(
    model, prompt_ids, completions, caplog
):
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, logits: logits * 1.5)
    scorer = GroupScorer(model)
    with caplog.at_level(logging.WARNING, "mulligan"):
        assert scorer.path(prompt_ids, completions) == "model"
    assert len(said(caplog)) == 1


def test_the_check_leaves_mode_and_gradients_as_they_were(model, prompt_ids, completions):
    GroupScorer(model).path(prompt_ids, completions)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_no_attention_mask_and_no_expanded_prompt_is_ever_made(model, completions):
    """Nothing as large as (stream x stream), and nothing that holds the prompt G times."""
    prompt_ids = make_ids(80, seed=3)
    from tiny_models import LargestTensor

    tokens = 80 + sum(map(len, completions))
    group_logprobs(model, prompt_ids, completions)
    with LargestTensor() as seen:
        group_logprobs(model, prompt_ids, completions)[0].sum().backward()
    heads, dim = 6, 8
    assert seen.largest < tokens * max(tokens, heads * dim * 2, 97 + 1)
