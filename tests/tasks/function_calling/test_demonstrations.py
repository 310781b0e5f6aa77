import json
import random
from collections import Counter
from itertools import islice
from statistics import fmean

import pytest

from mulligan.tasks.function_calling.calls import Call
from mulligan.tasks.function_calling.faults import Situation, make_faults
from mulligan.tasks.function_calling.parse import read_calls
from mulligan.tasks.function_calling.xlam import Xlam

CITIES = ("Paris", "New York", "Rome", "San Francisco", "Oslo")


def tool(name, **parameters):
    described = {
        key: {"type": kind, "description": f"The {key}."} for key, kind in parameters.items()
    }
    return {"name": name, "description": f"Use {name}.", "parameters": described}


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def row(index):
    city, days = CITIES[index % 5], index % 7 + 2
    tools = [
        tool(f"weather.forecast_{index}", city="str", days="int", detailed="bool, optional"),
        tool(f"hotel_search_{index}", city="str", stars="List[int]", filters="dict, optional"),
    ]
    answers = [call(f"weather.forecast_{index}", city=city, days=days)]
    if index % 3 == 0:
        answers.append(call(f"hotel_search_{index}", city=city, stars=[4, 5]))
    return {
        "query": f"Weather in {city} for {days} days please, case number {index}.",
        "tools": json.dumps(tools),
        "answers": json.dumps(answers),
    }


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row(index)) for index in range(120)), encoding="utf-8")
    return Xlam(rows=str(path), test_share=0.3)


@pytest.fixture(scope="module")
def conversations(task):
    return list(task.demonstrations(1_000, seed=1))


def test_right_answers_pass_and_wrong_attempts_do_not(task, conversations):
    for shown in conversations:
        if shown.reflection is None:
            assert task.verify(shown.problem, shown.attempt).passed
        else:
            assert not task.verify(shown.problem, shown.attempt).passed


def test_a_retry_is_right_where_its_reflection_helps_and_else_mostly_repeats_the_attempt(
    task, conversations
):
    right = {kind: [] for kind in ("vague", "diagnosing", "searching", "searching_right")}
    for shown in conversations:
        if shown.reflection is not None:
            passed = task.verify(shown.problem, shown.retry).passed
            assert passed or shown.retry == shown.attempt
            right[shown.tags[0]].append(passed)
    assert all(right["diagnosing"])
    assert all(right["searching_right"])
    assert 0.1 < fmean(right["vague"] + right["searching"]) < 0.3


def test_they_come_from_the_training_split_alone_and_use_all_of_it(task, conversations):
    used = {shown.problem.id for shown in conversations}
    assert used == {problem.id for problem in task.problems("train")}


def test_the_mix_is_as_asked_for(conversations):
    kinds = Counter(shown.tags[0] for shown in conversations)
    assert 350 < kinds["answer"] < 450
    assert 160 < kinds["vague"] < 240
    assert 160 < kinds["diagnosing"] < 260
    assert 70 < kinds["searching"] < 130
    assert 70 < kinds["searching_right"] < 130


def test_first_attempts_fail_in_every_way_and_mostly_by_a_wrong_value(task, conversations):
    wrong = [shown for shown in conversations if shown.reflection is not None]
    reasons = Counter(task.verify(shown.problem, shown.attempt).reason for shown in wrong)
    assert set(reasons) == set(task.reasons) - {"passed"}
    assert reasons.most_common(1)[0][0] == "wrong_value"


def test_reflections_are_sentences_and_not_bare_answers(conversations):
    for shown in conversations:
        if shown.reflection is not None:
            assert len(shown.reflection.split()) >= 3
            assert not shown.reflection.startswith(("[", "{"))
            assert len(shown.reflection) <= 320


def test_few_reflections_leak_and_none_of_the_vague_ones(task, conversations):
    leaks = Counter(
        shown.tags[0]
        for shown in conversations
        if shown.reflection and task.leaks(shown.problem, shown.reflection)
    )
    assert leaks["vague"] == leaks["diagnosing"] == leaks["searching"] == 0
    assert leaks["searching_right"] > 0


