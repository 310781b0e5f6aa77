import json

import pytest

from mulligan import MulliganError
from mulligan.serving.logs import LONGEST_ANSWER, LONGEST_LINE, read_lines, read_logged
from mulligan.tasks.jsonl import TextFile
from mulligan.tasks.registry import load_task
from tiny import TASK_FILE

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
SAID = {"role": "assistant", "content": "5"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
COMPLETION = {"model": "big", "choices": [{"index": 0, "message": SAID}]}
GIVEN = {"given": {"sum": 4}}

ROWS = {
    "OpenAI's fine-tuning format": {"messages": [*ASKED, SAID], "model": "big", **GIVEN},
    "LiteLLM": {"messages": ASKED, "response": COMPLETION, "model": "big", **GIVEN},
    "LiteLLM, a message alone": {"messages": ASKED, "response": SAID, "model": "big", **GIVEN},
    "request and response": {"request": {"messages": ASKED}, "response": COMPLETION, **GIVEN},
    "Portkey": {
        "request": {"method": "POST", "body": {"messages": ASKED}},
        "response": {"status": 200, "body": COMPLETION},
        "model": "big",
        "metadata": GIVEN,
    },
    "Helicone": {
        "request_body": {"messages": ASKED, "model": "big"},
        "response_body": {**COMPLETION},
        **GIVEN,
    },
    "Langfuse": {"input": ASKED, "output": SAID, "model": "big", "metadata": GIVEN},
    "Langfuse, the request as input": {
        "input": {"messages": ASKED},
        "output": "5",
        "model": "big",
        "metadata": {"given": '{"sum": 4}'},
    },
}


@pytest.fixture(scope="module")
def task():
    return load_task(str(TASK_FILE))


def nested(levels):
    """Lists in lists."""
    return [nested(levels - 1)] if levels else []


def read(task, row):
    return read_logged(task, json.dumps(row).encode(), "log.jsonl, line 7")


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_common_forms_are_read_alike(task, row):
    logged = read(task, row)
    assert list(logged.problem.messages) == ASKED
    assert logged.problem.given == {"sum": 4}
    assert (logged.answer, logged.model) == ("5", "big")


def test_calls_of_tools_are_read_as_models_write_them(task):
    said = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    tools = [{"type": "function", "function": {"name": "add"}}]
    logged = read(task, {"messages": [*ASKED, said], "tools": tools, **GIVEN})
    assert logged.answer == '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    assert list(logged.problem.tools) == tools


def test_parts_of_text_are_joined_and_developers_speak_as_the_system(task):
    parts = [{"type": "text", "text": "2 +"}, {"type": "text", "text": " 2?"}]
    asked = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    logged = read(task, {"messages": [*asked, SAID], **GIVEN})
    assert list(logged.problem.messages) == ASKED


def test_a_task_made_of_rows_reads_its_own_fields(tmp_path):
    task = TextFile(path=str(tmp_path / "none.jsonl"), verifier="numeric")
    logged = read(task, {"messages": ASKED, "response": SAID, "reference": "4"})
    assert logged.problem.given["reference"] == "4"
    assert task.verify(logged.problem, logged.answer).reason == "wrong"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([1], "not an object with named fields"),
        ({}, "no messages, in any of the forms"),
        ({"messages": [{"role": "wizard", "content": "hm"}]}, "the role 'wizard'; known are"),
        ({"messages": [{"role": ["user"]}]}, "the role ['user']; known are"),
        ({"messages": ["hm"]}, "a message should be an object with role"),
        ({"messages": ASKED, **GIVEN}, "no answer: the last message is not"),
        ({"messages": [*ASKED, SAID]}, "the row has no field 'given'"),
        ({"messages": [*ASKED, SAID], "given": "hm"}, "'given' is text that is not JSON"),
        ({"messages": [*ASKED, SAID], "given": {"x": float("nan")}}, "plain JSON values: Out of"),
        ({"messages": [*ASKED, SAID], "given": {"x": nested(200)}}, "more than 100 levels deep"),
        ({"messages": [ASKED[0], SAID], **GIVEN}, "in which the user asks something"),
        ({"messages": ASKED, "response": {"error": "overloaded"}, **GIVEN}, "holds no message"),
        (
            {"messages": ASKED, "response": {"tool_calls": [{}]}, **GIVEN},
            "a tool call should have a function",
        ),
        (
            {"messages": ASKED, "response": {"content": [{"type": "image"}]}, **GIVEN},
            "content should be text, or parts of text",
        ),
        (
            {"messages": ASKED, "response": "x" * 2**20, **GIVEN},
            f"an answer of 1048576 characters; the longest that is taken has {LONGEST_ANSWER}",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_the_reason(task, row, says):
    with pytest.raises(MulliganError) as refused:
        read(task, row)
    assert says in str(refused.value)
    assert str(refused.value).startswith("log.jsonl, line 7: ")


@pytest.mark.parametrize("line", [b"{not json", b"\xff\xfe", b"[" * 10000])
def test_a_line_that_is_not_json_is_named(task, line):
    with pytest.raises(MulliganError, match="line 7: not valid JSON"):
        read_logged(task, line, "log.jsonl, line 7")


def test_lines_keep_their_numbers_and_one_too_long_is_not_taken_into_memory(tmp_path, task):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"{}\n\n" + b"x" * (LONGEST_LINE + 5) + b"\n{}")
    assert list(read_lines(path)) == [(1, b"{}\n"), (3, None), (4, b"{}")]
    with pytest.raises(MulliganError, match="longer than 16 MiB"):
        read_logged(task, None, "log.jsonl, line 3")
