"""Groups that go through the policy together, against groups that go one by one."""

import pytest
from shares import RAGGED, SETTINGS

from hand_made import make_loss
from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.logprobs import shared_prompt
from mulligan.models.policies import FullPolicy
from mulligan.trainer.update import make_updater
from tiny import tiny_recipe
from tiny_models import make_model

TOKENS = [19, 15, 34, 25]
"""Of the groups, prompt included."""


def make(run_format=2, tokens_at_once=16384, loss="dapo"):
    """What updates a tiny model in two optimiser steps on a rollout."""
    settings = [*SETTINGS, f"train.tokens_at_once={tokens_at_once}"]
    recipe = override_recipe(tiny_recipe(), settings, "it")
    recipe = recipe.model_copy(update={"format": run_format})
    return make_updater(FullPolicy(make_model("llama")), make_loss(loss, kl_beta=0.1), recipe)


def updated(updater):
    """Every gradient of both steps, and what the update says."""
    gradients = {}

    def note(*_):
        for name, each in updater.optimizer.policy.named_parameters():
            gradients[len(gradients), name] = each.grad.clone()

    updater.optimizer.optimizer.register_step_pre_hook(note)
    return updater.update(RAGGED), gradients


def groups_per_pass(updater):
    return [len(each.parts) for each in updater.losses(RAGGED)]


def test_the_groups_of_a_step_go_through_the_policy_together(monkeypatch):
    updater, lengths = make(), []
    updater.losses(RAGGED)  # so that the paths are checked
    forward = shared_prompt._stream_hidden

    def counting(model, stream):
        lengths.append(len(stream.token_ids))
        return forward(model, stream)

    monkeypatch.setattr(shared_prompt, "_stream_hidden", counting)
    updater.update(RAGGED)
    assert groups_per_pass(updater) == [4]
    completions = sum(len(group.spans) for group in RAGGED)
    # Policy and reference, in two steps; the last token of a completion is not computed.
    assert lengths == [sum(TOKENS) - completions] * 4


def test_they_have_the_loss_and_the_gradients_of_groups_that_go_one_by_one():
    (together, sums), gradients = updated(make())
    (alone, sums_alone), gradients_alone = updated(make(run_format=1))
    assert together.loss == pytest.approx(alone.loss, abs=1e-6)
    assert sums.tokens == sums_alone.tokens
    assert sums.kl == pytest.approx(sums_alone.kl, rel=1e-5)
    assert gradients.keys() == gradients_alone.keys()
    assert len(gradients) > 0
    for name, gradient in gradients.items():
        assert (gradient - gradients_alone[name]).abs().max().item() < 1e-5


def test_a_run_of_format_1_goes_on_with_one_group_at_a_time():
    assert groups_per_pass(make(run_format=1)) == [1, 1, 1, 1]


def test_passes_stay_within_the_tokens_at_once():
    assert groups_per_pass(make(tokens_at_once=40)) == [2, 1, 1]


def test_whole_groups_go_together_too():
    assert groups_per_pass(make(loss="dpo")) == [4]


def test_several_processes_get_a_pass_each():
    updater = make()
    groups = [shared_prompt.PromptGroup((5, 6), [(7, 8)]) for _ in range(6)]
    cut = [updater.scorer.streams(groups, shares=shares) for shares in (1, 2, 3)]
    assert list(map(len, cut)) == [1, 2, 3]


def test_a_model_that_only_its_own_forward_can_score_is_refused_with_shards(monkeypatch):
    updater = make()
    monkeypatch.setattr("mulligan.trainer.update.has_shards", lambda model: True)
    monkeypatch.setattr(shared_prompt.GroupScorer, "path", lambda *_: "model")
    with pytest.raises(MulliganError, match=r"one completion at a time.*Leave out train\.shard"):
        updater.update(RAGGED)
