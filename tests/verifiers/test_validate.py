from io import StringIO

import pytest
from rich.console import Console

from mulligan.errors import MulliganError
from mulligan.tasks.registry import load_task
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.validate import Check, passed, validate_task, validation_table

GOOD = """
import itertools, os, random, time
from mulligan import Problem, Task, Verdict

class Double(Task):
    name = "double"
    def problems(self, split):
        first = 1000 if split == "test" else 0
        for number in range(first, first + 60):
            yield Problem.create(f"Double {number}.", {"number": number}, str(2 * number))
    def verify(self, problem, answer):
        if not answer.strip().isdecimal():
            return Verdict.unparseable("no_answer")
        right = answer.strip() == str(2 * problem.given["number"])
        return Verdict.right() if right else Verdict.wrong("wrong")
    def wrong_answers(self, problem):
        return [str(problem.given["number"] + 1_000_000)]
"""


@pytest.fixture
def validate(tmp_path):
    """Validate the good task after a change to its text; returns the checks by name."""

    def run(old: str = "", new: str = "", deadline_s: float = 60) -> dict[str, Check]:
        assert old in GOOD
        path = tmp_path / "double.py"
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD)
        checks = validate_task(load_task(str(path)), count=30, limits=Limits(deadline_s=deadline_s))
        return {check.name: check for check in checks}

    return run


def test_a_sound_task_passes_every_check(validate):
    checks = validate()
    assert {check.result for check in checks.values()} == {"ok"}
    assert len(checks) == 13
    assert checks["reference answers pass"].detail == "60 reference answers pass"
    assert passed(checks.values())


HEAD = """    name = "double"
    def problems(self, split):
        first = 1000 if split == "test" else 0
        for number in range(first, first + 60):
"""
HEAD_WITH_DEV = """    name = "double"
    splits = ("train", "dev", "test")
    def problems(self, split):
        first = {{"train": 0, "dev": {dev}, "test": 1000}}[split]
        for number in range(first, first + 60):
"""

