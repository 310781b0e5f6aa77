import json
from dataclasses import replace

import pytest

from mulligan.config import Endpoints
from mulligan.errors import MulliganError
from mulligan.evaluation.results import compute
from mulligan.evaluation.rows import Rows, read_rows, write_rows
from mulligan.evaluation.trials import Plan
from mulligan.types import Answer, Trial, Verdict

RIGHT = Answer("2 + 2", Verdict.right(), 5, "stop", logprob=-0.25)
WRONG = Answer("2 + 3", Verdict.wrong("missed_target"), 6, "stop", logprob=-1.5)
PLAN = Plan(Endpoints(primary="after_reflection", secondary=("first_try", "greedy")), 0.05)


def trials(when, passing):
    solved = Trial("a", 0, when, "make 4", RIGHT, greedy=WRONG)
    failed = [
        Trial(
            problem,
            0,
            when,
            "make 4",
            WRONG,
            greedy=RIGHT,
            reflection="I added wrongly.",
            reflection_tokens=12,
            reflection_logprob=-0.75,
            leaked=problem in passing,
            after_reflection=RIGHT if problem in passing else WRONG,
            second_tries={"nothing": WRONG, "filler": RIGHT},
        )
        for problem in "bcd"
    ]
    return (solved, *failed)


@pytest.fixture
def rows():
    return Rows("demo", {"before": trials("before", "b"), "after": trials("after", "bc")}, PLAN)


def test_the_table_of_the_rows_is_the_table_of_the_run(rows, tmp_path):
    write_rows(rows, tmp_path / "rows.json")
    again = read_rows(tmp_path / "rows.json")
    assert compute(again.trials, again.plan) == compute(rows.trials, rows.plan)
    assert again.run == "demo"
    assert again.plan == PLAN


def test_rows_hold_no_text_and_are_small(rows, tmp_path):
    path = tmp_path / "rows.json"
    write_rows(rows, path)
    text = path.read_text()
    assert "2 + 2" not in text
    assert "I added" not in text
    assert len(text.splitlines()[-3]) < 120
    assert len(json.loads(text)["rows"]) == 8


def test_other_models_are_kept_beside_before_and_after(rows, tmp_path):
    bigger = tuple(replace(trial, when="bigger") for trial in rows.trials["after"])
    write_rows(replace(rows, trials={**rows.trials, "bigger": bigger}), tmp_path / "rows.json")
    assert list(read_rows(tmp_path / "rows.json").trials) == ["before", "after", "bigger"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("verdicts"), "verdicts"),
        (lambda content: content["rows"][0].pop(), r"rows\.0\.5"),
        (lambda content: content["rows"][0][5].pop(), "longer|shorter"),
        (lambda content: content["columns"].__setitem__(0, "shoe_size"), "shoe_size"),
        (lambda content: content["rows"][0][5].__setitem__(0, None), "no first try"),
        (lambda content: content["rows"][0][5].__setitem__(0, [99, 1, None]), "out of range"),
        (lambda content: content["rows"][0][5].__setitem__(0, [-1, 1, None]), "number -1"),
        (lambda content: content.update(schema=2), "newer Mulligan"),
    ],
)
def test_what_is_not_rows_is_refused_and_why(rows, tmp_path, change, said):
    path = tmp_path / "rows.json"
    write_rows(rows, path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(MulliganError, match=said):
        read_rows(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1}', "\udcff"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(MulliganError, match="does not hold the rows"):
        read_rows(path)
