from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.tasks.proportions import apportion, in_proportion

WEIGHTS = st.dictionaries(
    st.sampled_from("abcdef"), st.floats(0, 10), min_size=1, max_size=6
).filter(lambda weights: sum(weights.values()) > 0.01)


@given(WEIGHTS, st.integers(1, 300))
def test_every_beginning_has_the_shares_but_for_one(weights, length):
    turns = list(islice(in_proportion(weights), length))
    total = sum(weights.values())
    for kind, weight in weights.items():
        assert abs(turns.count(kind) - length * weight / total) <= len(weights) / 2 + 1e-6
        assert weight > 0 or kind not in turns


def test_two_kinds_alternate_and_three_quarters_come_thrice_in_four():
    assert "".join(islice(in_proportion({"a": 1, "b": 1}), 6)) == "ababab"
    assert "".join(islice(in_proportion({"a": 3, "b": 1}), 8)).count("a") == 6


@given(WEIGHTS, st.integers(0, 1000))
def test_parts_add_up_and_are_within_one_of_their_share(weights, size):
    parts = apportion(weights, size)
    assert sum(parts.values()) == size
    total = sum(weights.values())
    for kind, part in parts.items():
        assert part == pytest.approx(size * weights[kind] / total, abs=1)
