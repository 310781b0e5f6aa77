import math

import pytest
import torch

from hand_made import make_loss, make_span
from mulligan.objectives.base import Scores

MASK = torch.tensor([[True, True], [True, False], [True, True]])


def logprobs(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def test_raft_is_the_mean_negative_log_likelihood_of_what_passes():
    raft = make_loss("raft")
    assert raft.advantages([1.0, 0.0, 0.75]) == (1.0, 0.0, 1.0)
    spans = [make_span(2, 1.0), make_span(1, 0.0), make_span(2, 1.0)]
    scored = logprobs([-1.0, -2.0], [-3.0, 0.0], [-0.5, -0.25])
    loss, sums = raft(Scores(scored, MASK, [1.0, 0.0, 1.0]), raft.normaliser([spans]))
    loss.backward()
    assert loss.item() == pytest.approx((1.0 + 2.0 + 0.5 + 0.25) / 4)
    assert scored.grad.tolist() == [[-0.25, -0.25], [0.0, 0.0], [-0.25, -0.25]]
    assert sums.tokens.item() == 5


def test_raft_learns_from_a_group_in_which_everything_passes_and_not_where_nothing_does():
    raft = make_loss("raft")
    assert raft.teaches([1.0, 1.0])
    assert not raft.teaches([0.0, 0.0])


def test_dpo_is_the_mean_over_the_pairs_that_differ_computed_by_hand():
    dpo = make_loss("dpo", dpo_beta=0.5)
    advantages = dpo.advantages([1.0, 0.0, 1.0])
    assert advantages == pytest.approx((1 / 3, -2 / 3, 1 / 3))
    spans = [make_span(2, advantages[0]), make_span(1, advantages[1]), make_span(2, advantages[2])]
    scored = logprobs([-1.0, -2.0], [-3.0, 9.0], [-0.5, -0.25])
    reference = torch.tensor([[-2.0, -2.0], [-3.5, 5.0], [-0.5, -1.0]], dtype=torch.float64)
    found, _ = dpo(
        Scores(scored, MASK, advantages, reference_logprobs_GR=reference), dpo.normaliser([spans])
    )
    # log pi/ref of the three: 1, 0.5 and 0.75; pairs (0, 1) and (2, 1).
    margins = [0.5 * (1.0 - 0.5), 0.5 * (0.75 - 0.5)]
    expected = sum(-math.log(1 / (1 + math.exp(-margin))) for margin in margins) / 2
    assert found.item() == pytest.approx(expected)
    found.backward()
    slopes = [-0.5 / (1 + math.exp(margin)) / 2 for margin in margins]
    assert scored.grad[0].tolist() == pytest.approx([slopes[0]] * 2)
    assert scored.grad[1].tolist() == pytest.approx([-sum(slopes), 0.0])
    assert scored.grad[2].tolist() == pytest.approx([slopes[1]] * 2)


def test_dpo_of_a_group_without_pairs_is_nothing():
    dpo = make_loss("dpo")
    assert not dpo.teaches([1.0, 1.0])
    scored = logprobs([-1.0, -2.0])
    reference = torch.zeros_like(scored.detach())
    loss, _ = dpo(Scores(scored, MASK[:1], [0.0], reference_logprobs_GR=reference), 1.0)
    loss.backward()
    assert loss.item() == 0.0
    assert not scored.grad.any()


def test_dpo_of_margins_beyond_what_exponentials_hold_stays_finite():
    dpo = make_loss("dpo", dpo_beta=1.0)
    scored = logprobs([-5000.0, 0.0], [0.0, 0.0])
    reference = torch.zeros(2, 2, dtype=torch.float64)
    loss, _ = dpo(Scores(scored, MASK[:2], [0.5, -0.5], reference_logprobs_GR=reference), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(5000.0)
    assert scored.grad[0, 0].item() == pytest.approx(-1.0)


def test_positive_only_leaves_out_what_would_make_tokens_less_likely():
    both, positive = make_loss("grpo"), make_loss("grpo", positive_only=True)
    rewards = [1.0, 0.0, 0.0]
    assert positive.advantages(rewards) == (both.advantages(rewards)[0], 0.0, 0.0)
    assert positive.teaches(rewards)


@pytest.mark.parametrize(
    ("engine", "weight", "capped"),
    [(-1.0, 1.0, 0), (-1.5, math.exp(0.5), 0), (-3.0, 2.0, 1), (-0.5, math.exp(-0.5), 0)],
)
def test_importance_weights_are_the_ratio_to_the_engine_up_to_their_cap(engine, weight, capped):
    mask = torch.ones(1, 1, dtype=torch.bool)
    scored = logprobs([-1.0])
    pulled = make_loss("dapo", kl_beta=0.1)
    scores = Scores(
        scored,
        mask,
        [3.0],
        engine_logprobs_GR=torch.tensor([[engine]], dtype=torch.float64),
        reference_logprobs_GR=torch.tensor([[-1.5]], dtype=torch.float64),
    )
    loss, sums = pulled(scores, 1.0)
    loss.backward()
    kl, slope = math.exp(-0.5) + 0.5 - 1, 1 - math.exp(-0.5)
    assert loss.item() == pytest.approx(-3.0 * weight + 0.1 * kl)
    assert scored.grad.item() == pytest.approx(-3.0 * weight + 0.1 * slope)
    assert sums.capped.item() == capped
