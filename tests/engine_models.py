"""Tiny random models of several architectures, and what transformers itself makes of a prompt."""

import random
from types import SimpleNamespace

import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 97
EOS = 2
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "gemma": (GemmaForCausalLM, GemmaConfig, {"head_dim": 8}),
    "phi": (PhiForCausalLM, PhiConfig, {}),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 16}),
}


class NumberTokenizer:
    """Writes token ids as numbers."""

    eos_token_id = EOS

    def decode(self, token_ids, skip_special_tokens=True):
        return " ".join(str(t) for t in token_ids if t != EOS)

    def encode(self, text, add_special_tokens=False):
        return [int(word) for word in text.split()]


def tiny_model(name="llama", seed=0, **changes):
    model_class, config_class, own = ARCHITECTURES[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**SHAPE | own | changes)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            # Wide enough that the most likely token differs from place to place.
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_prompts(count, longest=24, seed=0):
    rng = random.Random(seed)
    return [random_ids(rng, rng.randrange(1, longest)) for _ in range(count)]


def random_ids(rng, length):
    return tuple(rng.randrange(3, VOCABULARY) for _ in range(length))


def greedy_by_transformers(model, prompt, max_tokens):
    """The completion of ``generate``, one prompt at a time, so that nothing is padded."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
    )
    return tuple(output[0, len(prompt) :].tolist())


def logprobs_by_transformers(model, prompt, completion, temperature=1.0):
    """Log-probabilities of a completion's tokens by one plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    logprobs = (logits[len(prompt) - 1 : -1].float() / temperature).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0]


def attention_error(attend, device="cpu", spread=16.0):
    """How far an attention in bfloat16 over a row's own keys is off the exact one, relatively.

    ``spread`` is the standard deviation of the scores: the larger, the more their rounding shows.
    """
    random = torch.Generator().manual_seed(5)
    shapes = (3, 1, 4, 64), (3, 2, 200, 64), (3, 2, 200, 64)
    query, keys, values = (
        torch.randn(shape, generator=random).to(device, torch.bfloat16) for shape in shapes
    )
    layout = SimpleNamespace(
        bias_BSK=torch.zeros(3, 1, 200, dtype=torch.bfloat16, device=device),
        trunk_columns=0,
        columns=200,
        groups=None,
    )
    scale = spread / 8  # a product over 64 places has a deviation of 8
    found = attend(query, keys, values, scale, 0, layout)
    assert found.dtype == torch.bfloat16
    per_head = (each.double().repeat_interleave(2, dim=1) for each in (keys, values))
    exact = torch.nn.functional.scaled_dot_product_attention(
        query.double().transpose(1, 2), *per_head, scale=scale
    ).transpose(1, 2)
    return float((found.double() - exact).norm() / exact.norm())
