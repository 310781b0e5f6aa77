"""Every choice, and every pair of choices, trains; what means nothing is refused."""

from itertools import product

import pytest

from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.objectives.base import Learn, Loss, Reward
from mulligan.objectives.objective import make_objective
from mulligan.objectives.registry import names
from mulligan.types import Verdict
from parity_task import Parity
from tiny import tiny_recipe
from training_bench import Bench

GRID = list(product(names(Reward), names(Learn), names(Loss)))


def overrides(reward, learn, loss, *more):
    beta = 0.05 if loss in ("grpo", "dapo", "dr_grpo") else 0.0
    choices = [f"train.reward={reward}", f"train.learn={learn}", f"train.loss={loss}"]
    return [*choices, f"train.kl_beta={beta}", *more]


def refused(reward, learn, loss):
    try:
        make_objective(override_recipe(tiny_recipe(), overrides(reward, learn, loss), "grid"))
    except MulliganError as error:
        return str(error)
    return ""


MEANINGFUL = [cell for cell in GRID if not refused(*cell)]


def covering(cells):
    """A few cells that hold every pair of choices which occurs in some cell, chosen greedily."""
    pairs = {cell: {(0, *cell[:2]), (1, *cell[1:]), (2, cell[0], cell[2])} for cell in cells}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(cells, key=lambda cell: len(pairs[cell] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


@pytest.fixture(scope="module")
def bench(tiny_llama, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("grid"), tiny_llama)


def sometimes_unreadable(pairs):
    """Parity, in which a fifth of the answers cannot be read, so that ``format`` has a signal."""
    return [
        Verdict.unparseable() if sum(map(ord, text)) % 5 == 0 else Parity().verify(problem, text)
        for problem, text in pairs
    ]


def train_three_steps(bench, cell, *more):
    name = "-".join(map(str, (*cell, *more)))
    small = ["train.steps=3", "train.failures_per_step=2", "train.group_size=3", *more]
    bench.train(name, *overrides(*cell, *small), verify=sometimes_unreadable)
    metrics = bench.metrics(name)
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert not any(line["skipped"] for line in metrics)
    assert any(line["live_groups"] for line in metrics)
    assert all(line["gradient_norm"] > 0 for line in metrics if line["live_groups"])
    assert all(line["logprob_mismatch"] < 1e-5 for line in metrics)
    return metrics


@pytest.mark.parametrize("cell", covering(MEANINGFUL), ids="-".join)
def test_every_pair_of_choices_trains_for_three_steps(bench, cell):
    train_three_steps(bench, cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", MEANINGFUL, ids="-".join)
def test_every_meaningful_combination_trains_for_three_steps(bench, cell):
    train_three_steps(bench, cell)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (("verdict_without_leak", "first_try", "grpo"), "A first try has no reflection"),
        (("verdict", "retry", "dpo"), "no two of them answer the same prompt"),
        (("reference", "retry", "grpo"), "no retry is sampled that could learn"),
        (("reference", "first_try", "grpo"), "A first try has no reflection"),
        (("self_certainty", "both", "grpo"), "no retry is sampled that could learn"),
        (("self_certainty", "reflection", "raft"), "does not say what passes"),
    ],
)
def test_a_combination_without_meaning_is_refused_with_the_reason(cell, reason):
    assert reason in refused(*cell)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("train.positive_only=true", "for the losses that have advantages below 0"),
        ("train.kl_beta=0.1", "has no KL term: set train.kl_beta=0"),
        ("train.importance_weights=true", "no ratio to weigh"),
    ],
)
@pytest.mark.parametrize("loss", ["raft", "dpo"])
def test_a_setting_that_a_loss_would_ignore_is_refused(loss, setting, reason):
    chosen = overrides("verdict", "reflection", loss, setting)
    with pytest.raises(MulliganError, match=reason):
        make_objective(override_recipe(tiny_recipe(), chosen, "grid"))


@pytest.mark.parametrize(
    "setting",
    [
        "train.positive_only=true",
        "train.rollout_epochs=3",
        "train.importance_weights=true",
        "train.kl_form=unbiased",
        "train.dead_groups=skip",
        "train.dead_groups=refill",
        "train.scale_advantages=false",
    ],
)
def test_every_other_setting_trains_for_three_steps(bench, setting):
    train_three_steps(bench, ("verdict", "both", "dapo"), setting)


def test_where_every_completion_is_cut_off_and_masked_nothing_is_learned(bench):
    small = ["train.steps=1", "train.mask_truncated=true"]
    bench.train("masked", *overrides("verdict", "reflection", "grpo", *small))
    [line] = bench.metrics("masked")
    assert line["truncated"] == 1.0
    assert line["live_groups"] > 0
    assert line["gradient_norm"] == 0.0
