import pytest

from mulligan.evaluation.forgetting.outcomes import at_chance, by_task, changes, pooled, scores
from mulligan.evaluation.forgetting.records import Outcome

ALL = ("original", "warmed_up", "trained")


def outcomes(task, *counts, chance=0.25):
    """Items of a task: (how many, right at first, after the warm-up, after training)."""
    rows = [flags for count, *flags in counts for _ in range(count)]
    return [
        Outcome(task, str(number), dict(zip(ALL, map(bool, flags), strict=True)), chance)
        for number, flags in enumerate(rows)
    ]


def test_scores_count_each_checkpoint_beside_what_guessing_gets():
    rows = scores(by_task(outcomes("gcd", (3, 1, 1, 0), (1, 0, 1, 0))), ALL)

    assert [(row.checkpoint, row.passed, row.n, row.chance) for row in rows] == [
        ("original", 3, 4, 0.25),
        ("warmed_up", 4, 4, 0.25),
        ("trained", 0, 4, 0.25),
    ]


def test_each_step_is_compared_and_then_the_whole_way_with_holm_over_the_tasks():
    items = [
        *outcomes("a", (50, 1, 1, 1), (10, 1, 1, 0), (40, 0, 0, 0)),
        *outcomes("b", (60, 1, 1, 1), (5, 1, 0, 0), (35, 0, 0, 0)),
    ]

    found = {(row.task, row.first, row.second): row for row in changes(by_task(items), ALL)}

    lost = found["a", "warmed_up", "trained"]
    assert (lost.lost, lost.won) == (10, 0)
    assert lost.difference.value == pytest.approx(-0.1)
    assert lost.p == pytest.approx(2 / 2**10)
    assert lost.p_holm == pytest.approx(2 * lost.p)  # the smaller of two tasks' p-values
    assert found["b", "warmed_up", "trained"].p == 1.0
    assert found["b", "original", "warmed_up"].lost == 5
    assert found["a", "original", "trained"].lost == 10
    assert len(found) == 6


def test_a_task_on_which_the_original_only_guesses_tells_nothing():
    guessing = outcomes("g", (26, 1, 0, 0), (74, 0, 0, 0))
    able = outcomes("t", (90, 1, 1, 1), (10, 0, 0, 0))

    assert at_chance(guessing)
    assert not at_chance(able)
    rows = {row.task: row.informative for row in changes(by_task([*guessing, *able]), ALL)}
    assert rows == {"g": False, "t": True}
    assert {row.n for row in pooled(by_task([*guessing, *able]), ALL, 0.02)} == {100}


def test_items_of_two_tasks_are_drawn_apart_although_both_number_them_from_zero():
    lost = outcomes("a", (60, 1, 1, 1), (40, 1, 1, 0))
    won = outcomes("b", (60, 1, 1, 1), (40, 0, 0, 1))

    [_, step, _] = pooled(by_task([*lost, *won]), ALL, 0.02)

    assert step.difference.value == 0.0
    assert step.difference.low < -0.05 < 0.05 < step.difference.high


@pytest.mark.parametrize(
    ("counts", "conclusion"),
    [
        ([(1500, 1, 1, 1), (499, 0, 0, 0)], "undecided"),  # 1,999 items
        ([(1500, 1, 1, 1), (10, 1, 1, 0), (10, 0, 0, 1), (980, 0, 0, 0)], "equivalent"),
        ([(1500, 1, 1, 1), (200, 1, 1, 0), (800, 0, 0, 0)], "different"),
        ([(1200, 1, 1, 1), (250, 1, 1, 0), (230, 0, 0, 1), (820, 0, 0, 0)], "undecided"),
    ],
)
def test_no_change_is_claimed_only_with_enough_items_and_a_narrow_difference(counts, conclusion):
    [_, step, _] = pooled(by_task(outcomes("t", *counts)), ALL, 0.02)

    assert (step.first, step.second) == ("warmed_up", "trained")
    assert step.conclusion == conclusion


def test_without_a_warm_up_there_is_one_comparison():
    items = [Outcome("t", str(n), {"original": True, "trained": True}, 0.5) for n in range(20)]

    assert [
        (row.first, row.second) for row in changes(by_task(items), ("original", "trained"))
    ] == [("original", "trained")]


def test_nothing_informative_leaves_nothing_to_pool():
    assert list(pooled({}, ALL, 0.02)) == []
