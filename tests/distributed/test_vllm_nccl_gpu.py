"""Weights from GPU to GPU: needs two GPUs, and vLLM in this environment."""

import sys

import pytest

from mulligan.config import override_recipe
from mulligan.engines.local.engine import LocalEngine
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.models.load import load_model
from mulligan.types import Sampling
from tiny import tiny_recipe

pytestmark = pytest.mark.gpu


def test_weights_sent_over_nccl_generate_as_the_policy_does(tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    policy, tokenizer = load_model("smollm2-135m", "float32", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # for the server; this process has begun on 0
    transfer = """["--weight-transfer-config", '{"backend": "nccl"}']"""
    settings = [f"engine.python={sys.executable}", "engine.weights=nccl"]
    recipe = override_recipe(
        tiny_recipe(), ["engine.kind=vllm", *settings, f"engine.arguments={transfer}"], "it"
    )
    surroundings = Surroundings(policy, tokenizer, "float32", tmp_path)
    engine = find_engine("vllm").make(recipe.engine.model_dump(), surroundings)
    prompts = [tuple(tokenizer.encode("The capital of France is"))]
    try:
        for version in (1, 2):
            for parameter in policy.parameters():
                parameter.data.mul_(1.01)
            engine.update_weights(policy, version)
            [[there]] = engine.generate(prompts, 1, Sampling(0.0, 8))
            [[here]] = LocalEngine(policy, tokenizer).generate(prompts, 1, Sampling(0.0, 8))
            assert there.token_ids == here.token_ids
            assert there.logprobs == pytest.approx(here.logprobs, abs=1e-2)
    finally:
        engine.close()
