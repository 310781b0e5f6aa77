import json
import sys

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.function_calling.bfcl import CATEGORIES, Bfcl, find_data

CIRCLE = {
    "name": "geometry.circle",
    "description": "Describe a circle.",
    "parameters": {
        "type": "dict",
        "properties": {
            "radius": {"type": "float", "description": "The radius."},
            "type": {"type": "any", "description": "Which type of circle."},
            "options": {
                "type": "dict",
                "properties": {"centre": {"type": "tuple", "items": {"type": "float"}}},
            },
        },
        "required": ["radius"],
    },
}
SQUARE = {
    "name": "geometry.square",
    "description": "Describe a square.",
    "parameters": {
        "type": "dict",
        "properties": {"side": {"type": "integer"}},
        "required": ["side"],
    },
}


def entry(question, functions, truth):
    asked = [[{"role": "user", "content": question}]]
    return {"question": asked, "function": functions}, {"ground_truth": truth}


ENTRIES = {
    "simple_python": entry(
        "A circle of 2?", [CIRCLE], [{"geometry.circle": {"radius": [2.0], "type": ["", "full"]}}]
    ),
    "multiple": entry("A square of 3?", [CIRCLE, SQUARE], [{"geometry.square": {"side": [3]}}]),
    "parallel": entry(
        "Squares of 1 and 2?", [SQUARE], [{"geometry.square": {"side": [n]}} for n in (1, 2)]
    ),
    "live_simple": entry("A hopeless square?", [SQUARE], [{"geometry.square": {"side": []}}]),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with files as the package has them: an entry in some categories, none in others."""
    (tmp_path / "possible_answer").mkdir()
    for category in CATEGORIES:
        lines = [ENTRIES[category]] if category in ENTRIES else []
        for place, folder in enumerate((tmp_path, tmp_path / "possible_answer")):
            text = "\n".join(json.dumps({"id": f"{category}_0", **line[place]}) for line in lines)
            (folder / f"BFCL_v4_{category}.json").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def problems(folder):
    """The problems by category."""
    task = Bfcl(folder=str(folder), test_share=0.0)
    return {problem.given["category"]: problem for problem in task.problems("train")}


def test_the_entries_that_some_answer_can_pass_become_problems(problems):
    assert set(problems) == {"simple_python", "multiple", "parallel"}


def test_the_model_is_shown_tools_as_json_schema(problems):
    function = problems["simple_python"].tools[0]["function"]
    assert function["name"] == "geometry.circle"
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "radius": {"type": "number", "description": "The radius."},
            "type": {"description": "Which type of circle."},
            "options": {
                "type": "object",
                "properties": {"centre": {"type": "array", "items": {"type": "number"}}},
            },
        },
        "required": ["radius"],
    }


def test_the_reference_leaves_out_what_may_be_absent(problems):
    assert json.loads(problems["simple_python"].reference) == [
        {"name": "geometry.circle", "arguments": {"radius": 2.0}}
    ]
    assert len(json.loads(problems["parallel"].reference)) == 2


def test_answers_are_judged_by_the_leaderboards_rule(folder, problems):
    task, circle = Bfcl(folder=str(folder)), problems["simple_python"]
    assert task.verify(circle, "geometry.circle(radius=2, type='FULL')").passed
    assert task.verify(circle, "geometry.circle(radius=3)").reason == "wrong_value"
    assert task.verify(circle, "geometry_circle(radius=2)").reason == "unknown_tool"
    assert task.verify(circle, "A circle.").reason == "no_call"
    assert task.verify(problems["multiple"], "geometry.circle(radius=3)").reason == "wrong_tool"
    both = "[geometry.square(side=2), geometry.square(side=1)]"
    assert task.verify(problems["parallel"], both).passed


def test_only_the_categories_asked_for_take_part(folder):
    task = Bfcl(folder=str(folder), test_share=0.0, categories=["parallel"])
    assert [p.given["category"] for p in task.problems("train")] == ["parallel"]


def test_choosing_categories_moves_no_problem_to_the_other_split(folder):
    for category in ("simple_python", "multiple", "parallel"):
        for split in ("train", "test"):
            whole = Bfcl(folder=str(folder), test_share=0.5, seed=4)
            part = Bfcl(folder=str(folder), test_share=0.5, seed=4, categories=[category])
            chosen = [p.id for p in safe(whole, split) if p.given["category"] == category]
            assert [p.id for p in safe(part, split)] == chosen


def safe(task, split):
    try:
        return task.problems(split)
    except MulliganError:
        return []


def test_an_own_system_message_follows_the_tasks(folder):
    file = folder / "BFCL_v4_multiple.json"
    row = json.loads(file.read_text(encoding="utf-8"))
    row["question"][0].insert(0, {"role": "system", "content": "Be quick."})
    file.write_text(json.dumps(row), encoding="utf-8")
    options = {"folder": str(folder), "test_share": 0.0, "categories": ["multiple"]}
    (problem,) = Bfcl(**options, system="Answer in JSON.").problems("train")
    assert problem.messages[0]["content"] == "Answer in JSON.\n\nBe quick."
    (problem,) = Bfcl(**options, system=None).problems("train")
    assert problem.messages[0]["content"] == "Be quick."


def test_the_data_are_found_in_a_folder_that_contains_the_package(folder, tmp_path_factory):
    above = tmp_path_factory.mktemp("packages")
    (above / "bfcl_eval").mkdir()
    (above / "bfcl_eval" / "data").symlink_to(folder)
    assert find_data(str(above)).samefile(folder)
    assert find_data(str(above / "bfcl_eval")).samefile(folder)


def test_the_installed_package_is_found_and_not_imported(folder, tmp_path_factory, monkeypatch):
    above = tmp_path_factory.mktemp("site")
    (above / "bfcl_eval").mkdir()
    (above / "bfcl_eval" / "__init__.py").write_text("raise ImportError", encoding="utf-8")
    (above / "bfcl_eval" / "data").symlink_to(folder)
    monkeypatch.syspath_prepend(above)
    assert find_data(None).samefile(folder)
    assert "bfcl_eval" not in sys.modules


def test_a_missing_package_and_a_wrong_folder_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("mulligan.tasks.function_calling.bfcl.find_spec", lambda name: None)
    with pytest.raises(MulliganError, match="pip install --no-deps bfcl-eval"):
        Bfcl().problems("train")
    with pytest.raises(MulliganError, match=r"no file BFCL_v4_simple_python.json in .*folder="):
        Bfcl(folder=str(tmp_path)).problems("train")


def test_an_unknown_category_is_refused_with_the_nearest():
    with pytest.raises(MulliganError, match="did you mean 'live_simple'"):
        Bfcl(categories=["live_simpel"])


def test_an_entry_without_possible_answers_is_refused_by_name(folder):
    (folder / "possible_answer" / "BFCL_v4_multiple.json").write_text("", encoding="utf-8")
    with pytest.raises(MulliganError, match="no possible answers to 'multiple_0'"):
        Bfcl(folder=str(folder)).problems("train")
