import time
from fractions import Fraction

import pytest

from mulligan.tasks.countdown.arithmetic import (
    MAX_DEPTH,
    MAX_LENGTH,
    NotArithmetic,
    find_equations,
    normalise,
    parse,
    parse_equation,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("3 * 5 + 4", 19),
        ("3 + 5 * 4", 23),
        ("(3 + 5) * 4", 32),
        ("20 - 5 - 4", 11),
        ("20 / 5 / 4", 1),
        ("8 / 3 * 3", 8),
        ("1 / 3 + 1 / 6", Fraction(1, 2)),
        ("-3 + 5", 2),
        ("-(3 - 5) * 2", 4),
        ("3 - -5", 8),
        ("--3", 3),
        ("\t3*  5 ", 15),
        ("0 * 5", 0),
    ],
)
def test_an_expression_has_its_exact_value(text, value):
    assert parse(text).value == value


def test_an_expression_names_its_numbers_in_order_and_its_operators():
    expression = parse("-(12 - 4) * 12")
    assert expression.numbers == (12, 4, 12)
    assert expression.operators == {"-", "*"}


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "+", "+3", "3 +", "3 5", "(3", "3)", "()", "3 ** 2", "3 // 2", "3 % 2", "3(4)"),
        *("3.5 + 1", "1e9", "1_000", "0x10", "05 + 3", "3 + x", "3 + 5 = 8", "3\n+ 5", "3\0+ 5"),
        *("٣ + ٥", "３ + ５", "²", "1/0", "1 / (3 - 3)", "1234567890", "__import__('os')"),
    ],
)
def test_anything_outside_the_allow_list_is_refused(text):
    with pytest.raises(NotArithmetic):
        parse(text)


def test_depth_and_length_end_at_their_bounds():
    assert parse("(" * MAX_DEPTH + "3" + ")" * MAX_DEPTH).value == 3
    with pytest.raises(NotArithmetic, match="deeper"):
        parse("(" * (MAX_DEPTH + 1) + "3" + ")" * (MAX_DEPTH + 1))
    assert parse("1" + "+1" * (MAX_LENGTH // 2 - 1)).value == MAX_LENGTH // 2
    with pytest.raises(NotArithmetic, match="longer"):
        parse("1" + "+1" * (MAX_LENGTH // 2))
    with pytest.raises(NotArithmetic, match="longer"):
        parse_equation("1 + 1 = " + " " * MAX_LENGTH + "2")


def test_the_largest_expression_takes_a_few_milliseconds():
    text = "999999999*" * 19 + "999999999"
    parse(text)
    start = time.process_time()
    assert parse(text).value == 999999999**20
    assert time.process_time() - start < 0.02


def test_an_equation_has_its_sides():
    assert [side.value for side in parse_equation("3 * 5 + 4 = 15 + 4 = 20")] == [19, 19, 20]
    assert [side.value for side in parse_equation("(3 + 5 = 8)")] == [8, 8]
    assert [side.value for side in parse_equation("(3) + (5) = (8)")] == [8, 8]


@pytest.mark.parametrize("text", ["19", "19 = 19", "-5", "3 + 5 == 8", "3 + 5 = = 8", "= 3 + 5"])
def test_what_joins_no_numbers_or_lacks_a_side_is_no_equation(text):
    with pytest.raises(NotArithmetic):
        parse_equation(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So 3 * 5 = 15, then 15 + 4 = 19.", ["3 * 5 = 15", "15 + 4 = 19"]),
        ("**3 × 5 + 4 = 19**", ["3 * 5 + 4 = 19"]),
        ("*3 − 5*", ["3 - 5"]),
        ("* 3 x 5\n* 8 ÷ 4", ["3 * 5", "8 / 4"]),
        (r"\( 3 \times \left(5 + 4\right) \)", ["3 * (5 + 4)"]),
        ("3 + 5 = 8 (as asked)", ["3 + 5 = 8"]),
        ("(so) 3 + 5 = 8 - fine", ["3 + 5 = 8"]),
        ("I have 3, 4 and 5, off by -5, 100% sure", []),
        ("3x + 5 and 1e9 + 5", ["+ 5", "e9 + 5"]),
        ("3.5 + 1", ["3.5 + 1"]),
        ("3 + 5 -", ["3 + 5 -"]),
    ],
)
def test_the_arithmetic_in_a_text_is_found(text, found):
    assert [span.text for span in find_equations(normalise(text))] == found
