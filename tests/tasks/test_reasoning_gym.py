import os
import subprocess
import sys

import pytest
from reasoning_gym.factory import DATASETS

from mulligan.errors import MulliganError
from mulligan.tasks.reasoning_gym import HASH_DEPENDENT, UNFIT, ReasoningGym, parse_spec
from mulligan.tasks.registry import load_task
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.validate import validate_task

SMALL = "train_size=12,test_size=6"

NO_REFERENCE = {
    "boxnet": "a plan is scored by carrying it out; no plan is given",
    "propositional_logic": "its own examples do not all get its full score",
    "rush_hour": "moves are scored by making them; no solution is given",
}
"""Data sets that serve as tasks, but whose reference answers cannot be checked, and why."""

STANDALONE = sorted(DATASETS.keys() - UNFIT.keys() - set(HASH_DEPENDENT))


def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)  # as where it is missing
    with pytest.raises(MulliganError, match=r"pip install reasoning-gym\."):
        load_task("reasoning_gym:gcd")


def check_dataset(name: str) -> None:
    """Validate one data set as a task; its reference answers pass, where it has any."""
    checks = validate_task(
        load_task(f"reasoning_gym:{name},{SMALL}"), 6, 1, limits=Limits(deadline_s=60)
    )
    assert [check for check in checks if check.result == "failed"] == []
    expected = "skipped" if name in NO_REFERENCE else "ok"
    results = {check.name: check.result for check in checks}
    assert results["reference answers pass"] == expected


def test_a_data_set_is_a_valid_task():
    check_dataset("graph_color")


@pytest.mark.slow
@pytest.mark.timeout(900)  # intermediate_integration's scorer takes seconds for some answers
@pytest.mark.parametrize("name", STANDALONE)
def test_every_data_set_that_can_serve_is_a_valid_task(name):
    check_dataset(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", HASH_DEPENDENT)
def test_data_sets_that_depend_on_the_hash_seed_are_valid_once_it_is_fixed(name):
    code = (
        "import sys; from mulligan.tasks.registry import load_task; "
        "from mulligan.verifiers.validate import passed, validate_task; "
        f"checks = validate_task(load_task('reasoning_gym:{name},{SMALL}'), 6, 1); "
        "print(*checks, sep='\\n'); "
        "sys.exit(not passed(checks) or checks[5].result != 'ok')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", UNFIT)
def test_a_data_set_that_cannot_serve_is_refused_with_the_reason(name):
    with pytest.raises(MulliganError, match=f"{name} cannot serve as a task: {UNFIT[name]}"):
        load_task(f"reasoning_gym:{name}")


@pytest.mark.parametrize("name", HASH_DEPENDENT)
def test_a_data_set_that_depends_on_the_hash_seed_says_so(name, monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(MulliganError, match="Set the environment variable PYTHONHASHSEED=0"):
        load_task(f"reasoning_gym:{name}")


def test_every_name_in_the_tables_is_a_data_set():
    assert DATASETS.keys() >= {*UNFIT, *HASH_DEPENDENT, *NO_REFERENCE}


def test_a_score_of_one_passes_and_less_does_not():
    task = ReasoningGym("chain_sum", test_size=5)
    problem = next(task.problems("test"))
    right = problem.reference.removeprefix("<answer>").removesuffix("</answer>")
    assert task.verify(problem, f"Let me see.\n<answer> {right} </answer>").passed
    assert task.verify(problem, f"<answer>1</answer> no: <answer>{right}</answer>").passed
    partly = task.verify(problem, f"<answer>about {right}</answer>")
    assert partly.status == "failed"
    assert 0 < float(partly.detail.removeprefix("score ")) < 1
    assert task.verify(problem, right).status == "unparseable"


def test_answers_are_the_same_when_their_tags_hold_the_same():
    task = ReasoningGym("chain_sum", test_size=5)
    problem = next(task.problems("test"))
    assert task.same_answer(
        problem, "<answer>1 2</answer>", "no <answer>3</answer><answer>1  2</answer>"
    )
    assert not task.same_answer(problem, "<answer>1</answer>", "<answer>2</answer>")
    assert not task.same_answer(problem, "1", "1")


def test_a_reflection_leaks_by_a_line_or_by_tags():
    task = ReasoningGym("chain_sum", test_size=5)
    problem = next(task.problems("test"))
    right = problem.reference.removeprefix("<answer>").removesuffix("</answer>")
    assert task.leaks(problem, f"I added wrongly.\n{right}\n")
    assert task.leaks(problem, f"It is {problem.reference}!")
    assert not task.leaks(problem, "I should add the tens first.")


def test_the_data_sets_own_settings_are_taken_from_the_name():
    task = load_task("reasoning_gym:chain_sum,min_terms=5,max_terms=5,seed=3,test_size=4")
    problems = list(task.problems("test"))
    assert len(problems) == 4
    for problem in problems:
        sum_ = problem.messages[0]["content"].split(":")[1].split("=")[0]
        assert sum_.count("+") + sum_.count(" - ") == 4


def test_the_splits_share_no_problem_even_where_there_are_few():
    task = load_task("reasoning_gym:coin_flip,min_trials=3,max_trials=3,train_size=60,test_size=9")
    train, test = ({p.id for p in task.problems(split)} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_another_seed_gives_other_problems_and_the_same_seed_the_same():
    one, again, other = (
        [p.id for p in ReasoningGym("chain_sum", seed=seed, test_size=20).problems("test")]
        for seed in (1, 1, 2)
    )
    assert one == again
    assert not set(one) & set(other)


def test_unknown_settings_are_refused_with_the_nearest():
    with pytest.raises(MulliganError, match=r"no option 'min_term' .did you mean 'min_terms'"):
        load_task("reasoning_gym:chain_sum", {"min_term": 2})
    with pytest.raises(MulliganError, match="'min_terms' should be of the form key=value"):
        load_task("reasoning_gym:chain_sum,min_terms")
    with pytest.raises(MulliganError, match="cannot be made with"):
        load_task("reasoning_gym:chain_sum,min_terms=-1")


def test_values_in_the_name_are_json_where_they_can_be():
    assert parse_spec("maze,min_dist=3,hard=true,style=plain") == (
        "maze",
        {"min_dist": 3, "hard": True, "style": "plain"},
    )
