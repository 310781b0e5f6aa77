from dataclasses import replace

from synthetic_run import make_run, make_trials, write_trials

from mulligan.report.inputs import read_run
from mulligan.report.summary import evaluated, summary
from mulligan.report.table import table


def summary_of(run):
    return " ".join(summary(read_run(run)))


def test_the_main_result_comes_with_its_interval(finished_run):
    solved = table(finished_run).difference("after_reflection")
    values = (solved.difference, solved.low, solved.high)
    change, low, high = (f"{100 * value:+.1f}" for value in values)

    assert f"{change} points [{low} to {high}]" in summary_of(finished_run)


def test_an_interval_that_includes_zero_is_said_to_show_nothing(tmp_path):
    run = make_run(tmp_path / "run", problems=20)
    trials = make_trials("before", 20)
    write_trials(run, [replace(trial, when="after") for trial in trials])

    assert "zero lies inside that of: solved after reflection" in summary_of(run)


def test_a_difference_for_the_worse_is_said(tmp_path):
    run = make_run(tmp_path / "run")
    before, after = make_trials("before", 400), make_trials("after", 400)
    write_trials(run, [replace(trial, when="before") for trial in after])
    write_trials(run, [replace(trial, when="after") for trial in before])

    assert "It got worse: solved after reflection" in summary_of(run)


def test_several_samples_a_problem_are_explained(tmp_path):
    run = make_run(tmp_path / "run", problems=50, samples=4)

    assert "50 held-out problems, 4 first tries at each" in evaluated(table(run))
