import os

import pytest

from hand_made import completion, make_failure, make_group
from mulligan.config import Verify, override_recipe
from mulligan.errors import MulliganError
from mulligan.objectives.objective import make_objective
from mulligan.objectives.own_reward import OwnReward
from mulligan.types import Problem, Verdict
from tiny import tiny_recipe

FUNCTIONS = """
import math, os, sys

def brevity(episode):
    assert episode.problem.given == {"secret": [1, 2]}
    assert episode.attempt == "no"
    return 1 / (1 + len(episode.reflection.split())) if episode.verdict.passed else 0

def points(episode):
    return {"six": 6, "nan": math.nan, "leave": None}[episode.retry]

points.range = (0, 10)

def reads_the_process(episode):
    return float(os.getpid() == int(episode.retry))

def breaks(episode):
    raise RuntimeError("broke")

def leaves(episode):
    sys.exit(3)

def hangs(episode):
    while True:
        pass

backwards = lambda episode: 0
backwards.range = (1, 0)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def own(file):
    made = []

    def make(name, **settings):
        made.append(OwnReward(f"{file}:{name}", Verify(workers=1, **settings)))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


def group(*retries, verdicts=None):
    said = [completion(1, text=text) for text in retries]
    thoughts = [completion(2, text="a b c"), completion(2, text="a")] * len(said)
    failure = make_failure(Problem.create("question", {"secret": [1, 2]}))
    return make_group(
        verdicts or [True] * len(said), failure, reflections=thoughts[: len(said)], retries=said
    )


def test_it_sees_the_whole_episode(own):
    episodes = group("yes", "yes", "no", verdicts=[True, True, Verdict.unparseable()])
    assert own("brevity").score([episodes], None) == [[0.25, 0.5, 0.0]]


def test_it_states_a_range_of_its_own_and_is_from_0_to_1_otherwise(own):
    assert own("brevity").range == (0.0, 1.0)
    points = own("points")
    assert points.range == (0.0, 10.0)
    assert points.score([group("six")], None) == [[6.0]]


def test_it_runs_in_another_process(own):
    assert own("reads_the_process").score([group(str(os.getpid()))], None) == [[0.0]]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("breaks", "RuntimeError: broke"),
        ("leaves", "left by SystemExit"),
        ("hangs", "took longer than 0.5 s"),
    ],
)
def test_a_function_that_breaks_is_an_error_that_names_the_episode(own, name, says):
    broken = own(name, deadline_seconds=0.5)
    with pytest.raises(MulliganError, match=f"(?s)broke on episode 0 of failure f: .*{says}"):
        broken.score([group("yes")], None)


def recipe(spec, *more):
    return override_recipe(tiny_recipe(), [f"train.reward={spec}", *more], "own")


def test_what_is_not_a_number_in_its_range_is_an_error_that_names_the_episode(file):
    objective = make_objective(recipe(f"{file}:points"))
    try:
        with pytest.raises(MulliganError, match=r"episode 1 of failure f is nan.*from 0 to 10"):
            objective.score([group("six", "nan")], None)
        with pytest.raises(MulliganError, match=r"episode 0 of failure f: .*should be a number"):
            objective.score([group("leave")], None)
    finally:
        objective.reward.close()


@pytest.mark.parametrize(
    ("spec", "more", "says"),
    [
        ("my_reward.py:brevty", [], "has no function 'brevty'; did you mean 'brevity'"),
        ("nowhere.py:brevity", [], "There is no file"),
        ("my_reward.py:backwards", [], "should be two numbers, the smaller first"),
        ("my_reward.py:brevity", ["train.reward_options.a=1"], "takes no train.reward_options"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_anything_is_done(
    file, monkeypatch, spec, more, says
):
    monkeypatch.chdir(file.parent)
    with pytest.raises(MulliganError, match=says):
        make_objective(recipe(spec, *more))
