import json
import shutil

import pytest
import yaml

from mulligan.run import hub
from mulligan.storage.run_folder import RunFolder
from tiny import run_cli


@pytest.fixture
def run(tiny_run, tmp_path):
    return RunFolder(shutil.copytree(tiny_run, tmp_path / "tiny"))


def card_of(folder):
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


class Api:
    """Stands for the Hub: nothing leaves this machine."""

    endpoint = "https://hub.example"
    taken: frozenset[str] = frozenset()
    uploaded: tuple = ()

    def repo_exists(self, name):
        return name in Api.taken

    def create_repo(self, name, private, exist_ok):
        Api.uploaded = (name, private)

    def upload_folder(self, repo_id, folder_path, commit_message):
        Api.uploaded = (*Api.uploaded, sorted(p.name for p in folder_path.iterdir()))


@pytest.fixture
def the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.ModelCard.validate", lambda self: None)
    monkeypatch.setattr(Api, "taken", frozenset())
    monkeypatch.setattr(Api, "uploaded", ())


def test_a_dry_run_writes_a_folder_that_transformers_loads_and_uploads_nothing(run, the_hub):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    outcome = run_cli("push", run.path, "--to", "me/tiny", "--dry-run")

    assert outcome.code == 0, outcome.err
    folder = run.path / "hub"
    assert Api.uploaded == ()
    assert "model.safetensors" in outcome.out
    AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert json.loads((folder / "results.json").read_text())["cells"]


def test_neither_failures_nor_optimizer_nor_paths_of_this_machine_go_along(run, the_hub):
    run_cli("push", run.path, "--to", "me/tiny", "--dry-run")

    folder = run.path / "hub"
    names = {path.name for path in folder.iterdir()}
    assert not {"failures.jsonl", "episodes.jsonl"} & names
    assert not [name for name in names if "training_state" in name or "manifest" in name]
    told = (folder / "README.md").read_text() + (folder / "recipe.yaml").read_text()
    assert str(run.path.parent) not in told
    assert "/tests/" not in told

    run_cli("push", run.path, "--to", "me/tiny", "--dry-run", "--with-failures")
    assert (folder / "failures.jsonl").read_bytes() == run.failures.read_bytes()


def test_the_card_has_metadata_that_the_hubs_own_classes_read_and_the_measured_table(run, the_hub):
    from huggingface_hub import ModelCard

    run_cli("push", run.path, "--to", "me/tiny", "--dry-run")

    data, body = card_of(run.path / "hub")
    assert data["pipeline_tag"] == "text-generation"
    assert data["license"] == "unknown"
    assert data["widget"][0]["messages"][0]["role"] == "user"
    assert "look it up before use" in body
    assert "| First try |" in body
    assert "What reflection adds" in body
    card = ModelCard.load(run.path / "hub" / "README.md")
    [result] = card.data.eval_results
    cells = json.loads((run.path / "hub" / "results.json").read_text())["cells"]
    [cell] = [c for c in cells if (c["column"], c["when"]) == ("after_reflection", "after")]
    assert result.metric_value == pytest.approx(cell["passed"] / cell["n"], abs=1e-4)


def test_the_files_are_listed_and_uploaded(run, the_hub):
    outcome = run_cli("push", run.path, "--to", "me/tiny", "--private", "--yes")

    assert outcome.code == 0, outcome.err
    name, private, files = Api.uploaded
    assert (name, private) == ("me/tiny", True)
    assert "https://hub.example/me/tiny" in outcome.out
    assert all(file in outcome.out for file in files)


def test_a_name_that_exists_is_refused_without_the_flag(run, the_hub, monkeypatch):
    monkeypatch.setattr(Api, "taken", frozenset({"me/tiny"}))

    refused = run_cli("push", run.path, "--to", "me/tiny", "--yes")
    assert refused.code == 1
    assert "exists on the Hub" in refused.err
    assert Api.uploaded == ()
    assert run_cli("push", run.path, "--to", "me/tiny", "--yes", "--overwrite").code == 0


def test_a_run_in_training_a_bad_name_and_no_network_are_named(run, the_hub, monkeypatch):
    assert "should be of the form USER/NAME" in run_cli("push", run.path, "--to", "tiny").err
    assert "is not a valid name" in run_cli("push", run.path, "--to", "a b/c").err

    def refuse(self, name):
        raise ConnectionError("no route")

    monkeypatch.setattr(Api, "repo_exists", refuse)
    assert "no route" in run_cli("push", run.path, "--to", "me/tiny", "--yes").err
    run.stages.write_text('["warmup", "collect"]')
    assert "still in training" in run_cli("push", run.path, "--to", "me/tiny").err


def test_an_existing_folder_is_left_alone(run, tmp_path):
    from mulligan.errors import MulliganError
    from mulligan.run.session import recipe_of

    with pytest.raises(MulliganError, match="exists already"):
        hub.export(run, recipe_of(run), tmp_path)
