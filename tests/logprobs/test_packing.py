import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.logprobs.packing import PromptGroup, join_groups, pack, split_group

RAGGED = PromptGroup((5, 6, 7), [(10, 11, 12), (20,), (), (30, 31)])


def test_a_group_becomes_one_stream_with_the_prompt_once():
    stream = pack([RAGGED])
    assert stream.token_ids == (5, 6, 7, 10, 11, 30)
    assert stream.position_ids == (0, 1, 2, 3, 4, 3)
    assert stream.groups == ((3, (2, 0, 0, 1)),)


def test_each_completion_token_is_predicted_by_the_token_before_it():
    stream = pack([RAGGED])
    assert stream.targets == (10, 11, 12, 20, 30, 31)
    assert [stream.token_ids[i] for i in stream.predictors] == [7, 10, 11, 7, 7, 30]


def test_of_several_groups_the_prompts_come_first_and_positions_restart_at_each_ones_end():
    stream = pack([RAGGED, PromptGroup((8, 9), [(40, 41), ()])])
    assert stream.token_ids == (5, 6, 7, 8, 9, 10, 11, 30, 40)
    assert stream.position_ids == (0, 1, 2, 0, 1, 3, 4, 3, 2)
    assert stream.groups == ((3, (2, 0, 0, 1)), (2, (1, 0)))
    assert [stream.token_ids[i] for i in stream.predictors] == [7, 10, 11, 7, 7, 30, 9, 40]
    assert stream.targets == (10, 11, 12, 20, 30, 31, 40, 41)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pack([RAGGED, PromptGroup((), [(1, 2)])])


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


def test_groups_go_together_up_to_the_limit_and_a_larger_one_stands_alone():
    assert join_groups([4, 4, 4, 30, 4], 9) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert join_groups([], 9) == []


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(1, 100))
def test_streams_cover_every_group_once_and_in_order(tokens_N, max_tokens):
    streams = join_groups(tokens_N, max_tokens)
    covered = [i for each in streams for i in range(len(tokens_N))[each]]
    assert covered == list(range(len(tokens_N)))
    for each in streams:
        assert len(tokens_N[each]) == 1 or sum(tokens_N[each]) <= max_tokens
