import math

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from mulligan.trainer.optimizer import PolicyOptimizer


def make(steps=10, **changes):
    policy = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        policy.weight.copy_(torch.tensor([[1.0, 2.0]]))
    settings = {"learning_rate": 0.1, "schedule": "constant", "warmup_ratio": 0.0}
    return policy, PolicyOptimizer(policy, steps=steps, dtype="float32", **(settings | changes))


def loss_of(policy, scale=1.0):
    return lambda: (policy.weight * torch.tensor([[3.0, 4.0]])).sum() * scale


def test_an_update_sums_its_losses_and_tells_the_norm_before_clipping():
    policy, optimizer = make()
    update = optimizer.step([loss_of(policy), loss_of(policy)])
    assert update.loss == pytest.approx(22.0)
    assert update.gradient_norm == pytest.approx(10.0)
    assert update.applied
    # The first step of AdamW moves each weight by the learning rate against its sign.
    assert policy.weight.tolist() == [pytest.approx([0.9, 1.9], abs=1e-5)]


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(scale):
    policy, optimizer = make()
    optimizer.step([loss_of(policy)])
    before = policy.weight.detach().clone()
    averages = {k: v.clone() for k, v in optimizer.optimizer.state[policy.weight].items()}
    update = optimizer.step([loss_of(policy), loss_of(policy, scale)])
    assert not update.applied
    assert torch.equal(policy.weight, before)
    after = optimizer.optimizer.state[policy.weight]
    assert all(torch.equal(after[name], averages[name]) for name in averages)
    assert optimizer.step([loss_of(policy)]).applied


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_a_gradient_that_is_not_finite_under_a_finite_loss_leaves_the_weights_too():
    policy, optimizer = make()
    before = policy.weight.detach().clone()
    # The square root is 0 at 0, and its slope there is infinite.
    update = optimizer.step([lambda: (policy.weight - before).abs().sum().sqrt()])
    assert update.loss == 0.0
    assert not update.applied
    assert torch.equal(policy.weight, before)


def test_nothing_to_learn_changes_nothing():
    policy, optimizer = make(weight_decay=0.1)
    before = policy.weight.detach().clone()
    update = optimizer.step([])
    assert (update.loss, update.gradient_norm, update.applied) == (0.0, 0.0, True)
    assert torch.equal(policy.weight, before)


def test_the_learning_rate_rises_and_then_follows_a_cosine_to_zero():
    policy, optimizer = make(steps=10, schedule="cosine", warmup_ratio=0.15)
    rates = [optimizer.step([loss_of(policy)]).learning_rate for _ in range(10)]
    assert rates[:2] == pytest.approx([0.05, 0.1])
    expected = [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates[2:] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.3, 1.0])
def test_the_schedule_of_format_1_is_that_of_transformers_to_the_bit(schedule, ratio):
    policy, optimizer = make(
        steps=10, schedule=schedule, warmup_ratio=ratio, first_step_learns=False
    )
    name = "cosine" if schedule == "cosine" else "constant_with_warmup"
    plain = torch.optim.AdamW(policy.parameters(), lr=0.1)
    expected = get_scheduler(name, plain, math.ceil(ratio * 10), 10)
    for _ in range(10):
        assert optimizer.step([loss_of(policy)]).learning_rate == expected.get_last_lr()[0]
        plain.step()
        expected.step()


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.3, 1.0])
def test_no_step_of_a_warm_up_is_wasted(ratio):
    policy, optimizer = make(steps=10, warmup_ratio=ratio)
    rates = [optimizer.step([loss_of(policy)]).learning_rate for _ in range(10)]
    assert min(rates) > 0
    assert max(rates) == 0.1


def test_the_learning_rate_can_stay_where_it_is():
    policy, optimizer = make()
    assert {optimizer.step([loss_of(policy)]).learning_rate for _ in range(4)} == {0.1}


def test_parameters_that_need_no_gradient_stay_out_of_the_optimiser():
    policy = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    policy[0].requires_grad_(False)
    settings = {"learning_rate": 0.1, "schedule": "constant", "warmup_ratio": 0.0}
    optimizer = PolicyOptimizer(policy, steps=1, dtype="float32", **settings)
    assert sum(len(group["params"]) for group in optimizer.optimizer.param_groups) == 2


def test_the_last_step_ends_with_the_mean_of_the_weights_since_the_first_that_counts():
    policy, optimizer = make(steps=4, average_from=0.5)
    _, plain = reference = make(steps=4)
    seen = []
    for _ in range(4):
        optimizer.step([loss_of(policy)])
        plain.step([loss_of(reference[0])])
        seen.append(reference[0].weight.detach().clone())
    assert torch.allclose(policy.weight, (seen[2] + seen[3]) / 2)


def test_before_the_last_step_the_policy_has_the_weights_of_its_steps():
    policy, optimizer = make(steps=4, average_from=0.0)
    other, plain = make(steps=4)
    for _ in range(3):
        optimizer.step([loss_of(policy)])
        plain.step([loss_of(other)])
    assert torch.equal(policy.weight, other.weight)


@pytest.mark.slow
def test_8_bit_adam_learns_with_averages_of_one_byte():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    policy = nn.Linear(128, 64)  # below 4096 weights, averages stay as they are
    settings = {"learning_rate": 0.01, "schedule": "constant", "warmup_ratio": 0.0}
    optimizer = PolicyOptimizer(policy, steps=30, dtype="float32", kind="adamw_8bit", **settings)
    inputs, targets = torch.randn(32, 128), torch.randn(32, 64)
    losses = [
        optimizer.step([lambda: (policy(inputs) - targets).square().mean()]).loss for _ in range(30)
    ]
    assert losses[-1] < losses[0] / 2
    slots = optimizer.optimizer.state[policy.weight]
    assert slots["state1"].dtype == slots["state2"].dtype == torch.uint8
