import json
from dataclasses import asdict, replace
from io import StringIO

import pytest
from rich.console import Console
from synthetic_run import make_trials, write_lines, write_trials

from mulligan.errors import MulliganError
from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.results import compute
from mulligan.evaluation.scores import SCORE_TITLES, SCORES
from mulligan.evaluation.statistics import wilson
from mulligan.report.sheets import points
from mulligan.report.table import print_table, table, table_as_json
from mulligan.types import Answer, Trial, Verdict

RIGHT = Answer("2 + 2", Verdict.right(), 5, "stop")
WRONG = Answer("2 + 3", Verdict.wrong("missed_target"), 5, "stop")
UNREADABLE = Answer("dunno", Verdict.unparseable(), 5, "stop")
BROKEN = Answer("2 + 2", Verdict.error("timeout"), 5, "stop")


def solved(problem, when="before"):
    return Trial(problem, 0, when, "make 4", RIGHT)


def failed(problem, when="before", *, first=WRONG, reflected=WRONG, nothing=WRONG, other=WRONG):
    given = {"nothing": nothing, "other_reflection": other}
    return Trial(
        problem,
        0,
        when,
        "make 4",
        first,
        reflection="hm",
        reflection_tokens=10,
        leaked=False,
        after_reflection=reflected,
        second_tries={name: said for name, said in given.items() if said},
    )


def cells(made):
    return {(cell.column, cell.when): (cell.passed, cell.n) for cell in made.cells}


@pytest.fixture
def small(tmp_path):
    """Four problems; reflection mends one before training and two after."""
    before = [solved("a"), failed("b", reflected=RIGHT), failed("c", nothing=RIGHT), failed("d")]
    after = [
        solved("a", "after"),
        failed("b", "after", reflected=RIGHT),
        failed("c", "after", reflected=RIGHT),
        failed("d", "after", first=UNREADABLE),
    ]
    write_trials(tmp_path, before)
    write_trials(tmp_path, after)
    return tmp_path


def test_a_second_try_counts_as_passed_where_the_first_try_did(small):
    assert cells(table(small)) == {
        ("first_try", "before"): (1, 4),
        ("after_reflection", "before"): (2, 4),
        ("after_nothing", "before"): (2, 4),
        ("after_other_reflection", "before"): (1, 4),
        ("first_try", "after"): (1, 4),
        ("after_reflection", "after"): (3, 4),
        ("after_nothing", "after"): (1, 4),
        ("after_other_reflection", "after"): (1, 4),
    }


def test_every_cell_has_its_wilson_interval(small):
    cell = table(small).cell("after_reflection", "after")

    assert (cell.low, cell.high) == (wilson(3, 4).low, wilson(3, 4).high)


def test_differences_are_after_minus_before_and_the_gain_is_theirs(small):
    made = table(small)

    assert {d.name: d.difference for d in made.differences} == {
        "first_try": 0.0,
        "after_reflection": 0.25,
        "after_nothing": -0.25,
        "after_other_reflection": 0.0,
        "reflection_over_nothing": 0.5,
        "reflection_over_other_reflection": 0.25,
        "gain_with_second_chance": 0.25,
    }
    assert made.difference("first_try").low == made.difference("first_try").high == 0.0
    assert made.difference("after_reflection").low == 0.0


def test_reflection_is_set_against_each_control(small):
    differences = {(c.when, c.control): c.difference for c in table(small).controls}

    assert differences == {
        ("before", "after_nothing"): 0.0,
        ("before", "after_other_reflection"): 0.25,
        ("after", "after_nothing"): 0.5,
        ("after", "after_other_reflection"): 0.5,
    }


def test_pairs_are_matched_by_problem_and_not_by_place(small):
    lines = (small / "evaluation" / "after.jsonl").read_text().splitlines(keepends=True)
    straight = table(small)
    (small / "evaluation" / "after.jsonl").write_text("".join(reversed(lines)))

    assert table(small).differences == straight.differences


def test_answers_that_the_verifier_could_not_judge_leave_n_and_are_counted_apart(tmp_path):
    rows = [solved("a"), failed("b", first=BROKEN), failed("c", reflected=BROKEN), failed("d")]
    write_trials(tmp_path, rows)
    made = table(tmp_path)

    assert cells(made)["first_try", "before"] == (1, 3)
    assert cells(made)["after_reflection", "before"] == (1, 2)
    assert cells(made)["after_nothing", "before"] == (1, 3)
    assert table_as_json(made)["unjudged"] == [
        {"column": "first_try", "when": "before", "count": 1},
        {"column": "after_reflection", "when": "before", "count": 1},
    ]


def test_format_failures_stand_apart_from_wrong_answers(small):
    made = table(small)

    assert made.count("first_try", "after", "unparseable") == 1
    assert made.count("first_try", "after", "failed") == 2


def test_the_leak_rate_is_a_share_of_the_reflections(tmp_path):
    rows = [solved("a"), failed("b"), replace(failed("c"), leaked=True)]
    write_trials(tmp_path, rows)

    leak = table_as_json(table(tmp_path))["leak_rate"]["before"]

    assert (leak["leaked"], leak["n"]) == (1, 2)
    assert (leak["low"], leak["high"]) == (wilson(1, 2).low, wilson(1, 2).high)


def test_lengths_are_means_over_the_texts_that_exist(small):
    lengths = {(row.when, row.text): (row.mean_tokens, row.n) for row in table(small).lengths}

    assert lengths["before", "reflection"] == (10, 3)
    assert lengths["before", "first_try"] == (5, 4)
    assert lengths["after", "after_nothing"] == (5, 3)


