import math

import pytest
import torch

from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.loss import grpo_loss, loss_normaliser

LENGTHS = [2, 1]
MASK = torch.tensor([[True, True], [True, False]])


def logprobs(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def test_on_policy_loss_is_the_one_computed_by_hand():
    scores = logprobs([-1.0, -2.0], [-3.0, 0.0])
    loss, _ = grpo_loss(scores, MASK, [0.5, -2.0], loss_normaliser("dapo", LENGTHS, 8))
    loss.backward()
    # The ratio is 1: -(0.5 + 0.5 - 2) / 3, and the gradient is -A / 3 on every token.
    assert loss.item() == pytest.approx(1 / 3)
    assert scores.grad.flatten().tolist() == pytest.approx([-1 / 6, -1 / 6, 2 / 3, 0.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dapo", -(0.5 + 0.5 - 2) / 3), ("grpo", -(0.5 - 2) / 2), ("dr_grpo", -(0.5 + 0.5 - 2) / 16)],
)
def test_each_kind_of_loss_weighs_tokens_as_it_says(kind, expected):
    normaliser = loss_normaliser(kind, LENGTHS, max_completion_tokens=8)
    loss, _ = grpo_loss(
        logprobs([-1.0, -2.0], [-3.0, 0.0]), MASK, [0.5, -2.0], normaliser, kind=kind
    )
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "flows"),
    [
        (1.5, 1.0, 1.2, False),  # already far better: no more push up
        (0.5, -1.0, -0.8, False),  # already far worse: no more push down
        (1.5, -1.0, -1.5, True),
        (0.5, 1.0, 0.5, True),
        (1.1, 1.0, 1.1, True),
    ],
)
def test_the_ratio_is_clipped_only_on_the_side_that_gains(ratio, advantage, objective, flows):
    scores = logprobs([-1.0])
    old = torch.tensor([[-1.0 - math.log(ratio)]], dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss, sums = grpo_loss(scores, mask, [advantage], 1.0, old_logprobs_GR=old)
    loss.backward()
    assert loss.item() == pytest.approx(-objective)
    assert (scores.grad.item() != 0) == flows
    assert (sums.clipped_low + sums.clipped_high).item() == (not flows)


KL = math.exp(-0.5) + 0.5 - 1
KL_SLOPE = 1 - math.exp(-0.5)


@pytest.mark.parametrize(("unbiased", "slope"), [(False, KL_SLOPE), (True, KL_SLOPE + KL)])
def test_the_kl_term_is_the_one_computed_by_hand(unbiased, slope):
    scores = logprobs([-1.0])
    ref = torch.tensor([[-1.5]], dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss, sums = grpo_loss(
        scores, mask, [0.0], 1.0, ref_logprobs_GR=ref, beta=0.1, unbiased_kl=unbiased
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * KL)
    assert sums.kl.item() == pytest.approx(KL)
    assert scores.grad.item() == pytest.approx(0.1 * slope)


def test_a_kl_coefficient_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        grpo_loss(logprobs([-1.0, 0.0]), MASK[:1], [1.0], 2.0, beta=0.1)


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo"])
def test_equal_rewards_give_a_gradient_of_exactly_zero(kind):
    scores = logprobs([-1.0, -2.0], [-3.0, 0.0])
    loss, _ = grpo_loss(scores, MASK, group_advantages([0.1, 0.1]), 3.0, kind=kind)
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.abs().max().item() == 0.0


def test_a_dead_group_still_pulls_towards_the_reference_when_the_kl_is_on():
    scores = logprobs([-1.0, -2.0], [-3.0, 0.0])
    ref = scores.detach() - 1
    loss, _ = grpo_loss(scores, MASK, [0.0, 0.0], 3.0, ref_logprobs_GR=ref, beta=0.1)
    loss.backward()
    assert scores.grad[MASK].abs().min().item() > 0
    assert scores.grad[1, 1].item() == 0.0


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo"])
def test_the_losses_of_a_batchs_rows_add_up_to_the_loss_of_the_batch(kind):
    torch.manual_seed(0)
    scores, old = -torch.rand(5, 4), -torch.rand(5, 4)
    lengths = [4, 2, 0, 3, 1]
    mask = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    advantages = [1.0, -0.5, 0.0, 2.0, -2.5]
    normaliser = loss_normaliser(kind, lengths, 4)
    whole, _ = grpo_loss(scores, mask, advantages, normaliser, kind=kind, old_logprobs_GR=old)
    parts = [
        grpo_loss(
            scores[cut], mask[cut], advantages[cut], normaliser, kind=kind, old_logprobs_GR=old[cut]
        )[0]
        for cut in (slice(0, 2), slice(2, 5))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-6)


def test_leaving_out_a_dead_group_leaves_loss_and_gradient_as_they_are():
    scores = logprobs([-1.0, -2.0], [-3.0, -1.0])
    mask = torch.ones(2, 2, dtype=torch.bool)
    normaliser = loss_normaliser("dapo", [2, 2], 8)
    whole, _ = grpo_loss(scores, mask, [0.7, 0.0], normaliser)
    (whole_gradient,) = torch.autograd.grad(whole, scores)
    alone, _ = grpo_loss(scores[:1], mask[:1], [0.7], normaliser)
    (alone_gradient,) = torch.autograd.grad(alone, scores)
    assert torch.equal(whole, alone)
    assert torch.equal(whole_gradient, alone_gradient)