FAULTS = {
    "a wrong reference": (
        "str(2 * number))",
        "str(2 * number + (number == 7)))",
        "reference answers pass",
        "its reference '15' got: failed (wrong)",
    ),
    "a verifier that accepts anything": (
        'return Verdict.right() if right else Verdict.wrong("wrong")',
        "return Verdict.right()",
        "generated wrong answers fail",
        "digits changed, pass",
    ),
    "an empty answer that passes": (
        'return Verdict.unparseable("no_answer")',
        "return Verdict.right()",
        "malformed answers fail",
        "the answer '' passes",
    ),
    "an example of the task's own that passes": (
        'number"] + 1_000_000)',
        'number"] * 2)',
        "own wrong answers fail",
        "the answer '0' passes",
    ),
    "an id that comes twice": (
        '{number}.", {"number": number}',
        '{number // 2}.", {"number": number // 2}',
        "ids are unique",
        "train split yields it twice",
    ),
    "splits that overlap": (
        '1000 if split == "test" else 0',
        '10 if split == "test" else 0',
        "splits are disjoint",
        "in the training split and in the test split",
    ),
    "a dev split that overlaps": (
        HEAD,
        HEAD_WITH_DEV.format(dev=10),
        "splits are disjoint",
        "in the training split and in the dev split",
    ),
    "a dev split that is empty": (
        HEAD,
        HEAD_WITH_DEV.format(dev=500).replace("first + 60", "first + 60 * (split != 'dev')"),
        "problems can be made",
        "the dev split has no problems",
    ),
    "a split of another name": (
        'name = "double"',
        'name = "double"; splits = ("train", "test", "validation")',
        "problems can be made",
        "splits lists 'validation'; it may list train, dev, test",
    ),
    "no test split": (
        'name = "double"',
        'name = "double"; splits = ("train", "dev")',
        "problems can be made",
        "splits lacks 'test'",
    ),
    "problems that change with every call": (
        "range(first, first + 60)",
        "random.sample(range(first, first + 500), 60)",
        "ids are stable",
        "asked a second time",
    ),
    "problems that change with the process": (
        "range(first, first + 60)",
        "(first + hash(str(n)) % 10**9 for n in range(60))",
        "ids are stable",
        "in a fresh process",
    ),
    "a verifier that draws lots": (
        "right = answer.strip() ==",
        "right = random.random() < 0.5 or answer.strip() ==",
        "verifier is deterministic",
        "then ",
    ),
    "a reason that is not listed": (
        'Verdict.wrong("wrong")',
        'Verdict.wrong("too_small")',
        "reasons are the task's own",
        "'too_small', which is not among the task's reasons: passed, wrong, no_answer",
    ),
    "a verifier that raises": (
        "answer.strip().isdecimal()",
        "answer[0].strip().isdecimal()",
        "verifier never breaks",
        "IndexError: string index out of range (double.py, line 12)",
    ),
    "a verifier that hangs": (
        "right = answer.strip() ==",
        "time.sleep(60 * (problem.given['number'] == 3)); right = answer.strip() ==",
        "verifier never breaks",
        "took longer than 1 s",
    ),
    "a verifier that returns a truth value": (
        'return Verdict.right() if right else Verdict.wrong("wrong")',
        "return right",
        "verifier never breaks",
        "verify returned",
    ),
    "a tuple among what the verifier needs": (
        '{"number": number}',
        '{"number": number, "pair": (1, 2)}',
        "problems are plain JSON",
        "a tuple becomes a list",
    ),
    "an empty split": (
        "range(first, first + 60)",
        "range(first, 60)",
        "problems can be made",
        "the test split has no problems",
    ),
    "problems that raise": (
        "range(first, first + 60)",
        "range(first, nonsense)",
        "problems can be made",
        "NameError: name 'nonsense' is not defined",
    ),
    "problems that are no problems": (
        "yield Problem.create(",
        "yield (split, ",
        "problems can be made",
        "not a Problem",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_said(fault, validate):
    old, new, name, said = FAULTS[fault]
    checks = validate(old, new, deadline_s=1 if fault == "a verifier that hangs" else 60)
    assert checks[name].result == "failed"
    assert said in checks[name].detail
    assert not passed(checks.values())


def test_a_dev_split_is_looked_at_where_the_task_lists_one(validate):
    without, with_dev = validate(), validate(HEAD, HEAD_WITH_DEV.format(dev=500))
    assert "there is no dev split" in without["problems can be made"].detail
    assert with_dev["problems can be made"].detail == "30 train, 30 dev, 30 test looked at"
    assert passed(with_dev.values())


def test_the_offending_problem_is_named_in_the_table(validate):
    checks = validate("str(2 * number))", "str(2 * number + (number == 7)))")
    problem = checks["reference answers pass"].problem
    assert problem.given == {"number": 7}
    console = Console(width=160, record=True, file=StringIO())
    console.print(validation_table("double", checks.values()))
    text = console.export_text()
    assert f"in problem {problem.id}: Double 7." in text


def test_a_task_without_references_is_not_failed_for_it(validate):
    checks = validate(", str(2 * number))", ")")
    assert checks["reference answers pass"].result == "skipped"
    assert checks["generated wrong answers fail"].result == "skipped"
    assert passed(checks.values())


def test_an_endless_training_split_is_looked_at_only_in_part(validate):
    checks = validate(
        "range(first, first + 60)",
        'itertools.count(5000) if split == "train" else range(30)',
    )
    assert passed(checks.values())


def test_the_built_in_task_is_valid():
    assert passed(validate_task(load_task("countdown"), count=50))


def test_an_unsafe_task_made_by_hand_cannot_be_validated(tmp_path):
    path = tmp_path / "double.py"
    path.write_text(GOOD)
    task = type(load_task(str(path)))()
    with pytest.raises(MulliganError, match="load_task"):
        validate_task(task)
