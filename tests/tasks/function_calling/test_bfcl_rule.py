import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.tasks.function_calling.bfcl_rule import KINDS, accepts, describe_tool, judge_calls
from mulligan.tasks.function_calling.calls import Call

AREA = {
    "name": "geometry.area",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "unit": {"type": "string"},
            "points": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["base", "height"],
    },
}
TOOLS = {"geometry.area": describe_tool(AREA), "other": {"required": [], "types": {}}}
POSSIBLE = {"base": [10], "height": [5.0], "unit": ["cm", "centimetre", ""]}
RIGHT = {"base": 10, "height": 5}


def reason(*calls, expected=(POSSIBLE,)):
    wanted = [{"geometry.area": possible} for possible in expected]
    return judge_calls(calls, wanted, TOOLS).reason


def area(**arguments):
    return Call("geometry.area", {**RIGHT, **arguments})


def test_a_description_is_reduced_to_what_the_rule_needs():
    assert TOOLS["geometry.area"] == {
        "required": ["base", "height"],
        "types": {
            "base": ["integer", None],
            "height": ["float", None],
            "unit": ["string", None],
            "points": ["array", "integer"],
        },
    }


def test_an_optional_parameter_may_be_absent_or_have_any_possible_value():
    assert reason(area()) == "passed"
    assert reason(area(unit="Centimetre")) == "passed"
    assert reason(area(unit="inch")) == "wrong_value"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([area(), area()], "wrong_number_of_calls"),
        ([Call("geometry_area", RIGHT)], "unknown_tool"),
        ([Call("other", RIGHT)], "wrong_tool"),
        ([Call("geometry.area", {"base": 10})], "missing_parameter"),
        ([area(color="red")], "unexpected_parameter"),
        ([area(points=[1])], "unexpected_parameter"),
        ([area(base="10")], "wrong_value"),
        ([area(base=10.0)], "wrong_value"),
        ([area(base=True)], "wrong_value"),
        ([area(height=10**400)], "wrong_value"),
    ],
)
def test_a_wrong_call_has_its_reason(calls, expected):
    assert reason(*calls) == expected


def test_a_parameter_that_is_expected_and_not_marked_optional_is_missing():
    assert reason(area(), expected=[{**POSSIBLE, "unit": ["cm"]}]) == "missing_parameter"


def test_several_calls_pass_in_any_order_but_each_counts_once():
    small, large = POSSIBLE, {**POSSIBLE, "base": [20]}
    assert reason(area(base=20), area(), expected=[small, large]) == "passed"
    assert reason(area(), area(), expected=[small, large]) == "wrong_value"


def test_an_expected_call_takes_the_first_call_that_fits_as_the_leaderboard_has_it():
    wide, narrow = {**POSSIBLE, "base": [10, 20]}, POSSIBLE
    assert reason(area(), area(base=20), expected=[wide, narrow]) == "wrong_value"
    assert reason(area(base=20), area(), expected=[wide, narrow]) == "passed"


@pytest.mark.parametrize(
    ("value", "possible", "kind", "items", "right"),
    [
        # Strings: case, spaces and some punctuation do not count.
        ("April 1, 2024", ["april 1,2024"], "string", None, True),
        ("a_b-c/d.e*f^g", ["ABCDEFG"], "string", None, True),
        ("it's", ['it"s'], "string", None, True),
        ("what?", ["what"], "string", None, False),
        ("5", [5], "string", None, False),
        (5, [5], "string", None, True),  # the possible value's type instead of the described
        ("x", ["x"], "any", None, True),
        # Numbers: exactly the type, but an integer may stand for a float.
        (5, [5.0], "float", None, True),
        (5.0, [5], "float", None, True),
        (5.0, [5], "integer", None, False),
        (True, [True, ""], "boolean", None, True),
        (1, [True], "boolean", None, False),
        ("", [True, ""], "boolean", None, False),
        (None, [None], "string", None, True),
        # Lists: the items' type too; the order counts.
        ([1, 2], [[1, 2]], "array", "integer", True),
        ([2, 1], [[1, 2]], "array", "integer", False),
        ([1.0, 2], [[1, 2]], "array", "integer", False),
        ((1, 2), [[1, 2]], "array", "integer", False),
        ((1.5, 2.5), [[1.5, 2.5]], "tuple", "float", True),
        ([1.5, 2.5], [[1.5, 2.5]], "tuple", "float", True),
        (["New York"], [["new-york"]], "array", "string", True),
        ([["New York"]], [[["new york"]]], "array", "array", False),
        ([], [""], "array", "string", True),
        ([], [["a"]], "array", "string", False),
        ("a", ["a"], "array", "string", True),  # a variable's name
        # Dictionaries: keys as expected, each value among the possible ones.
        ({"a": "X Y"}, [{"a": ["xy"]}], "dict", None, True),
        ({"a": "x"}, [{"a": ["x"], "b": ["y", ""]}], "dict", None, True),
        ({"a": "x"}, [{"a": ["x"], "b": ["y"]}], "dict", None, False),
        ({"a": "x", "c": 1}, [{"a": ["x"]}], "dict", None, False),
        ({"a": ["X"]}, [{"a": [["x"]]}], "dict", None, False),
        ({}, ["", {}], "dict", None, True),
        ([{"a": 1}, {"a": 2}], [[{"a": [1]}, {"a": [2]}]], "array", "dict", True),
        ([{"a": 2}, {"a": 1}], [[{"a": [1]}, {"a": [2]}]], "array", "dict", False),
        ([{"a": 1}], [[{"a": [1]}, {"a": [2]}]], "array", "dict", False),
        (["a"], [[{"a": [1]}], ""], "array", "dict", False),
        ("x", [], "string", None, False),
    ],
)  # fmt: skip
def test_a_value_is_accepted_by_its_described_type(value, possible, kind, items, right):
    assert accepts(value, possible, kind, items) is right


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=6,
)
CHOICES = (
    [""],
    ["x", ""],
    [5, ""],
    [[1, 2], ""],
    [["a"], "b"],
    [{"a": ["x", ""], "b": [1]}, ""],
    [[{"a": [1]}], [[1]], ""],
    [None],
    [],
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(CHOICES), st.sampled_from(list(KINDS)), st.sampled_from(list(KINDS)))
def test_no_value_makes_the_rule_raise(value, possible, kind, items):
    assert accepts(value, possible, kind, items) in (True, False)
