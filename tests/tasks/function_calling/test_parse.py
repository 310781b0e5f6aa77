import random
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.tasks.function_calling.calls import Call, write_calls
from mulligan.tasks.function_calling.parse import (
    MAX_LENGTH,
    UnreadableError,
    find_calls,
    read_calls,
)
from timing import cpu_seconds

F = Call("f", {"a": 1, "b": "x"})
G = Call("g.h", {"c": [1.5, None, True]})
F_JSON = '{"name": "f", "arguments": {"a": 1, "b": "x"}}'
G_JSON = '{"name": "g.h", "arguments": {"c": [1.5, null, true]}}'


def reason(text):
    try:
        return read_calls(text)
    except UnreadableError as error:
        assert error.verdict.status == "unparseable"
        return error.verdict.reason


@pytest.mark.parametrize(
    "text",
    [
        f"[{F_JSON}, {G_JSON}]",
        f" {F_JSON}\n{G_JSON} ",
        f"{F_JSON}; {G_JSON}",
        f"```json\n[{F_JSON}, {G_JSON}]\n```",
        f"```\n{F_JSON}\n```\nand\n```\n{G_JSON}\n```",
        f"```json [{F_JSON}, {G_JSON}]",
        f"<tool_call>\n{F_JSON}\n</tool_call>\n<tool_call>\n{G_JSON}\n</tool_call>",
        f"<tool_call>{F_JSON}<tool_call>{G_JSON}",
        f"<tool_call>[{F_JSON}, {G_JSON}]</tool_call>",
        f"I call them: <tool_call>{F_JSON}, {G_JSON}</tool_call>, that is it.",
        "[f(a=1, b='x'), g.h(c=[1.5, None, True])]",
        'f(a=1, b="x")\ng.h(c=[1.5, null, true])',
        "f(a=1, b='x'); g.h(c=[1.5, None, True])",
        "f(a=1, b='x'), g.h(c=[1.5, None, True])",
        "```python\nf(a=1, b='x')\ng.h(c=[1.5, None, True])\n```",
        "<tool_call>f(a=1, b='x')</tool_call><tool_call>g.h(c=[1.5, None, True])</tool_call>",
        "First:\nf(a=1, b='x')\nand then\n  g.h(c=[1.5, None, True])\nand done.",
        f"The calls are {F_JSON} and {G_JSON}.",
        f"[TOOL_CALLS] [{F_JSON}, {G_JSON}]",
        f"<think>Perhaps f(a=2)?</think>\n[{F_JSON}, {G_JSON}]",
        "[{'name': 'f', 'arguments': {'a': 1, 'b': 'x'}}, "
        "{'name': 'g.h', 'arguments': {'c': [1.5, None, True]}}]",
        '{"tool_calls": [{"type": "function", "function": {"name": "f", '
        '"arguments": "{\\"a\\": 1, \\"b\\": \\"x\\"}"}}, ' + G_JSON + "]}",
        '[{"function": "f", "parameters": {"a": 1, "b": "x"}}, ' + G_JSON + "]",
    ],
)
def test_two_calls_are_read_from_every_common_shape(text):
    assert reason(text) == [F, G]


def test_a_call_without_arguments_has_none():
    expected = [Call("f", {})]
    for text in ('{"name": "f"}', '{"name": "f", "arguments": null}', "f()", "[f()]"):
        assert reason(text) == expected


def test_tuples_and_negative_numbers_are_literals():
    assert reason("f(a=(1, -2.5), b={'k': ()})") == [Call("f", {"a": (1, -2.5), "b": {"k": ()}})]


@pytest.mark.parametrize(
    "text",
    ["", "  ", "[]", "I cannot help with that.", "None", "42", "(perhaps)", '"f"'],
)
def test_a_text_without_anything_like_a_call_has_no_call(text):
    assert reason(text) == "no_call"


@pytest.mark.parametrize(
    "text",
    [
        f"[{F_JSON}",
        f"[{F_JSON}, " + '{"name": "g", "argu',
        '{"name": "f", "arguments": {"a": 1}',
        '{"name": "f", "arguments": [1]}',
        '{"name": 3, "arguments": {}}',
        '{"city": "Paris"}',
        '{"name": "f", "arguments": {"a": NaN}}',
        f"<tool_call>{F_JSON}</tool_call><tool_call>oops</tool_call>",
        "```json\n{broken\n```",
        "f(1)",
        "f(a=g(b=1))",
        "f(**{'a': 1})",
        "f(a=x)",
        "f(a=1 + 1)",
        "f(a=[i for i in 'ab'])",
        "f(a=__import__('os').system('true'))",
        "f(a={1: 2})",
        "f(a=b'x')",
        "f(a=1j)",
        "f(a=f'{1}')",
        "f(a=lambda: 1)",
        "x = f(a=1)",
        "import os; f(a=1)",
        "[" * 50 + "]" * 50,
        f"[{F_JSON}]".ljust(MAX_LENGTH + 1),
        '{"name": "f", "arguments": {"a": ' + "9" * 5_000 + "}}",
    ],
)
def test_what_looks_like_a_call_and_is_none_cannot_be_parsed(text):
    assert reason(text) == "not_parseable"


