"""The models that are measured, and how many operations they need.

Speed depends on a model's shape, not on what its weights are, so most sizes have random weights,
made here once: no hub is needed. They take the packaged model's tokenizer, whose 49,152 tokens all
fit their vocabularies.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from mulligan.models.load import DEFAULT_MODEL, cache_folder, load_tokenizer, resolve_model
from mulligan.storage.atomic import whole_folder

SHAPES: dict[str, dict[str, int]] = {
    name: dict(
        zip(
            (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "vocab_size",
            ),
            sizes,
            strict=True,
        )
    )
    for name, sizes in {
        "tiny": (64, 128, 2, 2, 1, 49_152),
        "14M": (192, 512, 12, 3, 1, 49_152),
        "47M": (384, 1024, 18, 6, 2, 49_152),
        "135M": (576, 1536, 30, 9, 3, 49_152),  # that of SmolLM2-135M
        "360M": (960, 2560, 32, 15, 5, 49_152),  # SmolLM2-360M
        "0.5B": (896, 4864, 24, 14, 2, 151_936),  # Qwen2.5-0.5B
        "1.5B": (1536, 8960, 28, 12, 2, 151_936),  # Qwen2.5-1.5B
    }.items()
}
"""Shapes with random weights. All are Llama's architecture, tied embeddings."""


def model_folder(name: str) -> str:
    """Return the folder of a model: one of ``SHAPES`` is made first, others are resolved."""
    if name not in SHAPES:
        return resolve_model(name)
    target: Path = cache_folder() / "benchmarks" / name
    if not (target / "config.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = load_tokenizer(DEFAULT_MODEL)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = LlamaForCausalLM(config_of(name)).to(torch.bfloat16)
        with whole_folder(target) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return str(target)


def config_of(name: str) -> LlamaConfig:
    """Return the configuration of a shape."""
    options: dict[str, Any] = {
        **SHAPES[name],
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return LlamaConfig(**options)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a decoder computes, in floating-point operations, from its shape."""

    backbone: int
    """Weights outside embeddings and head."""
    head: int
    """Weights of the vocabulary head."""
    layers: int
    width: int
    """Queries of one token and layer, all heads."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Arithmetic":
        """Count a model's weights."""
        config: PretrainedConfig = model.config.get_text_config()
        embedding = model.get_input_embeddings().weight.numel()
        head = config.vocab_size * config.hidden_size
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        every = sum(parameter.numel() for parameter in model.parameters())
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        backbone = every - embedding - (0 if tied else head)
        return cls(backbone, head, config.num_hidden_layers, heads * size)

    @property
    def weights(self) -> int:
        """Weights that are multiplied for a token that is predicted from."""
        return self.backbone + self.head

    def generation(self, generated: int, prompts: int = 0) -> float:
        """Return the matrix products of tokens that are generated, and of those in prompts.

        Two operations a weight; attention is left out, and a prompt's tokens need no head but the
        last, so this is a little less than what has to be computed: shares of a limit made of it
        are not flattered.
        """
        return 2.0 * self.weights * generated + 2.0 * self.backbone * prompts

    def rollout(self, prompt: int, completion: int, size: int) -> float:
        """Return the operations of sampling one group, attention included, the prompt once."""
        keys = prompt**2 / 2 + size * completion * (prompt + completion / 2)
        return self.generation(size * completion, prompt) + 4.0 * self.layers * self.width * keys

    def training(self, tokens: int, scored: int, keys: float, *, frozen: bool = False) -> float:
        """Return forward and backward.

        Two operations a weight forward and four backward, two of which make the weights' own
        gradient; scores and their use likewise, over the keys that are seen.

        Args:
            tokens: in the stream.
            scored: tokens whose log-probability is wanted.
            keys: pairs of a query and a key that it may see.
            frozen: whether the weights get no gradient, as under LoRA.
        """
        products = 4.0 if frozen else 6.0
        return (
            products * self.backbone * tokens
            + products * self.head * scored
            + 12.0 * self.layers * self.width * keys
        )

    def group(self, prompt: int, completion: int, size: int, *, frozen: bool = False) -> float:
        """Return ``training`` of one group whose prompt is computed once."""
        tokens = prompt + size * (completion - 1)
        keys = prompt**2 / 2 + size * completion * (prompt + completion / 2)
        return self.training(tokens, size * completion, keys, frozen=frozen)
