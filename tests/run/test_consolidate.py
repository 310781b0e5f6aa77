import json
import re
import shutil

import pytest

from faults import end_state
from mulligan.storage.records import RecordLog
from tiny import lines, run_cli, write_recipe

SETTINGS = {
    "sft": None,
    "collect__problems": 16,
    "train__steps": 2,
    "evaluate__problems": 4,
    "consolidate": {"tries": 2, "batch": 4, "learning_rate": 1e-3, "method": "distill"},
}


def consolidated_run(folder, model, *overrides, code=0, **changes):
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, model, **(SETTINGS | changes))
    outcome = run_cli("run", recipe, *overrides, "--runs", folder, "--resume")
    assert outcome.code == code, outcome.err + outcome.out
    return folder / "tiny"


@pytest.fixture(scope="module")
def consolidated(tiny_llama, tmp_path_factory):
    """A finished run of one round that was consolidated."""
    return consolidated_run(tmp_path_factory.mktemp("consolidated"), tiny_llama)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_the_consolidated_model_is_the_run_s(consolidated, tmp_path):
    assert weights(consolidated / "model") != weights(consolidated / "checkpoints" / "step-2")
    assert run_cli("export", consolidated, "--to", tmp_path / "out").code == 0
    assert weights(tmp_path / "out") == weights(consolidated / "model")


def test_only_answers_that_passed_after_the_bare_question_are_learnt(consolidated):
    found, searched = lines(consolidated / "found.jsonl"), lines(consolidated / "searched.jsonl")
    retries = [each for each in found if each["at"] == "retry"]
    assert len(retries) == sum(line["passed"] for line in searched) > 0
    assert len(found) - len(retries) == sum(line["solved"] for line in searched)
    for each in retries:
        assert len(each["context_ids"]) > len(each["prompt_ids"])
    assert sum(line["problems"] for line in searched) == 16
    assert all(line["sampled"] for line in lines(consolidated / "consolidation.jsonl"))


def test_the_report_says_what_was_found(consolidated):
    page = " ".join(re.sub(r"<[^>]*>", " ", (consolidated / "report.html").read_text()).split())
    passed = sum(line["passed"] for line in lines(consolidated / "searched.jsonl"))
    says = rf"of 16 problems the policy solved \d+ .* {passed} of \d+ retries passed"
    assert re.search(says, page)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        pytest.param("found.jsonl", 2, marks=pytest.mark.slow),
        ("searched.jsonl", 1),
        ("consolidation.jsonl", 1),
    ],
)
def test_a_run_killed_while_it_is_consolidated_ends_the_same(
    consolidated, tiny_llama, tmp_path, monkeypatch, name, after
):
    append = RecordLog.append

    def killed(log, record):
        if log.path.name == name and len(log) == after:
            raise KeyboardInterrupt
        return append(log, record)

    with monkeypatch.context() as patched:
        patched.setattr(RecordLog, "append", killed)
        run = consolidated_run(tmp_path, tiny_llama, code=130)
    assert not (run / "model").exists()
    assert end_state(consolidated_run(tmp_path, tiny_llama)) == end_state(consolidated)


def test_a_consolidated_model_that_is_lost_is_made_again(consolidated, tiny_llama, tmp_path):
    run = shutil.copytree(consolidated, tmp_path / "tiny")
    shutil.rmtree(run / "model")
    stages = json.loads((run / "stages.json").read_text())
    (run / "stages.json").write_text(json.dumps(stages[: stages.index("evaluate-after")]))
    (run / "evaluation" / "after.jsonl").unlink()
    assert end_state(consolidated_run(tmp_path, tiny_llama)) == end_state(consolidated)


def test_where_nothing_was_found_the_model_stays(tiny_llama, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mulligan.run.consolidate._search", lambda session, settings: [])
    run = consolidated_run(tmp_path, tiny_llama)
    assert weights(run / "model") == weights(run / "checkpoints" / "step-2")
    assert "there is nothing to consolidate" in caplog.text


def test_a_consolidated_run_has_no_more_steps(consolidated, tiny_llama, tmp_path):
    shutil.copytree(consolidated, tmp_path / "tiny")
    recipe = write_recipe(tmp_path, tiny_llama, **SETTINGS)
    outcome = run_cli("run", recipe, "train.steps=3", "--runs", tmp_path, "--resume")
    assert outcome.code == 1
    assert "it was consolidated after its last step" in " ".join(outcome.err.split())


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}])
@pytest.mark.parametrize("method", ["sft", "distill"])
def test_the_next_round_starts_from_the_consolidated_model(tiny_llama, tmp_path, method, lora):
    settings = SETTINGS["consolidate"] | {"method": method}
    run = consolidated_run(
        tmp_path,
        tiny_llama,
        rounds=2,
        consolidate=settings,
        lora=lora,
        evaluate__dev_problems=6,
    )
    for number in "12":
        assert (run / "rounds" / number / "model" / "config.json").is_file()
        assert lines(run / "rounds" / number / "consolidation.jsonl")
    alone = consolidated_run(
        tmp_path / "alone",
        tiny_llama,
        rounds=2,
        consolidate=None,
        lora=lora,
        evaluate__dev_problems=6,
    )
    first, second = (
        [(folder / "rounds" / n / "failures.jsonl").read_bytes() for folder in (run, alone)]
        for n in "12"
    )
    assert first[0] == first[1]
    assert second[0] != second[1]
