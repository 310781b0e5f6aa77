"""A chat model of two layers and 259 tokens, and a run of it in seconds: no hub, no download."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from mulligan.types import Completion

TASK_FILE = Path(__file__).parent / "parity_task.py"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "task": str(TASK_FILE),
    "dtype": "float32",
    "device": "cpu",
    "probe": False,
    "prompts": {"reflect": "Wrong. Why?"},
    "generate": {"answer_tokens": 5, "reflection_tokens": 6, "problems_at_once": 8},
    "sft": {"examples": 8, "batch": 4, "learning_rate": 1e-3},
    "collect": {"problems": 20},
    "train": {
        "steps": 4,
        "failures_per_step": 3,
        "group_size": 4,
        "learning_rate": 1e-3,
        "kl_beta": 0.0,
        "checkpoint_every": 2,
    },
    "evaluate": {"problems": 10},
}


def make_tokenizer(
    chat_template: str | None = CHATML,
    special: Sequence[str] = ("<|im_start|>",),
    eos: str = "<|im_end|>",
    bos: str | None = None,
    added: Sequence[str] = (),
):
    """One token per byte, and one for each mark of a chat template: ChatML's by default."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token=eos, bos_token=bos, pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model_folder(
    folder: Path, architecture: str = "llama", chat_template: str | None = CHATML, **changes: Any
) -> Path:
    """A random model and its tokenizer, as ``from_pretrained`` reads them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(chat_template)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | changes
    torch.manual_seed(5)
    model = (
        LlamaForCausalLM(LlamaConfig(**sizes))
        if architecture == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**sizes))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_recipe(folder: Path, model: Path | str, **changes: Any) -> Path:
    """Write the tiny recipe; ``train__steps=2`` changes a setting of a section."""
    recipe = {
        name: dict(value) if isinstance(value, dict) else value for name, value in RECIPE.items()
    }
    recipe["model"] = str(model)
    for name, value in changes.items():
        section, _, setting = name.rpartition("__")
        (recipe.setdefault(section, {}) if section else recipe)[setting] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    return path


def tiny_recipe(model: Path | str = "unused", **changes: Any):
    """The tiny recipe, checked."""
    from mulligan.config import check_recipe

    settings = RECIPE | {"model": str(model)} | changes
    return check_recipe({k: v for k, v in settings.items() if v is not None}, "tiny")


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    code: int
    out: str
    err: str


def run_cli(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    from mulligan.cli import main

    out, err, before = StringIO(), StringIO(), sys.argv
    sys.argv = ["mulligan", *map(str, arguments)]
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as left:
        code = left.code or 0
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


def said(tokenizer: Any, text: str) -> Completion:
    """A completion that ended its turn."""
    return Completion((*tokenizer.encode(text), tokenizer.eos_token_id), text, "stop")


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def second_time_right(tokenizer):
    """Says something odd, reflects, and says something even."""

    def script(prompt, i, j):
        text = tokenizer.decode(prompt)
        if "Why?" not in text:
            return "a"
        return "hm" if text.rstrip().endswith("Why?<|im_end|>\n<|im_start|>assistant") else "bb"

    return script
