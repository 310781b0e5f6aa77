"""Every architecture that was seen to work, tiny and random, against its own forward pass."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine_models import SHAPE, NumberTokenizer
from mulligan.engines.local.engine import LocalEngine
from mulligan.logprobs.shared_prompt import GroupScorer, model_logprobs
from mulligan.types import Sampling
from tiny_models import make_ids

pytestmark = pytest.mark.slow

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHARES = {
    "llama": {},
    "llama, linear rope": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    },
    "llama, llama3 rope": {"rope_parameters": LLAMA_3_ROPE},
    "mistral": {},
    "ministral3": {"head_dim": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": MOE | {"head_dim": 8},
    "phi3": {},
    "olmo2": {},
    "olmo3": {},
    "granite": {},
    "smollm3": {},
    "glm4": {"head_dim": 8},
    "cohere2": {},
    "starcoder2": {},
    "gpt_neox": {},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "mixtral": LOCAL_MOE,
    "ernie4_5": {"head_dim": 8},
    "exaone4": {},
    "gemma4_text": {
        "head_dim": 8,
        "vocab_size_per_layer_input": 97,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "seed_oss": {"head_dim": 8, "attention_dropout": 0.0, "residual_dropout": 0.0},
    "hunyuan_v1_dense": {"head_dim": 8},
    "arcee": {},
}
"""Prompts are shared, in generation and in training, where that has no dropout."""
FALLS_BACK = {
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt_oss": LOCAL_MOE | {"head_dim": 8},
    "stablelm": {},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "qwen3_next": LINEAR | MOE | {"head_dim": 8, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": LINEAR | {"head_dim": 8},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba": {"state_size": 8},
    "nemotron": {},
    "minimax": LOCAL_MOE
    | {"layer_types": ["linear_attention", "full_attention"], "block_size": 16, "head_dim": 8},
}
"""Both take a slower path, which is said."""
ALL = SHARES | FALLS_BACK

PROMPT = make_ids(21, seed=1)
ROWS = [make_ids(length, seed=length) for length in (9, 5, 12)]
GREEDY = Sampling(0.0, 8)


def build(name):
    torch.manual_seed(3)
    sizes = SHAPE | {"initializer_range": 0.15} | ALL[name]
    config = AutoConfig.for_model(name.partition(",")[0], **sizes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def gradients(model, logprobs, mask):
    model.zero_grad()
    logprobs[mask].sum().backward()
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
        for name, each in model.named_parameters()
    }


@pytest.mark.parametrize("name", ALL)
def test_log_probs_and_gradients_are_the_models_own(name, caplog):
    model = build(name).train()
    scorer = GroupScorer(model)
    with caplog.at_level(logging.WARNING, "mulligan"):
        logprobs, mask = scorer(PROMPT, ROWS, 0.9)
    found = gradients(model, logprobs, mask)
    expected, _ = model_logprobs(model, PROMPT, ROWS, 0.9)
    assert (logprobs - expected)[mask].abs().max() < 1e-3
    own = gradients(model, expected, mask)
    largest = max(float(each.abs().max()) for each in own.values())
    assert largest > 0
    for parameter, gradient in own.items():
        assert (found[parameter] - gradient).abs().max() < 1e-3 * largest, parameter
    assert ("slower than the shared one" in caplog.text) == (name in FALLS_BACK)


@pytest.mark.parametrize("name", ALL)
def test_greedy_tokens_are_the_models_own(name, caplog):
    model = build(name).eval()
    prompts = [PROMPT, PROMPT[:9], make_ids(14, seed=8)]
    with caplog.at_level(logging.WARNING, "mulligan"):
        rows = LocalEngine(model, NumberTokenizer(), eos_ids=()).generate(prompts, 2, GREEDY)
    for prompt, row in zip(prompts, rows, strict=True):
        expected = greedily(model, prompt)
        assert [each.token_ids for each in row] == [expected, expected]
    assert ("generates plainly" in caplog.text) == (name in FALLS_BACK)


@torch.no_grad()
def greedily(model, prompt):
    """The likeliest tokens by whole forward passes, without a cache."""
    ids = list(prompt)
    for _ in range(GREEDY.max_tokens):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])
