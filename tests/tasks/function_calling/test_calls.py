import pytest

from mulligan.tasks.function_calling.calls import Call, compare_exactly, compare_names, write_calls

TOOLS = ["get_weather", "get_time", "book.table"]
PARIS = Call("get_weather", {"city": "Paris", "days": 3})
ROME = Call("get_weather", {"city": "Rome", "days": 1})
TIME = Call("get_time", {"zone": "CET"})


def reason(reference, calls):
    return compare_exactly(reference, calls, TOOLS).reason


def test_the_reference_passes_with_its_calls_in_any_order():
    assert reason([PARIS, ROME, TIME], [TIME, PARIS, ROME]) == "passed"


def test_the_same_call_twice_is_not_two_different_calls():
    assert reason([PARIS, ROME], [PARIS, PARIS]) == "wrong_value"
    assert reason([PARIS, PARIS], [PARIS, PARIS]) == "passed"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], "wrong_number_of_calls"),
        ([PARIS, PARIS], "wrong_number_of_calls"),
        ([Call("get_wether", PARIS.arguments)], "unknown_tool"),
        ([TIME], "wrong_tool"),
        ([Call("get_weather", {"city": "Paris"})], "missing_parameter"),
        ([Call("get_weather", {**PARIS.arguments, "unit": "C"})], "unexpected_parameter"),
        ([Call("get_weather", {"city": "paris", "days": 3})], "wrong_value"),
    ],
)
def test_a_wrong_answer_has_the_reason_that_a_person_would_give(calls, expected):
    assert reason([PARIS], calls) == expected


def test_a_verdict_names_the_parameter_that_is_wrong():
    call = Call("get_weather", {"city": "Paris", "days": 4})
    assert compare_exactly([PARIS], [call], TOOLS).detail == "'days'"


def test_the_difference_is_looked_for_in_the_call_that_is_not_the_reference():
    late = Call("get_weather", {"city": "Rome", "days": 9})
    verdict = compare_exactly([PARIS, ROME], [late, PARIS], TOOLS)
    assert (verdict.reason, verdict.detail) == ("wrong_value", "'days'")


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (3, 3.0, True),
        (3, "3", False),
        (True, 1, False),
        (False, 0, False),
        (True, True, True),
        (None, None, True),
        (None, "", False),
        ("a", "A", False),
        ([1, 2], [2, 1], False),
        ([1, 2], (1, 2), True),
        ({"a": [1]}, {"a": [1.0]}, True),
        ({"a": [1]}, {"a": [True]}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
    ],
)
def test_values_are_equal_as_json_has_them(one, other, equal):
    verdict = compare_exactly(
        [Call("get_time", {"x": one})], [Call("get_time", {"x": other})], TOOLS
    )
    assert verdict.passed is equal


def test_a_reference_whose_tool_is_not_offered_still_passes():
    assert compare_exactly([PARIS], [PARIS], []).passed


def test_names_are_faulted_only_where_there_is_a_fault():
    assert compare_names(["get_time"], [TIME], TOOLS) is None


def test_a_made_up_name_is_quoted_at_a_length_that_fits_a_message():
    verdict = compare_exactly([PARIS], [Call("x" * 5_000, {})], TOOLS)
    assert len(verdict.detail) < 100


def test_calls_are_written_as_one_line_of_json():
    assert write_calls([Call("f", {"a": "é", "b": [1, None]}), Call("g", {})]) == (
        '[{"name": "f", "arguments": {"a": "é", "b": [1, null]}}, {"name": "g", "arguments": {}}]'
    )
