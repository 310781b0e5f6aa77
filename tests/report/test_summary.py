from dataclasses import replace

import yaml
from synthetic_run import SETTINGS, make_run, make_trials, write_trials

from mulligan.report.inputs import read_run
from mulligan.report.sheets import points
from mulligan.report.summary import evaluated, summary
from mulligan.report.table import table


def summary_of(run):
    return " ".join(summary(read_run(run)))


def test_the_main_result_comes_with_its_interval(finished_run):
    solved = table(finished_run).difference("after_reflection")
    values = (solved.difference, solved.low, solved.high)
    change, low, high = (f"{100 * value:+.1f}" for value in values)

    assert f"{change} points [{low} to {high}]" in summary_of(finished_run)


def test_what_reflection_adds_stands_first(finished_run):
    change = table(finished_run).difference("reflection_over_nothing")
    said = summary_of(finished_run)

    assert f"a change of {points(change.difference)} points" in said
    assert said.index("reflecting adds") < said.index("Solved after reflection")


def test_an_interval_that_includes_zero_is_undecided_and_no_null_is_concluded(tmp_path):
    run = make_run(tmp_path / "run", problems=20)
    trials = make_trials("before", 20)
    write_trials(run, [replace(trial, when="after") for trial in trials])
    said = summary_of(run)

    assert "primary endpoint: what reflection adds is undecided: interval [0.0, 0.0]" in said
    assert "no difference" not in said
    assert "shows nothing" not in said


def test_no_difference_is_said_with_its_margin_where_a_test_shows_it(tmp_path):
    run = make_run(tmp_path / "run", problems=200)
    trials = make_trials("before", 200)
    write_trials(run, [replace(trial, when="after") for trial in trials])

    assert "first try shows no difference beyond ±3 points (equivalence test)" in summary_of(run)


def test_a_difference_for_the_worse_is_said(tmp_path):
    run = make_run(tmp_path / "run")
    before, after = make_trials("before", 400), make_trials("after", 400)
    write_trials(run, [replace(trial, when="before") for trial in after])
    write_trials(run, [replace(trial, when="after") for trial in before])

    assert "adjusted for their number: after reflection fell" in summary_of(run)


def test_reflections_that_state_the_answer_are_set_apart_with_their_control(finished_run):
    stating, others = (s for s in table(finished_run).leak_splits if s.when == "after")
    said = summary_of(finished_run)

    assert f"({stating.passed_after_reflection} of {stating.n})" in said
    assert f"({others.passed_after_reflection} of {others.n})" in said
    assert "split is made after training" in said


def test_the_intervals_are_said_to_hold_for_one_model(finished_run):
    assert "for this trained model only" in summary_of(finished_run)


def test_several_samples_a_problem_are_explained(tmp_path):
    run = make_run(tmp_path / "run", problems=50, samples=4)

    assert "50 held-out problems, 4 first tries at each" in evaluated(table(run))


def test_another_objective_than_the_methods_is_named(tmp_path):
    run = make_run(tmp_path / "run", problems=20)
    train = {**SETTINGS["train"], "reward": "shuffled", "learn": "retry"}
    (run / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "train": train}))
    said = summary_of(run)

    assert "(reward: shuffled, learn: retry) on its own failures" in said
    assert "better reflections" not in said
