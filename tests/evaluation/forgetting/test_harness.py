import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting import harness
from mulligan.models.load import load_model

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval: pip install lm-eval"
)


def test_a_harness_that_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MulliganError, match="pip install 'lm-eval"):
        harness.prepare(["hellaswag"], tmp_path, None)


@needs_harness
@pytest.mark.slow
def test_an_unknown_task_gets_the_nearest_name(tmp_path):
    with pytest.raises(MulliganError, match=r"no task 'hellaswg': did you mean 'hellaswag'\?"):
        harness.prepare(["hellaswg"], tmp_path, None)
    with pytest.raises(MulliganError, match="No folder"):
        harness.prepare(["hellaswag"], tmp_path, tmp_path / "none")


@needs_harness
def test_the_packaged_questions_of_mmlu_are_complete(tmp_path):
    harness._write_packaged("mmlu_dev", tmp_path)

    rows = [json.loads(line) for line in (tmp_path / "mmlu_dev.jsonl").read_text().splitlines()]

    assert len(rows) == 282
    assert rows[0]["question"].startswith("Statement 1 | Every element of a group")
    assert rows[0]["choices"][rows[0]["answer"]] == "C"
    assert {len(row["choices"]) for row in rows} == {4, 5}  # one question has five
    assert all(row["question"].endswith("\nAnswer:") for row in rows)


def test_a_bigbench_task_is_read_from_its_package_or_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_locations", lambda package: [])
    with pytest.raises(MulliganError, match=r"pip install --no-deps bigbench==1\.0\.0"):
        harness._write_packaged("bigbench:snarks", tmp_path)

    folder = tmp_path / "bigbench" / "benchmark_tasks" / "snarks"
    folder.mkdir(parents=True)
    example = {"input": "Which?", "target_scores": {"this": 0, "that": 1}}
    free = {"input": "Say it.", "target": "it"}
    (folder / "task.json").write_text(json.dumps({"examples": [example, free]}))
    monkeypatch.setattr(harness, "_locations", lambda package: [tmp_path / "bigbench"])

    name = harness._write_packaged("bigbench:snarks", tmp_path)

    [row] = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert row == {"question": "Q: Which?\nA:", "choices": [" this", " that"], "answer": 1}
    with pytest.raises(MulliganError, match="did you mean 'snarks'"):
        harness._write_packaged("bigbench:snark", tmp_path)
    with pytest.raises(MulliganError, match="leaves the folder"):
        harness._write_packaged("bigbench:../../etc", tmp_path)


def test_a_task_whose_data_cannot_be_loaded_is_named_with_what_to_do(tmp_path, monkeypatch):
    def refuse(**options):
        raise ConnectionError("Couldn't reach 'Rowan/hellaswag' on the Hub\nand more")

    fakes = {"lm_eval": {"simple_evaluate": refuse}, "lm_eval.models": {}}
    fakes |= {"lm_eval.models.huggingface": {"HFLM": SimpleNamespace}}
    for name, content in fakes.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))

    with pytest.raises(MulliganError, match=r"hellaswag: Couldn't reach .* check the network"):
        harness.ask(SimpleNamespace(device="cpu"), None, ["hellaswag"], None, 3)


@needs_harness
@pytest.mark.slow
def test_the_same_model_through_the_harness_alone_gives_the_same_accuracy(tmp_path, tiny_llama):
    """Local JSON in lm-eval's own format, as a machine without a hub has it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [
        {"q": f"{a} + {b} =", "c": [f" {a + b}", f" {a - b}"], "a": 0}
        for a in range(4, 9)
        for b in (1, 2, 3)
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{c}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    model, tokenizer = load_model(str(tiny_llama), device="cpu")

    names, manager = harness.prepare(["sums"], tmp_path, tmp_path)
    found = list(
        harness.outcomes({"original": harness.ask(model, tokenizer, names, manager, None)})
    )

    oracle = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_llama), "dtype": "float32"},
        device="cpu",
        tasks=["sums"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        bootstrap_iters=0,
    )
    assert (
        sum(each.passed["original"] for each in found) / len(found)
        == (oracle["results"]["sums"]["acc,none"])
    )
    assert len(found) == len(rows) == 15
    assert {each.chance for each in found} == {0.5}
