import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.logprobs.packing import pack, split_group


def test_a_group_becomes_one_stream_with_the_prompt_once():
    group = pack((5, 6, 7), [(10, 11, 12), (20,), (), (30, 31)])
    assert group.token_ids == (5, 6, 7, 10, 11, 30)
    assert group.position_ids == (0, 1, 2, 3, 4, 3)
    assert group.segment_lengths_G == (2, 0, 0, 1)
    assert group.lengths_G == (3, 1, 0, 2)


def test_each_completion_token_is_predicted_by_the_token_before_it():
    group = pack((5, 6, 7), [(10, 11, 12), (20,), (), (30, 31)])
    assert group.targets == (10, 11, 12, 20, 30, 31)
    assert [group.token_ids[i] for i in group.predictors] == [7, 10, 11, 7, 7, 30]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pack((), [(1, 2)])


def test_a_group_is_cut_where_the_next_completion_would_pass_the_limit():
    parts = split_group(10, [4, 4, 4, 4, 4], max_tokens=18)
    assert parts == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_a_completion_beyond_the_limit_stands_alone():
    assert split_group(10, [4, 50, 4], 20) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@given(st.integers(1, 50), st.lists(st.integers(0, 30), max_size=12), st.integers(1, 200))
def test_parts_cover_every_completion_once_and_in_order(prompt_length, lengths_G, max_tokens):
    parts = split_group(prompt_length, lengths_G, max_tokens)
    covered = [i for part in parts for i in range(len(lengths_G))[part]]
    assert covered == list(range(len(lengths_G)))
    for part in parts:
        piece = lengths_G[part]
        assert len(piece) <= 1 or prompt_length + sum(piece) <= max_tokens
