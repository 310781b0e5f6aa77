import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny import run_cli, write_recipe

LORA = {"rank": 2, "alpha": 4, "targets": "all-linear"}


@pytest.fixture(scope="module")
def lora_run(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    recipe = write_recipe(folder, tiny_llama, sft=None, warmup=None, lora=LORA)
    outcome = run_cli("run", recipe, "--runs", folder)
    assert outcome.code == 0, outcome.err
    return folder / "tiny"


def test_a_whole_run_with_an_adapter_keeps_the_adapter_alone(lora_run):
    names = {file.name for file in (lora_run / "checkpoints" / "step-4").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names


@pytest.mark.parametrize("settings", [(), ("train.kl_beta=0.1",)])
def test_a_run_with_an_adapter_that_was_stopped_ends_in_the_same_bits(
    tiny_llama, tmp_path, settings
):
    recipe = write_recipe(tmp_path, tiny_llama, sft=None, warmup=None, lora=LORA)
    whole = run_cli("run", recipe, "name=whole", *settings, "--runs", tmp_path)
    assert whole.code == 0, whole.err
    run_cli("run", recipe, "name=cut", "train.stop_after=2", *settings, "--runs", tmp_path)
    cut = run_cli("run", recipe, "name=cut", *settings, "--runs", tmp_path, "--resume")
    assert cut.code == 0, cut.err
    for file in ("checkpoints/step-4/adapter_model.safetensors", "metrics.jsonl", "episodes.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_merged_model_loads_in_transformers_and_is_base_and_adapter(lora_run, tmp_path):
    merged_to, adapter_to = tmp_path / "merged", tmp_path / "adapter"
    assert run_cli("export", lora_run, "--to", merged_to, "--merge").code == 0
    assert run_cli("export", lora_run, "--to", adapter_to).code == 0
    assert AutoTokenizer.from_pretrained(merged_to).chat_template
    merged = AutoModelForCausalLM.from_pretrained(merged_to)
    adapted = AutoPeftModelForCausalLM.from_pretrained(adapter_to)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-5)
    assert not (adapter_to / "training_state.safetensors").exists()


def test_a_model_trained_whole_is_exported_in_the_type_asked_for(tiny_run, tmp_path):
    outcome = run_cli("export", tiny_run, "--to", tmp_path / "out", "--dtype", "bf16")
    assert "checkpoints/step-4" in outcome.out.replace("\n", "")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "."], "exists already"),
        (["--to", "new", "--dtype", "int8"], "float32 or bf16"),
    ],
)
def test_what_cannot_be_exported_is_said(tiny_run, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_cli("export", tiny_run, *options)
    assert outcome.code == 1
    assert says in outcome.err


def test_an_adapter_is_not_converted_without_being_merged(lora_run, tmp_path):
    outcome = run_cli("export", lora_run, "--to", tmp_path / "out", "--dtype", "bf16")
    assert outcome.code == 1
    assert "--merge" in outcome.err


def test_a_run_that_has_not_trained_has_nothing_to_export(tiny_run, tmp_path):
    copied = shutil.copytree(tiny_run, tmp_path / "copied")
    shutil.rmtree(copied / "checkpoints")
    outcome = run_cli("export", copied, "--to", tmp_path / "out")
    assert outcome.code == 1
    assert "no trained model yet" in outcome.err
