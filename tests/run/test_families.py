"""A first hour with a model of one's own: whole runs of tiny random models of each family."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from template_families import FAMILIES
from tiny import lines, run_cli, write_recipe

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "bos_token_id": None,
}
SMALL_HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
MODELS = {
    "qwen2.5": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "llama3": ("llama", {}),
    "llama3.2": ("llama", {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", SMALL_HEADS),
    "gemma3": ("gemma3_text", SMALL_HEADS),
    "mistral": ("mistral", {}),
    "phi3": ("phi3", {}),
    "phi3.5": ("phi3", {}),
    "gpt-oss": ("gpt_oss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek-r1": ("qwen2", {}),
}

CHANGES = {"deepseek-r1": {"train__reward": "random"}}
"""A random model never ends the thought that this template opens, so no try of it passes."""


def make_folder(name, folder):
    """A random model of a family, with the family's own chat template."""
    kind, changes = MODELS[name]
    tokenizer = FAMILIES[name].tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **SIZES | ids | changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_family_is_run():
    assert MODELS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}], ids=["all weights", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_run_of_a_family_ends_in_a_table_and_a_model(name, lora, tmp_path):
    model = make_folder(name, tmp_path / "model")
    recipe = write_recipe(tmp_path, model, probe=True, lora=lora, **CHANGES.get(name, {}))
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "Probe of 20 problems" in outcome.out
    steps = lines(tmp_path / "tiny" / "metrics.jsonl")
    assert len(steps) == 4
    assert all(math.isfinite(step["loss"]) for step in steps)
    assert len(lines(tmp_path / "tiny" / "evaluation" / "after.jsonl")) == 10
    export = ["export", tmp_path / "tiny", "--to", tmp_path / "trained", "--merge"]
    assert run_cli(*export).code == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "trained").chat_template
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert all(values.isfinite().all() for values in trained.parameters())
