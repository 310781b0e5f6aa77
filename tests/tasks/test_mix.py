import json
from collections import Counter
from itertools import islice

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.mix import Mix
from mulligan.tasks.registry import load_task
from mulligan.tasks.splits import first_problems
from mulligan.verifiers.pool import InProcessVerifier, IsolatedVerifier, verifier_for
from mulligan.verifiers.validate import validate_task
from task_rows import write_rows

PAIRS = {"fixed_splits": True, "dev_size": 30, "test_size": 60, "counts": [2]}
TRIPLES = {**PAIRS, "counts": [3]}
EASY_AND_HARD = {
    "pairs": {"weight": 3, "task": "countdown", "options": PAIRS},
    "triples": {"weight": 1, "task": "countdown", "options": TRIPLES},
}


@pytest.fixture
def capitals(tmp_path):
    rows = [{"messages": f"Capital of {n}?", "reference": f"City {n}"} for n in range(60)]
    return {
        "weight": 1,
        "task": write_rows(tmp_path, *rows),
        "options": {"verifier": "exact", "dev_share": 0.2},
    }


def test_problems_come_by_weight_and_know_their_part():
    mix = Mix(parts=EASY_AND_HARD)
    for split in ("train", "dev", "test"):
        problems = first_problems(mix, split, 40)
        assert Counter(p.task for p in problems) == {"pairs": 30, "triples": 10}
        for problem in problems:
            assert len(problem.given["numbers"]) == {"pairs": 2, "triples": 3}[problem.task]
            assert mix.verify(problem, problem.reference).passed


def test_a_problem_keeps_the_id_that_it_has_in_its_own_task():
    alone = {p.id for p in load_task("countdown", TRIPLES).problems("test")}
    mixed = [p.id for p in Mix(parts=EASY_AND_HARD).problems("test") if p.task == "triples"]
    assert mixed
    assert set(mixed) <= alone


def test_the_mix_ends_where_a_part_does_instead_of_changing_its_weights(caplog):
    caplog.set_level("INFO")
    problems = list(Mix(parts=EASY_AND_HARD).problems("test"))
    assert Counter(p.task for p in problems) == {"pairs": 60, "triples": 20}
    assert "pairs has no more" in caplog.text
    with pytest.raises(MulliganError, match="has 80 test problems, and the recipe asks for 100"):
        first_problems(Mix(parts=EASY_AND_HARD), "test", 100)


def test_what_one_part_holds_out_is_in_no_parts_training(tmp_path):
    rows = [{"messages": f"Q{n}", "reference": "1"} for n in range(40)]
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
    all_rows, some = write_rows(train, *rows), write_rows(test, *rows[:15])
    one = {"weight": 1, "task": all_rows, "options": {"verifier": "exact", "test_path": some}}
    other = {"weight": 1, "task": all_rows, "options": {"verifier": "exact", "test_share": 0.3}}
    mix = Mix(parts={"one": one, "other": other})
    ids = {split: [p.id for p in mix.problems(split)] for split in mix.splits}
    assert not set(ids["train"]) & set(ids["test"])
    assert all(len(found) == len(set(found)) for found in ids.values())


def test_it_has_a_dev_split_only_where_every_part_has_one(capitals):
    with_dev = Mix(parts={"countdown": {"weight": 1, "options": PAIRS}, "capitals": capitals})
    assert with_dev.splits == ("train", "dev", "test")
    without = Mix(parts={"countdown": {"weight": 1}, "capitals": capitals})
    assert without.splits == ("train", "test")
    with pytest.raises(MulliganError, match="Every part needs one"):
        first_problems(without, "dev", 3)


def test_it_is_verified_in_process_where_all_parts_are_and_else_apart(capitals):
    parts = {"countdown": {"weight": 1, "options": PAIRS}, "capitals": capitals}
    mix = load_task("mix", {"parts": parts})
    problems = first_problems(mix, "test", 10)
    with verifier_for(mix, workers=1) as verifier:
        assert isinstance(verifier, IsolatedVerifier)
        verdicts = verifier.verify_many([(p, p.reference) for p in problems])
        assert [v.passed for v in verdicts] == [True] * 10
        assert verifier.same_many([(problems[0], "1 + 2 = 3", "2 + 1 = 3")]) == [
            True if problems[0].task == "countdown" else None
        ]
    with verifier_for(load_task("mix", {"parts": EASY_AND_HARD})) as verifier:
        assert isinstance(verifier, InProcessVerifier)


SILENT = """
from mulligan import Problem, Task, Verdict


class Silent(Task):
    name = "silent"
    reasons = ("passed", "wrong")

    def problems(self, split):
        yield Problem.create(split, {})

    def verify(self, problem, answer):
        return Verdict.wrong()
"""


def test_a_mix_compares_answers_where_every_part_does(tmp_path):
    assert Mix(parts=EASY_AND_HARD).compares_answers
    (tmp_path / "silent.py").write_text(SILENT)
    silent = {"weight": 1, "task": str(tmp_path / "silent.py")}
    assert not Mix(parts={"countdown": {"weight": 1}, "silent": silent}).compares_answers


def test_reasons_and_rules_are_those_of_all_parts(capitals):
    mix = Mix(parts={"countdown": {"weight": 1}, "capitals": capitals})
    assert mix.reasons[0] == "passed"
    assert {"missed_target", "wrong"} <= set(mix.reasons)
    assert 2 in mix.rules_changed


def test_demonstrations_come_by_weight_from_the_parts_that_offer_some(capitals):
    shown = list(Mix(parts=EASY_AND_HARD).demonstrations(40, seed=1))
    assert Counter(d.problem.task for d in shown) == {"pairs": 30, "triples": 10}
    mix = Mix(parts={"countdown": {"weight": 1}, "capitals": capitals})
    assert {d.problem.task for d in mix.demonstrations(10, seed=1)} == {"countdown"}
    assert len(list(islice(mix.demonstrations(10, seed=1), 20))) == 10
    rows = {**capitals, "weight": 2}
    assert list(Mix(parts={"a": capitals, "b": rows}).demonstrations(5, 1)) == []


def test_a_mix_is_a_valid_task():
    checks = validate_task(load_task("mix", {"parts": EASY_AND_HARD}), count=10)
    assert [check for check in checks if check.result == "failed"] == []


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"countdown": {"weight": 1}}, "at least two parts are needed, not 1"),
        ({"countdown": 0.5, "b": {"weight": 1}}, r"mix: countdown: Input should be .* got 0\.5"),
        ({"a": {"weight": 0}, "b": {"weight": 1}}, r"a\.weight: Input should be greater than 0"),
        ({"a": {"weight": 1, "taks": "x"}, "b": {"weight": 1}}, r"a\.taks: Extra inputs"),
        ({"countdwn": {"weight": 1}, "b": {"weight": 1}}, "the part 'countdwn' cannot be made: .*"
         "did you mean 'countdown'"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named(parts, said):
    with pytest.raises(MulliganError, match=said):
        Mix(parts=parts)


def test_records_tell_the_parts_apart(tmp_path):
    from mulligan.storage.records import encode

    problem = next(iter(Mix(parts=EASY_AND_HARD).problems("test")))
    assert json.loads(encode(problem))["task"] == "pairs"
