import time

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine_models import (
    SHAPE,
    VOCABULARY,
    NumberTokenizer,
    greedy_by_transformers,
    logprobs_by_transformers,
    random_ids,
    random_prompts,
)
from mulligan.engines.local import plain
from mulligan.engines.local.engine import LocalEngine
from mulligan.types import Sampling

GREEDY = Sampling(0.0, 6)
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 20,
}
FAMILIES = {
    "gemma2": {"head_dim": 8, "sliding_window": 12},
    "gemma3_text": {"head_dim": 8, "sliding_window": 12},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 20},
    "minimax": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "mamba": {"state_size": 4},
    "bloom": {"n_head": 4, "n_layer": 2},
}
PADDED = {"gemma2", "gemma3_text", "gpt_oss", "bloom"}
"""Phi 3 is apart: its positions depend on the length of the longest row."""


def make(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHAPE | FAMILIES[name])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def lengths_of_passes(model):
    """How many rows each forward pass had, filled as the model runs."""
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    return rows


def engine_for(model):
    return LocalEngine(model, NumberTokenizer(), eos_ids=[VOCABULARY + 1])


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_unequal_length_generate_what_each_would_alone(name):
    model = make(name)
    prompts = [ids for ids in random_prompts(7, longest=18, seed=2) if len(ids) > 1]
    for prompt, [completion] in zip(
        prompts, engine_for(model).generate(prompts, 1, GREEDY), strict=True
    ):
        if name == "minimax":  # its own generate keeps a cache
            expected = greedy_without_cache(model, prompt, GREEDY.max_tokens)
        else:
            expected = greedy_by_transformers(model, prompt, GREEDY.max_tokens)
        assert completion.token_ids == expected
        if name == "phi3":
            continue  # a plain forward pass of the whole would give all tokens its own positions
        scores = logprobs_by_transformers(model, prompt, completion.token_ids)
        assert completion.logprobs == pytest.approx(scores.tolist(), abs=1e-3)


def greedy_without_cache(model, prompt, max_tokens):
    ids = list(prompt)
    for _ in range(max_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"phi3"}))
def test_attention_models_run_rows_of_unequal_length_together(name):
    engine = engine_for(model := make(name))
    engine.generate([(5,) * 30], 1, Sampling(0.0, 1))  # examines the model
    rows = lengths_of_passes(model)
    engine.generate([(5,) * length for length in (3, 4, 5, 6)], 1, Sampling(0.0, 8))
    assert rows == ([4] * 8 if name in PADDED else [1] * 32)


def test_rows_whose_positions_depend_on_the_longest_run_together_only_when_equally_long():
    model = make("phi3")
    engine = engine_for(model)
    engine.generate([(5,) * 30], 1, Sampling(0.0, 1))
    rows = lengths_of_passes(model)
    engine.generate([(5,) * 18, (6,) * 18, (7,) * 19], 1, GREEDY)
    assert rows == [2] * 6 + [1] * 6


def test_a_bound_on_memory_splits_rows_into_waves():
    waves = plain._waves([5, 3, 4, 9], lambda length: 2, pad=True)
    assert list(waves) == [[1, 2], [0, 3]]
    waves = plain._waves([5, 3, 4, 9], lambda length: 12 // length, pad=True)
    assert list(waves) == [[1, 2], [0], [3]]


@pytest.mark.slow
def test_unequal_rows_take_at_most_half_as_long_again_as_equal_ones():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma2",
        **SHAPE | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6},
        head_dim=64,
    )
    engine = engine_for(AutoModelForCausalLM.from_config(config).eval())
    import random

    rng = random.Random(0)
    unequal = [random_ids(rng, rng.randrange(60, 141)) for _ in range(64)]
    mean = sum(map(len, unequal)) // 64
    equal = [random_ids(rng, mean) for _ in range(64)]

    def seconds(prompts):
        started = time.perf_counter()
        engine.generate(prompts, 1, Sampling(0.9, 32, seed=1))
        return time.perf_counter() - started

    seconds(equal), seconds(unequal)
    ratios = [seconds(unequal) / seconds(equal) for _ in range(3)]
    assert min(ratios) <= 1.5, ratios
