import json

import pytest
from pydantic import ValidationError

from mulligan import MulliganError
from mulligan.serving.chat_protocol import ChatRequest, is_verifiable, requested_problem
from mulligan.tasks.registry import load_task
from task_rows import write_rows
from tiny import TASK_FILE

GIVEN = {"mulligan": {"given": {"sum": 4}}}
ASKED = [{"role": "user", "content": "2 + 2?"}]


def request(**fields):
    return ChatRequest.model_validate_json(json.dumps({"model": "m", "messages": ASKED, **fields}))


@pytest.fixture(scope="module")
def task():
    return load_task(str(TASK_FILE))


@pytest.fixture
def mix(tmp_path):
    schema = write_rows(tmp_path, {"messages": "hm", "schema": {}})
    parts = {
        "even": {"weight": 1, "task": str(TASK_FILE)},
        "orders": {"weight": 1, "task": "json_schema", "options": {"path": schema}},
    }
    return load_task("mix", {"parts": parts})


def test_what_is_null_is_left_out_and_what_changes_nothing_is_taken():
    asked = request(stop=None, tools=None, stream=None, top_p=1.0, frequency_penalty=0, n=1)
    assert (asked.tools, asked.stream) == ([], False)
    with pytest.raises(ValidationError):
        request(stop=["."])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": [{"role": ["user"], "content": "hm"}]}, r"the role \['user'\]; known are"),
        ({"mulligan": {"given": {"x": float("nan")}}}, "should hold plain JSON values"),
        ({"metadata": {"given": '{"x": NaN}'}}, "should hold plain JSON values"),
        ({"tools": [{"function": "add"}]}, "each of its tools should be a function with a name"),
        ({"tools": [{"function": {"name": []}}]}, "should be a function with a name"),
    ],
)
def test_a_request_that_cannot_be_used_is_told_why(task, fields, says):
    with pytest.raises(MulliganError, match=says):
        requested_problem(request(**fields), task)


def test_a_request_to_a_mix_names_the_part_that_verifies_it(mix):
    even = requested_problem(request(mulligan={"task": "even", "given": {}}), mix)
    assert even.task == "even"
    assert mix.verify(even, "bb").passed
    order = requested_problem(request(mulligan={"task": "orders", "schema": {"type": "null"}}), mix)
    assert mix.verify(order, "1").reason == "violates_schema"


@pytest.mark.parametrize("named", [{"given": {}}, {"task": "other", "given": {}}])
def test_a_request_to_a_mix_that_names_no_part_is_told_which_there_are(mix, named):
    with pytest.raises(MulliganError, match=r"one of the mix's parts \(even, orders\)"):
        requested_problem(request(mulligan=named), mix)


def test_a_request_to_a_mix_that_names_nothing_to_verify_is_answered(mix):
    assert not is_verifiable(requested_problem(request(), mix))
