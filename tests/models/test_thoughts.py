import json

import pytest

from mulligan.models.thoughts import KNOWN_MARKS, Speech, split_channels, split_thoughts

THINK = KNOWN_MARKS[0]


@pytest.mark.parametrize(
    ("text", "answer", "thoughts"),
    [
        ("7", "7", None),
        ("  7 \n", "  7 \n", None),
        ("<think>\n3 + 4?\n</think>\n\n7", "7", "3 + 4?"),
        ("<think>\n\n</think>\n\n7", "7", ""),
        ("<think>a</think> no <think>b</think>7", "7", "a</think> no <think>b"),
        ("[THINK]3 + 4[/THINK]7", "7", "3 + 4"),
        ("<seed:think>3 + 4</seed:think>7", "7", "3 + 4"),
        ("<|channel>thought\n3 + 4<channel|>7", "7", "3 + 4"),
    ],
)
def test_the_answer_is_what_comes_after_the_thoughts(text, answer, thoughts):
    speech = split_thoughts(text, KNOWN_MARKS)
    assert (speech.answer, speech.thoughts, speech.finished) == (answer, thoughts, True)


@pytest.mark.parametrize("text", ["<think>3 +", "<think>a</think> or <think>b", "7 <think>or"])
def test_a_thought_that_does_not_end_leaves_no_answer(text):
    speech = split_thoughts(text, KNOWN_MARKS)
    assert (speech.answer, speech.finished) == ("", False)


def test_a_thought_that_the_prompt_opened_ends_where_it_is_closed():
    assert split_thoughts("3 + 4</think>7", [THINK], opened=THINK) == Speech(
        "7", "3 + 4", marks=THINK
    )
    assert split_thoughts("3 + 4 = 7", [THINK], opened=THINK) == Speech(
        "", "3 + 4 = 7", finished=False, marks=THINK
    )


def test_marks_of_ones_own_replace_the_usual_ones():
    speech = split_thoughts("((<think>))7", [("((", "))")])
    assert (speech.answer, speech.thoughts) == ("7", "<think>")


def test_the_final_channel_is_the_answer():
    text = (
        "<|channel|>analysis<|message|>3 + 4 is 7.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>7<|return|>"
    )
    assert split_channels(text) == Speech("7", "3 + 4 is 7.")


def test_an_answer_without_analysis_has_no_thoughts():
    assert split_channels("<|channel|>final<|message|>7<|return|>") == Speech("7", None)


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis<|message|>3 + 4",
        "<|channel|>analysis<|message|>3 + 4<|end|>",
        "<|channel|>ana",
    ],
)
def test_analysis_alone_is_an_unfinished_thought(text):
    speech = split_channels(text)
    assert (speech.answer, speech.finished) == ("", False)


def test_a_call_in_the_commentary_channel_is_an_answer_that_other_models_could_have_written():
    speech = split_channels(
        "<|channel|>analysis<|message|>A room.<|end|><|start|>assistant to=functions.book"
        '<|channel|>commentary json<|message|>{"nights": 2}<|call|>'
    )
    assert speech.thoughts == "A room."
    assert speech.calls == (("book", '{"nights": 2}'),)
    block = speech.answer.removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert json.loads(block) == {"name": "book", "arguments": {"nights": 2}}
