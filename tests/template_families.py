"""Chat templates of model families, each with a tokenizer of one token per byte that has its marks.

The texts are the originals, read from the installed TRL, which carries them to recognise models by.
Mistral's is not among them: the one below behaves like that of Mistral 7B Instruct v0.3 where it
matters here (no role but user and assistant, a space before an answer, tools before the last
question).
"""

from dataclasses import dataclass
from pathlib import Path

import trl

from tiny import make_tokenizer

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% if tools and loop.last %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) "
    "+ '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}"
    "{% endfor %}"
)
_CHATML = ("<|im_start|>",)


@dataclass(frozen=True)
class Family:
    """A template and the marks that it writes."""

    file: str
    special: tuple[str, ...]
    eos: str
    ends: str
    """The mark that ends a turn of the model."""
    bos: str | None = None
    added: tuple[str, ...] = ()
    """Marks that decoding keeps."""

    def tokenizer(self):
        text = MISTRAL if self.file == "mistral" else _read(self.file)
        return make_tokenizer(text, self.special, self.eos, self.bos, self.added)


def _read(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>")
FAMILIES = {
    "qwen2.5": Family("qwen2_5", _CHATML, "<|im_end|>", "<|im_end|>", added=_THINK[2:]),
    "qwen3": Family("qwen3", _CHATML, "<|im_end|>", "<|im_end|>", added=_THINK),
    "llama3": Family("llama3", _HEADERS, "<|end_of_text|>", "<|eot_id|>", "<|begin_of_text|>"),
    "llama3.2": Family("llama3_2", _HEADERS, "<|end_of_text|>", "<|eot_id|>", "<|begin_of_text|>"),
    "gemma2": Family(
        "gemma", ("<start_of_turn>", "<end_of_turn>"), "<eos>", "<end_of_turn>", "<bos>"
    ),
    "gemma3": Family(
        "gemma3", ("<start_of_turn>", "<end_of_turn>"), "<eos>", "<end_of_turn>", "<bos>"
    ),
    "mistral": Family("mistral", ("[INST]", "[/INST]"), "</s>", "</s>", "<s>"),
    "phi3": Family(
        "phi3", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "</s>", "<|end|>"
    ),
    "phi3.5": Family(
        "phi3_5", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "</s>", "<|end|>"
    ),
    "gpt-oss": Family("gptoss", _HARMONY, "<|return|>", "<|return|>"),
    "deepseek-r1": Family(
        "deepseek_r1_distill",
        ("<｜User｜>", "<｜Assistant｜>"),
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        added=_THINK[:2],
    ),
}