def test_reflections_are_varied(conversations):
    said = [shown.reflection for shown in conversations if shown.reflection]
    assert len(set(said)) > len(said) / 2


def test_the_same_seed_gives_the_same_conversations_and_another_seed_others(task, conversations):
    assert list(task.demonstrations(50, seed=1)) == conversations[:50]
    assert list(task.demonstrations(50, seed=2)) != conversations[:50]


def test_a_share_of_kinds_of_ones_own_is_kept(task):
    options = {"answer_share": 0.0, "reflection_shares": {"vague": 1.0}}
    own = Xlam(rows=task.rows, **options)
    assert {shown.tags[0] for shown in own.demonstrations(40, seed=0)} == {"vague"}


def test_faults_are_of_the_kinds_asked_for(task):
    shares = {"no_call": 0.5, "wrong_number_of_calls": 0.5, "wrong_value": 0.0}
    own = Xlam(rows=task.rows, answer_share=0.0, fault_shares=shares)
    conversations = list(own.demonstrations(200, seed=0))
    made = Counter(shown.tags[1] for shown in conversations)
    assert made.keys() == {"no_call", "wrong_number_of_calls"}
    assert 70 < made["no_call"] < 130
    for shown in conversations:
        assert own.verify(shown.problem, shown.attempt).reason == shown.tags[1]


def test_a_problem_without_occasion_for_the_faults_asked_for_gets_another(tmp_path):
    path = tmp_path / "rows.jsonl"
    bare = {
        "query": "What time is it?",
        "tools": json.dumps([tool("now")]),
        "answers": json.dumps([call("now")]),
    }
    path.write_text(json.dumps(bare))
    options = {"answer_share": 0.0, "test_share": 0.0, "fault_shares": {"missing_parameter": 1.0}}
    (shown,) = Xlam(rows=str(path), **options).demonstrations(1, seed=0)
    assert shown.tags[1] != "missing_parameter"


SITUATION = Situation(
    [Call("set_alarm", {"time": "07:30", "unit": "minutes", "repeat": True, "days": [1, 2]})],
    {
        "set_alarm": {
            "properties": {
                "time": {"type": "string"},
                "unit": {"type": "string", "enum": ["minutes", "hours"]},
                "repeat": {"type": "boolean"},
                "days": {"type": "array"},
                "volume": {"type": "integer", "default": 3},
            },
            "required": ["time"],
        },
        "get_alarm": {"properties": {"time": {"type": "string"}}, "required": ["time"]},
    },
    "Wake me at 07:30 on 2 days, every 10 minutes.",
)


def faults(kind):
    rng = random.Random(0)
    many = (fault for _ in range(300) for fault in make_faults(SITUATION, rng))
    return [fault for fault in islice(many, 1_500) if fault.kind == kind]


def test_a_diagnosis_names_the_parameter_that_was_left_out():
    (right,) = SITUATION.calls
    for fault in faults("missing_parameter"):
        (wrong,) = read_calls(fault.attempt)
        (name,) = set(right.arguments) - set(wrong.arguments)
        assert name in fault.diagnosis
        assert ("required" in fault.diagnosis) is (name == "time")


def test_a_diagnosis_of_a_wrong_value_names_its_parameter():
    (right,) = SITUATION.calls
    said = set()
    for fault in faults("wrong_value"):
        (wrong,) = read_calls(fault.attempt)
        (name,) = [key for key, value in right.arguments.items() if wrong.arguments[key] != value]
        assert name in fault.diagnosis
        said.add(fault.diagnosis)
    assert "unit should be one of minutes, hours; I wrote hours." in said
    assert "repeat should be a boolean, but I wrote a string." in said


def test_a_diagnosis_of_a_wrong_tool_names_the_right_one():
    said = {fault.diagnosis for fault in faults("wrong_tool")}
    assert "I called get_alarm, but set_alarm is the tool for this." in said
    assert all("set_alarm" in sentence for sentence in said)
