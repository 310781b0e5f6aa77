from mulligan.study.examine.curve import rows_of, summarise
from mulligan.types import Answer, Trial, Verdict

RIGHT, WRONG = (Answer("", verdict, 1, "stop") for verdict in (Verdict.right(), Verdict.wrong()))


def trial(step, problem, first, reflected, again):
    answers = [RIGHT if passes else WRONG for passes in (first, reflected, again)]
    return Trial(
        problem,
        0,
        f"step-{step}",
        "",
        answers[0],
        after_reflection=answers[1],
        second_tries={"nothing": answers[2]},
    )


def test_the_curve_ends_against_its_start_and_its_middle_on_the_same_problems():
    solved = {0: "", 10: "ab", 20: "a"}
    trials = [
        trial(step, problem, False, problem in passing, False)
        for step, passing in solved.items()
        for problem in "abcd"
    ]
    found = {(q.name, q.when): q.mean for q in summarise({"run": list(rows_of(trials))})}
    curve = [found["after_reflection", f"step {step}"] for step in (0, 10, 20)]
    assert curve == [0.0, 0.5, 0.25]
    assert found["after_reflection_change", "from the start"] == 0.25
    assert found["reflection_over_nothing_change", "from step 10"] == -0.25
    assert found["first_try_change", "from step 10"] == 0.0
    assert summarise({}) == []
