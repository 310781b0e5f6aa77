import math
from importlib.metadata import EntryPoint

import pytest

from hand_made import Prescribed, completion, make_group, make_loss
from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.objectives import registry
from mulligan.objectives.base import Evidence, Learn, Loss, Reward
from mulligan.objectives.learns.reflection import Reflection
from mulligan.objectives.objective import Objective, make_objective
from mulligan.objectives.registry import find, names
from mulligan.verifiers.pool import InProcessVerifier
from parity_task import Parity
from tiny import tiny_recipe

EVIDENCE = Evidence(0, InProcessVerifier(Parity()), None, None, None)


def method(**settings):
    return make_objective(
        override_recipe(tiny_recipe(), [f"train.{k}={v}" for k, v in settings.items()], "tiny")
    )


def test_a_passing_retry_rewards_its_reflection_with_one_and_a_failing_one_with_nothing():
    [scored] = method().score([make_group([True, False, False])], EVIDENCE)
    assert scored.rewards_G == (1.0, 0.0, 0.0)
    assert scored.teaches
    # mean 1/3, sample standard deviation sqrt(1/3)
    assert scored.advantages_G == pytest.approx((1.1547, -0.57735, -0.57735), rel=1e-3)


def test_advantages_can_stay_unscaled():
    unscaled = method(scale_advantages=False)
    [scored] = unscaled.score([make_group([True, False, False])], EVIDENCE)
    assert scored.advantages_G == pytest.approx((2 / 3, -1 / 3, -1 / 3))


def test_equal_rewards_teach_nothing():
    [scored] = method().score([make_group([True, True])], EVIDENCE)
    assert not scored.teaches
    assert scored.advantages_G == (0.0, 0.0)


def test_the_method_learns_from_the_tokens_of_the_reflection_alone():
    thoughts = [completion(5, 6, logprobs=(-1.0, -2.0)), completion(8)]
    group = make_group([True, False], reflections=thoughts)
    [scored] = method().score([group], EVIDENCE)
    assert [span.prompt_ids for span in scored.spans] == [group.prompt_ids] * 2
    assert [span.token_ids for span in scored.spans] == [(5, 6), (8,)]
    assert [span.learns for span in scored.spans] == [(True, True), (True,)]
    assert [span.logprobs for span in scored.spans] == [(-1.0, -2.0), None]
    assert [span.advantage for span in scored.spans] == list(scored.advantages_G)


def test_an_episode_without_a_reward_is_left_out_and_so_is_a_group_without_any():
    objective = Objective(
        Prescribed([[1.0, None, 0.0], [None]]), Reflection(), make_loss("grpo"), False
    )
    scored = objective.score([make_group([True] * 3), make_group([True])], EVIDENCE)
    [only] = scored
    assert [episode.sample for episode in only.group.episodes] == [0, 2]
    assert len(only.group.retry_prompts_G) == 2
    assert only.rewards_G == (1.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
def test_a_reward_out_of_its_range_is_an_error_that_names_the_episode(value):
    objective = Objective(Prescribed([[1.0, value]]), Reflection(), make_loss("grpo"), False)
    with pytest.raises(MulliganError, match=r"episode 1 of failure f is .*from 0 to 1"):
        objective.score([make_group([True, False])], EVIDENCE)


@pytest.mark.parametrize(
    ("choice", "kind"), [("reward", "reward"), ("learn", "learn"), ("loss", "loss")]
)
def test_an_unknown_choice_is_refused_with_the_nearest_name(choice, kind):
    with pytest.raises(MulliganError, match=f"There is no {kind} 'verdikt'"):
        method(**{choice: "verdikt"})


@pytest.mark.parametrize("base", [Reward, Learn, Loss])
def test_every_name_finds_its_class(base):
    assert names(base)
    for name in names(base):
        assert issubclass(find(base, name), base)


@pytest.fixture
def installed(monkeypatch):
    """A package that brings a reward, one that cannot be imported, and one that is none."""
    points = {
        "prescribed": "hand_made:Prescribed",
        "lost": "nowhere:Reward",
        "wrong": "hand_made:make_group",
    }
    found = [EntryPoint(name, value, "mulligan.rewards") for name, value in points.items()]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: found if group == "mulligan.rewards" else []
    )


def test_a_package_can_bring_a_reward(installed):
    assert find(Reward, "prescribed") is Prescribed
    assert "prescribed" in names(Reward)
    listed = {entry.name: entry for entry in registry.list_objectives()}
    assert listed["prescribed"].options == ("rewards",)
    assert "cannot be imported" in listed["lost"].summary


@pytest.mark.parametrize(
    ("name", "says"),
    [("lost", "installed but cannot be imported"), ("wrong", "should be a class derived from")],
)
def test_a_package_that_brings_no_reward_is_named(installed, name, says):
    with pytest.raises(MulliganError, match=says):
        find(Reward, name)
