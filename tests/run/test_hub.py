import json
import shutil

import pytest
import yaml

from mulligan.config import check_recipe
from mulligan.config.recipe import Lora
from mulligan.models.load import load_model
from mulligan.models.policies import LoraPolicy
from mulligan.run import hub
from mulligan.run.model_card import Base
from mulligan.run.session import recipe_of
from mulligan.storage.run_folder import RunFolder
from tiny import RECIPE, run_cli


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
    private = False
    uploaded: tuple = ()

    def repo_exists(self, name):
        return name in Api.taken

    def repo_info(self, name):
        return self

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
    told = [path for path in folder.iterdir() if path.suffix != ".safetensors"]
    assert {"README.md", "recipe.yaml", "config.json", "tokenizer_config.json"} <= names
    for place in (str(run.path.parent), "/tests/", recipe_of(run).model):
        assert not [path.name for path in told if place in path.read_text()]

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


def test_an_upload_that_should_be_private_never_goes_into_a_public_model(run, the_hub, monkeypatch):
    monkeypatch.setattr(Api, "taken", frozenset({"me/tiny"}))
    command = ("push", run.path, "--to", "me/tiny", "--yes", "--overwrite", "--private")

    refused = run_cli(*command)
    assert refused.code == 1
    assert "is public" in refused.err
    assert Api.uploaded == ()
    monkeypatch.setattr(Api, "private", True)
    assert run_cli(*command).code == 0


def test_a_shown_recipe_names_no_folder_of_this_machine_and_no_server(tmp_path):
    settings = RECIPE | {
        "model": "/home/me/models/base",
        "task": "mix",
        "task_options": {"parts": {"a": {"task": "~/secret/a.jsonl", "weight": 0.5}}},
        "collect": {"problems": 3, "store": str(tmp_path / "customer")},
        "train": RECIPE["train"] | {"reward": "/home/me/rewards.py:brief"},
    }
    engines = [
        {"kind": "server", "url": "http://10.1.2.3/v1", "model": "m", "api_key_env": "CLIENT_KEY"},
        {"kind": "vllm", "python": "/home/me/env/bin/python", "arguments": ["--api-key", "abc"]},
        {"kind": "theirs", "options": {"token": "abc"}},
    ]
    for engine in engines:
        shown = hub.shown_recipe(check_recipe(settings | {"engine": engine}, "test"))
        told = str(shown.model_dump())
        for private in ("/home", "secret", str(tmp_path), "10.1.2.3", "CLIENT_KEY", "abc"):
            assert private not in told
        assert shown.task_options["parts"]["a"] == {"task": "a.jsonl", "weight": 0.5}
        assert (shown.model, shown.collect.store) == ("base", "customer")
        assert shown.train.reward == "rewards.py:brief"
        assert shown.prompts == check_recipe(settings, "test").prompts


def test_the_licence_of_a_base_in_a_folder_is_that_of_its_own_card(run, the_hub, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    recipe = recipe_of(run).model_copy(update={"model": str(base)})

    hub.export(run, recipe, tmp_path / "out")

    data, body = card_of(tmp_path / "out")
    assert data["license"] == "mit"
    assert "base_model" not in data
    assert str(tmp_path) not in body


@pytest.fixture
def adapted(run, tmp_path, monkeypatch):
    """A run whose trained model is an adapter of its warmed-up model, and its recipe."""
    lora = {"rank": 2, "alpha": 4, "targets": "all-linear"}
    model, tokenizer = load_model(str(run.warmed_up))
    policy = LoraPolicy(model, **lora, base=str(run.warmed_up), seed=1)
    adapter = tmp_path / "adapter"
    policy.save(adapter, policy.tensors())
    tokenizer.save_pretrained(adapter)
    monkeypatch.setattr(hub, "trained_model", lambda run, recipe: adapter)
    return recipe_of(run).model_copy(update={"lora": Lora(**lora)})


def test_an_adapter_is_merged_where_nobody_else_has_its_base(run, adapted, the_hub, tmp_path):
    hub.export(run, adapted, tmp_path / "out")

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names
    assert "adapter_config.json" not in names
    assert card_of(tmp_path / "out")[0]["library_name"] == "transformers"


def test_an_adapter_of_a_base_on_the_hub_goes_alone_and_names_it(
    run, adapted, the_hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub, "base_of", lambda model: Base(model, "mit"))

    hub.export(run, adapted.model_copy(update={"model": "me/base", "sft": None}), tmp_path / "out")

    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base"
    data, _ = card_of(tmp_path / "out")
    assert (data["base_model"], data["library_name"]) == ("me/base", "peft")


def test_failures_that_were_never_stored_are_named(run, the_hub):
    run.failures.unlink()

    refused = run_cli("push", run.path, "--to", "me/tiny", "--dry-run", "--with-failures")

    assert refused.code == 1
    assert "has stored no failures" in refused.err


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

    with pytest.raises(MulliganError, match="exists already"):
        hub.export(run, recipe_of(run), tmp_path)