def test_controls_that_were_switched_off_have_no_cells(tmp_path):
    write_trials(tmp_path, [solved("a"), failed("b", nothing=None, other=None)])
    made = table(tmp_path)

    assert [cell.column for cell in made.cells] == ["first_try", "after_reflection"]
    assert made.controls == ()


def test_before_training_there_are_cells_and_no_differences(tmp_path):
    write_trials(tmp_path, [solved("a"), failed("b")])
    printed = table_as_json(table(tmp_path))

    assert {cell["when"] for cell in printed["cells"]} == {"before"}
    assert printed["differences"] == []


def test_several_samples_of_a_problem_widen_the_difference_not_the_count(tmp_path):
    for when in ("before", "after"):
        rows = make_trials(when, 100)
        write_trials(tmp_path / "one", rows)
        copies = [replace(row, sample=sample) for row in rows for sample in range(4)]
        write_trials(tmp_path / "four", copies)
    one, four = table(tmp_path / "one"), table(tmp_path / "four")

    assert four.size("before").problems == one.size("before").problems
    assert four.size("before").rows == 4 * one.size("before").rows
    assert [(d.name, d.difference, d.low, d.high) for d in four.differences] == [
        (d.name, d.difference, d.low, d.high) for d in one.differences
    ]


def test_the_json_has_the_promised_shape_and_survives_a_round_trip(small):
    printed = json.loads(json.dumps(table_as_json(table(small)), allow_nan=False))

    assert list(printed)[:2] == ["cells", "differences"]
    assert "parts" not in printed  # it is of one task
    assert set(printed["cells"][0]) == {"column", "when", "passed", "n", "low", "high"}
    for row in printed["differences"]:
        assert {"name", "difference", "low", "high"} <= row.keys()
        assert row["column"] == row["name"]  # what version 0.1.0 called it
    assert "reflection_over_nothing" in {row["name"] for row in printed["differences"]}


def test_the_terminal_shows_every_rate_within_100_columns(small):
    console = Console(width=100, record=True, file=StringIO())
    print_table(table(small), console)
    lines = console.export_text().splitlines()

    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if "After reflection" in line)
    assert " ".join(row.split()) == (
        "After reflection 50.0% [15.0 to 85.0] 75.0% [30.1 to 95.4] +25.0 [0.0 to +75.0]"
    )


def test_every_control_and_endpoint_fits_104_columns(tmp_path):
    for when, solved_below in (("before", 20), ("after", 60)):
        rows = [
            replace(
                failed(str(n), when, reflected=RIGHT if n % 100 < solved_below else WRONG),
                greedy=WRONG,
                second_tries={each.name: RIGHT if n % 100 < 40 else WRONG for each in CONTROLS},
            )
            for n in range(1000)
        ]
        write_trials(tmp_path, rows)
    secondary = [name for name in SCORES if name != "first_try"]
    endpoints = {"primary": "first_try", "secondary": secondary}
    (tmp_path / "config.yaml").write_text(json.dumps({"evaluate": {"endpoints": endpoints}}))
    console = Console(width=140, record=True, file=StringIO())
    print_table(table(tmp_path), console)
    shown = console.export_text()

    assert max(len(line.rstrip()) for line in shown.splitlines() if "[" in line) <= 104
    for name in (*(control.title for control in CONTROLS), *SCORE_TITLES.values()):
        assert name in shown
    assert "none beyond ±3 points" in shown


def test_each_part_of_a_mix_is_shown_apart(tmp_path):
    tasks = {"a": "orders[1]", "b": "queries"}
    rows = [replace(each, task=tasks[each.problem_id]) for each in (solved("a"), failed("b"))]
    made = compute({"before": rows})
    console = Console(width=104, record=True, file=StringIO())
    print_table(made, console)
    shown = console.export_text()
    one = shown.partition("Solved of orders[1]")[2].partition("Solved of queries")[0]
    assert "100.0% [20.7 to 100.0]" in one
    assert [*table_as_json(made)["parts"]] == ["orders[1]", "queries"]


def test_another_model_has_a_table_of_its_own(small):
    write_lines(
        small / "evaluation" / "bigger[1].jsonl",
        [solved("a", "bigger[1]"), failed("b", "bigger[1]")],
    )
    console = Console(width=100, record=True, file=StringIO())
    print_table(table(small), console)
    shown = console.export_text().partition("Other models")[2].partition("Beside the table")[0]

    assert "bigger[1]" in shown
    assert "50.0% [9.5 to 90.5]" in shown
    assert "What reflection adds" in shown


def test_a_torn_last_line_is_left_out(small):
    path = small / "evaluation" / "after.jsonl"
    path.write_bytes(path.read_bytes()[:-30])

    assert cells(table(small))["first_try", "after"] == (1, 3)


def test_a_line_that_is_no_trial_is_named(tmp_path):
    row = asdict(solved("a"))
    write_lines(tmp_path / "evaluation" / "before.jsonl", [row, {**row, "first_try": 3}])

    with pytest.raises(MulliganError, match=r"before\.jsonl.*line 2"):
        table(tmp_path)


def test_a_folder_without_evaluation_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(MulliganError, match="mulligan evaluate"):
        table(tmp_path)


@pytest.mark.parametrize(
    ("difference", "text"),
    [(0.045, "+4.5"), (-0.01, "−1.0"), (0.0, "0.0"), (-0.0004, "0.0"), (1.0, "+100.0")],
)
def test_points_have_a_sign_unless_they_round_to_zero(difference, text):
    assert points(difference) == text