def test_every_call_counts_so_an_answer_cannot_hedge():
    other = '{"name": "f", "arguments": {"a": 2}}'
    assert len(reason(f"{F_JSON} or {other}")) == 2
    assert len(reason(f"```json\n{F_JSON}\n```\nor\n```json\n{other}\n```")) == 2
    assert len(reason("f(a=1)\nor\nf(a=2)")) == 2


def test_an_unfinished_list_is_not_read_as_the_calls_that_were_finished():
    assert reason(f"Here: [{F_JSON}, ") == "not_parseable"


def test_reading_prints_no_warnings_of_pythons_about_the_models_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason("f(a='\\d')") == [Call("f", {"a": "\\d"})]


def test_calls_are_found_anywhere_in_a_reflection_in_its_order():
    text = f"I wrote f(a=')', b=2), but it is [g.h(c=1), f(a=1)], {F_JSON} or {{broken."
    assert find_calls(text, ["f", "g.h"]) == [
        Call("f", {"a": ")", "b": 2}),
        Call("g.h", {"c": 1}),
        Call("f", {"a": 1}),
        F,
    ]


def test_only_calls_of_known_tools_are_found_within_a_sentence():
    assert find_calls("I used print(a=1) and xf(a=1) and f(a=1", ["f"]) == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8})?", fullmatch=True)
CALLS = st.builds(Call, NAMES, st.dictionaries(st.text(max_size=6), JSON_VALUES, max_size=4))


@settings(max_examples=100, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=3))
def test_whatever_is_written_is_read_back(calls):
    assert read_calls(write_calls(calls)) == calls


def test_a_value_may_hold_what_marks_blocks_elsewhere():
    calls = [Call("f", {"a": "<tool_call>f(a=1)</tool_call> ```json\n{}```"})]
    assert read_calls(write_calls(calls)) == calls


PIECES = [
    *"[]{}()<>\"'`\\,:;=.-*#\n\t 0\x00é\ud800\u2028",
    *("f(", "f(a=", "g.h(c=", "name", '"name":', '"arguments":', "<tool_call>", "</tool_call>"),
    *("```", "```json\n", "</think>", "true", "None", "NaN", "1e999", "lambda:", "not ", "if "),
    *(F_JSON, G_JSON, f"[{F_JSON}]", "f(a=1)", "[[[[", "]]]]", "{" * 30, "9" * 50, "-" * 50),
]


def test_10_000_broken_texts_never_raise_and_never_take_100_ms():
    rng = random.Random(0)
    slow = []
    for index in range(10_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 40)))
        if index % 2:  # something nearly right, damaged
            whole = rng.choice(
                [f"[{F_JSON}, {G_JSON}]", "[f(a=1), g.h(c=[1.5])]", f"<tool_call>{F_JSON}"]
            )
            place = rng.randrange(len(whole))
            text = whole[:place] + rng.choice(PIECES) + whole[place + rng.randint(0, 3) :]
        began = time.thread_time()
        calls = reason(text)
        find_calls(text, ["f", "g.h"])
        if time.thread_time() - began > 0.05:
            slow.append(text)
        assert calls in ("no_call", "not_parseable") or all(isinstance(c, Call) for c in calls)
    for text in slow:  # once more, each by itself
        assert cpu_seconds(lambda text=text: (reason(text), find_calls(text, ["f"]))) < 0.1


@pytest.mark.parametrize(
    "piece",
    ["[", "[1,", "[]", "[1]", "{", '{"a":', '["', "f(", "f()", "f(a=1);", "f(a=1)\n", "f(a=[", "a.",
     "-", "not ", "1+", "<tool_call>", "```", " ", "lambda:", f"{F_JSON}", "x f(a='", "\\"],
)  # fmt: skip
def test_the_longest_texts_take_less_than_100_ms(piece):
    text = (piece * MAX_LENGTH)[:MAX_LENGTH]
    assert cpu_seconds(lambda: reason(text)) + cpu_seconds(lambda: find_calls(text, ["f"])) < 0.1
