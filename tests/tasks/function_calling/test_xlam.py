import json

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.function_calling.xlam import Xlam
from mulligan.tasks.registry import load_task

WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {
        "city": {"type": "str", "description": "The city."},
        "days": {"type": "int, optional", "description": "How many days.", "default": 1},
        "fields": {"type": "List[str], optional", "description": "What to tell."},
    },
}
TIME = {
    "name": "get_time",
    "description": "Time of a zone.",
    "parameters": {"zone": {"type": "str", "description": "The zone.", "default": "UTC"}},
}
PARIS = {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
PAIR = {"type": "array", "items": {"type": "integer"}}
CET = {"name": "get_time", "arguments": {"zone": "CET"}}


def row(
    query="Weather in Paris for 3 days, and the time?", tools=(WEATHER, TIME), answers=(PARIS, CET)
):
    return {"query": query, "tools": json.dumps(tools), "answers": json.dumps(answers)}


@pytest.fixture
def task_of(tmp_path):
    def make(*rows, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return Xlam(rows=str(path), **options)

    return make


@pytest.fixture
def problem(task_of):
    (problem,) = task_of(row(), test_share=0.0).problems("train")
    return problem


def test_a_row_becomes_a_question_with_its_tools_as_json_schema(problem):
    system, user = problem.messages
    assert system["role"] == "system" and "JSON array" in system["content"]
    assert user == {"role": "user", "content": "Weather in Paris for 3 days, and the time?"}
    assert problem.tools[0] == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city."},
                    "days": {"type": "integer", "description": "How many days.", "default": 1},
                    "fields": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "What to tell.",
                    },
                },
                "required": ["city"],
            },
        },
    }
    assert problem.tools[1]["function"]["parameters"]["required"] == []


def test_tools_that_have_a_json_schema_keep_it(task_of):
    schema = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
    rows = row(tools=[{**TIME, "parameters": schema}], answers=[CET])
    (problem,) = task_of(rows, test_share=0.0).problems("train")
    assert problem.tools[0]["function"]["parameters"] == schema


@pytest.mark.parametrize(
    ("written", "schema", "required"),
    [
        ("str", {"type": "string"}, True),
        ("float, optional", {"type": "number"}, False),
        ("Optional[bool]", {"type": "boolean"}, False),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}, True),
        ("List[Tuple[int, int]]", {"type": "array", "items": PAIR}, True),
        ("Dict[str, int]", {"type": "object"}, True),
        ("List[Union[int, float]]", {"type": "array"}, True),
        ("Callable[[float], float]", {}, True),
        ("", {}, True),
    ],
)  # fmt: skip
def test_a_python_type_becomes_what_json_schema_can_say_of_it(task_of, written, schema, required):
    tool = {"name": "f", "description": "", "parameters": {"a": {"type": written}}}
    (problem,) = task_of(row(tools=[tool]), test_share=0.0).problems("train")
    parameters = problem.tools[0]["function"]["parameters"]
    assert parameters["properties"] == {"a": schema}
    assert parameters["required"] == (["a"] if required else [])


def test_there_is_no_system_message_where_none_is_wanted(task_of):
    (problem,) = task_of(row(), system=None, test_share=0.0).problems("train")
    assert [message["role"] for message in problem.messages] == ["user"]


