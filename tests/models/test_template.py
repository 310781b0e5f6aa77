from datetime import date

import pytest

from mulligan.errors import MulliganError
from mulligan.models.template import ChatTemplate, stop_ids
from template_families import FAMILIES
from tiny import make_tokenizer

USER = {"role": "user", "content": "Make 7."}
TOOL = {"type": "function", "function": {"name": "book", "description": "Books a room."}}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


class Model:
    class generation_config:  # noqa: N801
        eos_token_id = None


@every_family
def test_a_turn_ends_with_the_templates_own_mark(family):
    tokenizer = family.tokenizer()
    template = ChatTemplate(tokenizer)
    assert tokenizer.decode([template.end_of_turn]) == family.ends
    assert template.end_of_turn in stop_ids(Model(), tokenizer)


def test_a_template_that_ends_a_turn_with_ordinary_text_leaves_it_to_the_tokenizer():
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    assert ChatTemplate(tokenizer).end_of_turn == tokenizer.eos_token_id


def test_a_tokenizer_that_ends_nothing_is_refused():
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    tokenizer.eos_token = None
    with pytest.raises(MulliganError, match="Give the tokenizer an eos_token"):
        _ = ChatTemplate(tokenizer).end_of_turn


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("qwen2.5", "7<|im_end|>"),
        ("qwen3", "<think>\n\n</think>\n\n7<|im_end|>"),
        ("llama3.2", "7<|eot_id|>"),
        ("gemma2", "7<end_of_turn>"),
        ("mistral", " 7</s>"),
        ("phi3", "7<|end|>"),
        ("gpt-oss", "<|channel|>final<|message|>7<|return|>"),
        ("deepseek-r1", "\n</think>\n\n7<｜end▁of▁sentence｜>"),
    ],
)
def test_words_are_spoken_as_the_model_would_sample_them(name, spoken):
    tokenizer = FAMILIES[name].tokenizer()
    assert tokenizer.decode(ChatTemplate(tokenizer).spoken("7")) == spoken


@pytest.mark.parametrize(
    ("name", "tools", "system", "channels", "opened"),
    [
        ("qwen2.5", True, True, False, None),
        ("qwen3", True, True, False, None),
        ("llama3", False, True, False, None),
        ("llama3.2", True, True, False, None),
        ("gemma2", False, False, False, None),
        ("gemma3", False, True, False, None),
        ("mistral", True, False, False, None),
        ("phi3", False, True, False, None),
        ("gpt-oss", True, True, True, None),
        ("deepseek-r1", False, True, False, ("<think>", "</think>")),
    ],
)
def test_what_a_template_has_a_place_for_is_found_by_rendering_it(
    name, tools, system, channels, opened
):
    template = ChatTemplate(FAMILIES[name].tokenizer())
    assert template.takes_tools == tools
    assert template.takes_system == system
    assert template.has_channels == channels
    assert template.opened_thought == opened


@pytest.mark.parametrize(
    ("name", "written"), [("llama3.2", "03 Feb 2025"), ("gpt-oss", "2025-02-03")]
)
def test_a_template_that_states_the_date_states_the_recipes(name, written):
    text = ChatTemplate(FAMILIES[name].tokenizer(), today="2025-02-03").render([USER])
    assert written in text
    assert date.today().isoformat() not in text


@every_family
def test_all_else_is_rendered_as_transformers_does(family):
    tokenizer = family.tokenizer()
    template = ChatTemplate(tokenizer, today=date.today().isoformat())
    tools = [TOOL] if family.file != "llama3_2" else []
    plain = tokenizer.apply_chat_template(
        [USER], tools=tools or None, add_generation_prompt=True, tokenize=False
    )
    assert template.render([USER], tools) == plain
