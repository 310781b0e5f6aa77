import math

import pytest
import torch

from hand_made import make_loss, make_span
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.base import Scores

SPANS = [make_span(2), make_span(1)]
MASK = torch.tensor([[True, True], [True, False]])
KINDS = ["grpo", "dapo", "dr_grpo"]


def logprobs(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def one(value):
    return torch.tensor([[value]], dtype=torch.float64)


ONE = torch.ones(1, 1, dtype=torch.bool)


def test_on_policy_loss_is_the_one_computed_by_hand():
    scored = logprobs([-1.0, -2.0], [-3.0, 0.0])
    dapo = make_loss("dapo")
    loss, _ = dapo(Scores(scored, MASK, [0.5, -2.0]), dapo.normaliser([SPANS]))
    loss.backward()
    # The ratio is 1: -(0.5 + 0.5 - 2) / 3, and the gradient is -A / 3 on every token.
    assert loss.item() == pytest.approx(1 / 3)
    assert scored.grad.flatten().tolist() == pytest.approx([-1 / 6, -1 / 6, 2 / 3, 0.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dapo", -(0.5 + 0.5 - 2) / 3), ("grpo", -(0.5 - 2) / 2), ("dr_grpo", -(0.5 + 0.5 - 2) / 16)],
)
def test_each_kind_of_loss_weighs_tokens_as_it_says(kind, expected):
    found = make_loss(kind, longest=8)
    scores = Scores(logprobs([-1.0, -2.0], [-3.0, 0.0]), MASK, [0.5, -2.0])
    loss, _ = found(scores, found.normaliser([SPANS]))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "normaliser"), [("dapo", 3.0), ("grpo", 2.0), ("dr_grpo", 16.0)])
def test_tokens_that_do_not_learn_are_not_counted_and_completions_are(kind, normaliser):
    spans = [make_span(5, learns=(False, True, True, False, False)), make_span(1)]
    assert make_loss(kind, longest=8).normaliser([spans]) == normaliser


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
    scored = logprobs([-1.0])
    old = one(-1.0 - math.log(ratio))
    loss, sums = make_loss()(Scores(scored, ONE, [advantage], old_logprobs_GR=old), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-objective)
    assert (scored.grad.item() != 0) == flows
    assert sums.clipped.item() == (not flows)


def test_the_bounds_of_clipping_are_the_recipes():
    higher = make_loss(epsilon_low=0.6, epsilon_high=0.4)
    for ratio, advantage, objective in ((1.5, 1.0, 1.4), (0.5, -1.0, -0.5), (0.3, -1.0, -0.4)):
        old = one(-1.0 - math.log(ratio))
        loss, _ = higher(Scores(logprobs([-1.0]), ONE, [advantage], old_logprobs_GR=old), 1.0)
        assert loss.item() == pytest.approx(-objective)


KL = math.exp(-0.5) + 0.5 - 1
KL_SLOPE = 1 - math.exp(-0.5)


@pytest.mark.parametrize(("form", "slope"), [("k3", KL_SLOPE), ("unbiased", KL_SLOPE + KL)])
def test_the_kl_term_is_the_one_computed_by_hand(form, slope):
    scored = logprobs([-1.0])
    pulled = make_loss(kl_beta=0.1, kl_form=form)
    scores = Scores(scored, ONE, [0.0], reference_logprobs_GR=one(-1.5))
    loss, sums = pulled(scores, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * KL)
    assert sums.kl.item() == pytest.approx(KL)
    assert scored.grad.item() == pytest.approx(0.1 * slope)


def test_a_kl_coefficient_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        make_loss(kl_beta=0.1)(Scores(logprobs([-1.0, 0.0]), MASK[:1], [1.0]), 2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_give_a_gradient_of_exactly_zero(kind):
    scored = logprobs([-1.0, -2.0], [-3.0, 0.0])
    loss, _ = make_loss(kind)(Scores(scored, MASK, group_advantages([0.1, 0.1])), 3.0)
    loss.backward()
    assert loss.item() == 0.0
    assert scored.grad.abs().max().item() == 0.0


def test_a_dead_group_still_pulls_towards_the_reference_when_the_kl_is_on():
    scored = logprobs([-1.0, -2.0], [-3.0, 0.0])
    scores = Scores(scored, MASK, [0.0, 0.0], reference_logprobs_GR=scored.detach() - 1)
    loss, _ = make_loss(kl_beta=0.1)(scores, 3.0)
    loss.backward()
    assert scored.grad[MASK].abs().min().item() > 0
    assert scored.grad[1, 1].item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_a_batchs_rows_add_up_to_the_loss_of_the_batch(kind):
    torch.manual_seed(0)
    scored, old = -torch.rand(5, 4), -torch.rand(5, 4)
    lengths = [4, 2, 0, 3, 1]
    mask = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    advantages = [1.0, -0.5, 0.0, 2.0, -2.5]
    found = make_loss(kind, longest=4)
    normaliser = found.normaliser([[make_span(length) for length in lengths]])

    def loss_of(cut):
        scores = Scores(scored[cut], mask[cut], advantages[cut], old_logprobs_GR=old[cut])
        return found(scores, normaliser)[0]

    parts = [loss_of(cut) for cut in (slice(0, 2), slice(2, 5))]
    assert sum(parts).item() == pytest.approx(loss_of(slice(None)).item(), abs=1e-6)


def test_leaving_out_a_dead_group_leaves_loss_and_gradient_as_they_are():
    scored = logprobs([-1.0, -2.0], [-3.0, -1.0])
    mask = torch.ones(2, 2, dtype=torch.bool)
    dapo = make_loss("dapo")
    normaliser = dapo.normaliser([[make_span(2)], [make_span(2)]])
    whole, _ = dapo(Scores(scored, mask, [0.7, 0.0]), normaliser)
    (whole_gradient,) = torch.autograd.grad(whole, scored)
    alone, _ = dapo(Scores(scored[:1], mask[:1], [0.7]), normaliser)
    (alone_gradient,) = torch.autograd.grad(alone, scored)
    assert torch.equal(whole, alone)
    assert torch.equal(whole_gradient, alone_gradient)