def test_the_reference_passes_and_so_do_its_calls_in_another_order(task_of, problem):
    task = task_of(row())
    assert task.verify(problem, problem.reference).passed
    assert task.verify(problem, json.dumps([CET, PARIS])).passed
    assert task.verify(problem, 'get_time(zone="CET")\nget_weather(days=3, city="Paris")').passed


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ("I do not know.", "unparseable", "no_call"),
        (json.dumps([PARIS, CET])[:-1], "unparseable", "not_parseable"),
        (json.dumps([PARIS]), "failed", "wrong_number_of_calls"),
        (json.dumps([PARIS, {**CET, "name": "time"}]), "failed", "unknown_tool"),
        (json.dumps([PARIS, PARIS]), "failed", "wrong_tool"),
        (json.dumps([PARIS, {**CET, "arguments": {}}]), "failed", "missing_parameter"),
        (json.dumps([PARIS, {**CET, "arguments": {"zone": "CET", "x": 1}}]), "failed",
         "unexpected_parameter"),
        (json.dumps([PARIS, {**CET, "arguments": {"zone": "cet"}}]), "failed", "wrong_value"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_pass_has_its_status_and_reason(
    task_of, problem, answer, status, reason
):
    task = task_of(row())
    verdict = task.verify(problem, answer)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert reason in task.reasons


def test_its_own_wrong_answers_fail_each_for_its_reason(task_of, problem):
    task = task_of(row())
    reasons = [task.verify(problem, answer).reason for answer in task.wrong_answers(problem)]
    assert reasons == [
        "not_parseable",
        "wrong_number_of_calls",
        "unknown_tool",
        "unexpected_parameter",
    ]


def test_the_same_row_twice_is_one_problem(task_of):
    assert len(task_of(row(), row(), test_share=0.0).problems("train")) == 1


def test_no_tool_set_and_no_question_is_in_both_splits(task_of):
    rows = [row(f"Question {i}?", [{**TIME, "name": f"t{i % 50}"}], [CET]) for i in range(200)]
    rows += [row("Question 3?", [WEATHER], [PARIS]), row("question  3?", [WEATHER, TIME], [CET])]
    task = task_of(*rows, test_share=0.5)
    sides = [task.problems("train"), task.problems("test")]
    tools = [{tuple(p.given["tools"]) for p in side} for side in sides]
    asked = [{" ".join(p.messages[-1]["content"].lower().split()) for p in side} for side in sides]
    assert not tools[0] & tools[1]
    assert not asked[0] & asked[1]
    assert sum(map(len, sides)) == 202


def test_the_splits_depend_on_the_rows_and_the_seed_but_not_on_the_rows_order(task_of):
    rows = [row(f"Question {i}?", [{**TIME, "name": f"t{i}"}], [CET]) for i in range(60)]
    ids = [problem.id for problem in task_of(*rows, test_share=0.4).problems("test")]
    assert ids == [p.id for p in task_of(*rows[::-1], test_share=0.4).problems("test")]
    assert set(ids) != {p.id for p in task_of(*rows, test_share=0.4, seed=1).problems("test")}
    assert 12 <= len(ids) <= 36


def test_sizes_cut_the_splits_and_lengths_choose_problems_without_moving_any(task_of):
    rows = [
        row(f"Question {i}{'!' * (i % 2) * 500}?", [{**TIME, "name": f"t{i}"}], [CET])
        for i in range(80)
    ]
    whole = task_of(*rows, test_share=0.5).problems("test")
    short = task_of(*rows, test_share=0.5, max_prompt_chars=600).problems("test")
    long = task_of(*rows, test_share=0.5, min_prompt_chars=601).problems("test")
    assert sorted([*short, *long], key=lambda p: p.id) == sorted(whole, key=lambda p: p.id)
    assert short and long
    assert task_of(*rows, test_share=0.5, test_size=5).problems("test") == whole[:5]


def test_a_split_without_problems_is_refused(task_of):
    with pytest.raises(MulliganError, match="no problems are left for the split 'test'"):
        task_of(row(), test_share=0.0).problems("test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": None}, "line 1.*'query' should be a text"),
        ({"tools": "[broken"}, "line 1.*'tools' should be a JSON list"),
        ({"answers": '[{"name": "f", "arguments": {"a": NaN}}]'}, "line 1.*'answers' should be"),
        ({"answers": "[]"}, "line 1.*'answers' should be a JSON list"),
        ({"answers": '[{"name": "f", "arguments": 3}]'}, "line 1.*'answers' should be a list of"),
        ({"tools": '[{"name": "f", "parameters": 3}]'}, "line 1.*'tools' should be a list of"),
        ({"tools": '[{"name": "f", "parameters": {"a": "str"}}]'}, "line 1.*'tools' should be"),
    ],
)
def test_a_row_with_a_wrong_field_is_refused_by_name(task_of, fields, message):
    with pytest.raises(MulliganError, match=message):
        task_of({**row(), **fields}).problems("train")


def test_a_row_without_a_field_is_refused_by_name(task_of):
    incomplete = {key: value for key, value in row().items() if key != "answers"}
    with pytest.raises(MulliganError, match=r"line 2.*no field 'answers'"):
        task_of(row(), incomplete).problems("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 1.5}, "test_share should be between 0 and 1"),
        ({"answer_share": -1}, "answer_share should be between 0 and 1"),
        ({"test_size": 0}, "test_size should be at least 1"),
        ({"reflection_shares": {"vage": 1}}, "did you mean 'vague'"),
        ({"reflection_shares": {"vague": 0}}, "at least one kind"),
        ({"reflection_shares": {"vague": -1}}, "0 or more"),
        ({"fault_shares": {"no_cal": 1}}, "fault_shares has no kind 'no_cal'.*'no_call'"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(MulliganError, match=message):
        Xlam(**options)


def test_an_unknown_option_is_refused_with_the_nearest_valid_one():
    with pytest.raises(MulliganError, match="did you mean 'test_share'"):
        load_task("xlam", {"test_shar": 0.5})


def test_a_reflection_leaks_if_passing_calls_stand_in_it(task_of, problem):
    task = task_of(row())
    right = 'get_weather(city="Paris", days=3)'
    assert task.leaks(problem, f'I should call {right} and then get_time(zone="CET").')
    assert task.leaks(problem, f"Not {json.dumps(CET)} alone: {problem.reference}")
    assert not task.leaks(problem, f"I should call {right} and the other tool.")
    assert not task.leaks(problem, "I left out the parameter zone, which should be CET.")
    assert not task.leaks(problem, "")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([PARIS, CET], [CET, PARIS], True),
        ([PARIS], [{**PARIS, "arguments": {"days": 3.0, "city": "Paris"}}], True),
        ([PARIS], [{**PARIS, "arguments": {"city": "Paris"}}], False),
        ([PARIS], [PARIS, PARIS], False),
        ([{"name": "made_up", "arguments": {}}], [{"name": "made_up", "arguments": {}}], True),
    ],
)
def test_answers_are_the_same_when_their_calls_are_equal_right_or_wrong(
    task_of, problem, one, other, same
):
    task = task_of(row())
    assert task.same_answer(problem, json.dumps(one), json.dumps(other)) is same
    assert not task.same_answer(problem, "I cannot.", "I cannot.")


def test_a_dev_split_is_taken_out_of_training_and_leaves_the_test_as_it_is(task_of):
    rows = [row(f"Question {n}?", tools=({**TIME, "name": f"tool_{n}"},)) for n in range(80)]
    for each in rows:
        name = json.loads(each["tools"])[0]["name"]
        each["answers"] = json.dumps([{"name": name, "arguments": {}}])
    without, task = task_of(*rows), task_of(*rows, dev_share=0.3, dev_size=10)
    ids = {split: [p.id for p in task.problems(split)] for split in task.splits}
    assert ids["test"] == [p.id for p in without.problems("test")]
    assert len(ids["dev"]) == 10
    assert set(ids["train"]) < {p.id for p in without.problems("train")}
    assert not set(ids["train"]) & set(ids["dev"])
