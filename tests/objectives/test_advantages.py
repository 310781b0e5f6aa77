import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulligan.objectives.advantages import group_advantages, is_dead

rewards = st.lists(st.floats(-100, 100), min_size=1, max_size=16)


def test_advantages_of_one_pass_in_four_are_those_computed_by_hand():
    # mean 1/4; squares (9 + 1 + 1 + 1) / 16 = 3/4; unbiased variance 1/4; std 1/2
    found = group_advantages([1, 0, 0, 0])
    assert found == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3], abs=1e-12)


def test_without_scaling_advantages_are_rewards_less_their_mean():
    assert group_advantages([1, 0, 0, 1], scale=False) == (0.5, -0.5, -0.5, 0.5)


@pytest.mark.parametrize("equal", [[0.0] * 8, [1.0] * 8, [0.1] * 7, [1 / 3] * 3, [5.0]])
def test_equal_rewards_give_exact_zeros(equal):
    assert is_dead(equal)
    assert group_advantages(equal) == (0.0,) * len(equal)


@pytest.mark.parametrize("broken", [[], [1.0, math.nan], [math.inf, 0.0]])
def test_a_missing_or_endless_reward_is_refused(broken):
    with pytest.raises(ValueError, match="each finite"):
        group_advantages(broken)


@given(rewards)
def test_advantages_sum_to_zero(rewards_G):
    advantages_G = group_advantages(rewards_G)
    assert math.fsum(advantages_G) == pytest.approx(0, abs=1e-7)


@given(rewards.filter(lambda rewards_G: max(rewards_G) - min(rewards_G) > 1e-3), st.floats(-9, 9))
def test_advantages_do_not_change_when_all_rewards_rise_alike(rewards_G, shift):
    shifted = group_advantages([reward + shift for reward in rewards_G])
    assert shifted == pytest.approx(group_advantages(rewards_G), abs=1e-6)


@given(rewards)
def test_advantages_keep_the_order_of_rewards(rewards_G):
    advantages_G = group_advantages(rewards_G)
    by_reward = sorted(range(len(rewards_G)), key=lambda i: rewards_G[i])
    ordered = [advantages_G[i] for i in by_reward]
    assert ordered == sorted(ordered)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=16))
def test_advantages_are_those_of_the_torch_formula(rewards_G):
    tensor_G = torch.tensor(rewards_G, dtype=torch.float64)
    expected = (tensor_G - tensor_G.mean()) / (tensor_G.std() + 1e-4)
    assert group_advantages(rewards_G) == pytest.approx(expected.tolist(), abs=1e-9)
