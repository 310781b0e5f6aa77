import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from mulligan.engines.local.inference_copy import InferenceCopy
from mulligan.errors import MulliganError
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy, LoraPolicy
from mulligan.models.weights import effective_weights
from mulligan.run.plan import make_plan
from tiny import make_model_folder, tiny_recipe

IDS = torch.tensor([[5, 6, 7, 8, 9]])
PROMPT, COMPLETIONS = (5, 6, 7), [(8, 9, 10), (11,)]


def lora(folder, **changes):
    model, tokenizer = load_model(str(folder), "float32", "cpu")
    settings = {"rank": 4, "alpha": 8, "targets": "all-linear", "base": str(folder), "seed": 1}
    return LoraPolicy(model, **settings | changes), tokenizer


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def trained(policy, steps=3):
    """Take some optimiser steps on the log-probs of a group."""
    parameters = [each for each in policy.model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    scorer = GroupScorer(policy.model)
    for _ in range(steps):
        (-scorer(PROMPT, COMPLETIONS)[0].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy


def test_an_adapter_starts_as_nothing_and_switched_off_is_the_base_bit_for_bit(tiny_llama):
    base, _ = load_model(str(tiny_llama), "float32", "cpu")
    policy, _ = lora(tiny_llama)
    assert torch.equal(logits(policy.model), logits(base))
    trained(policy)
    assert not torch.equal(logits(policy.model), logits(base))
    with policy.as_reference():
        assert torch.equal(logits(policy.reference(torch.float32)), logits(base))
    assert not torch.equal(logits(policy.model), logits(base))


def test_the_reference_of_an_adapter_is_no_copy(tiny_llama):
    policy, _ = lora(tiny_llama)
    assert policy.reference(torch.bfloat16) is policy.model


def test_the_reference_of_all_weights_is_a_frozen_copy_in_the_type_asked_for(tiny_llama):
    model, _ = load_model(str(tiny_llama), "float32", "cpu")
    policy = FullPolicy(model)
    before = logits(model)
    reference = policy.reference(torch.bfloat16)
    trained(policy)
    assert {each.dtype for each in reference.parameters()} == {torch.bfloat16}
    assert not any(each.requires_grad for each in reference.parameters())
    assert (
        (logits(reference).float() - before).abs().max()
        < 0.1
        < (logits(model) - before).abs().max()
    )


def test_only_the_adapter_gets_gradients(tiny_llama):
    policy, _ = lora(tiny_llama)
    GroupScorer(policy.model)(PROMPT, COMPLETIONS)[0].sum().backward()
    with_gradient = {name for name, p in policy.model.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, _ in policy.model.named_parameters() if ".lora_" in n}
    assert len(with_gradient) == 2 * 2 * 7  # A and B, two layers, seven linear layers each


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_the_shared_path_are_those_of_the_models_own_logits(tiny_llama, checkpointing):
    found = {}
    for path in ("shared", "model"):
        policy, _ = lora(tiny_llama)
        trained(policy, steps=1)  # so that B is no longer zero
        if checkpointing:
            policy.model.train().gradient_checkpointing_enable({"use_reentrant": False})
        from mulligan.logprobs.shared_prompt import PATHS

        PATHS[path](policy.model, PROMPT, COMPLETIONS)[0].sum().backward()
        found[path] = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    assert found["shared"].keys() == found["model"].keys()
    for name, gradient in found["shared"].items():
        assert torch.allclose(gradient, found["model"][name], atol=1e-5), name


def test_a_group_without_tokens_has_a_gradient_of_zero(tiny_llama):
    policy, _ = lora(tiny_llama)
    GroupScorer(policy.model)(PROMPT, [()])[0].sum().backward()


def save(policy, folder):
    policy.save(folder, policy.tensors())


def test_a_checkpoint_holds_the_adapter_alone_and_loads_in_plain_peft(tiny_llama, tmp_path):
    policy = trained(lora(tiny_llama)[0])
    save(policy, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    base, _ = load_model(str(tiny_llama), "float32", "cpu")
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path)), logits(policy.model))


def test_an_adapter_is_restored_bit_for_bit(tiny_llama, tmp_path):
    policy = trained(lora(tiny_llama)[0])
    save(policy, tmp_path)
    fresh, _ = lora(tiny_llama, seed=2)
    fresh.load(tmp_path)
    assert torch.equal(logits(fresh.model), logits(policy.model))


def test_an_adapter_of_another_shape_is_refused(tiny_llama, tmp_path):
    save(lora(tiny_llama, rank=2)[0], tmp_path)
    with pytest.raises(ValueError, match="has shape"):
        lora(tiny_llama, rank=4)[0].load(tmp_path)


def test_a_folder_with_an_adapter_is_loaded_as_its_base_with_the_adapter_merged(
    tiny_llama, tmp_path
):
    policy = trained(lora(tiny_llama)[0])
    save(policy, tmp_path)
    merged, tokenizer = load_model(str(tmp_path), "float32", "cpu")
    assert tokenizer.chat_template
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert torch.allclose(logits(merged), logits(policy.model), atol=1e-5)


@pytest.mark.parametrize("changes", [{"hidden_size": 16}, {"num_hidden_layers": 1}])
def test_an_adapter_for_another_base_is_refused(tiny_llama, tmp_path, changes):
    save(lora(tiny_llama)[0], tmp_path / "adapter")
    other = make_model_folder(tmp_path / "other", **changes)
    with pytest.raises(MulliganError, match=r"does not fit model .* Use the base"):
        load_model(str(tmp_path / "adapter"), "float32", "cpu", base=str(other))


def test_an_adapter_is_no_model_to_start_from(tiny_llama, tiny_tokenizer, tmp_path):
    save(lora(tiny_llama)[0], tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(MulliganError, match=r"a whole model is needed here.*--merge"):
        load_model(str(tmp_path), "float32", "cpu", base=str(tmp_path))
    with pytest.raises(MulliganError, match="a whole model is needed here"):
        make_plan(tiny_recipe(tmp_path))


def test_an_adapter_that_names_no_base_is_refused(tiny_llama, tmp_path):
    save(lora(tiny_llama)[0], tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None})
    )
    with pytest.raises(MulliganError, match="does not name the adapter's base"):
        load_model(str(tmp_path), "float32", "cpu")


def test_an_engine_of_its_own_weights_follows_the_merged_ones(tiny_llama):
    model, _ = load_model(str(tiny_llama), "float32", "cpu")
    copy = InferenceCopy(model, torch.float64)
    policy = LoraPolicy(model, rank=4, alpha=8, targets="all-linear", base=str(tiny_llama), seed=1)
    trained(policy)
    copy.update_weights(policy.model)
    assert (logits(copy.model) - logits(policy.model)).abs().max() < 1e-5
    names = {name for name, _ in copy.model.named_parameters(remove_duplicate=False)}
    assert effective_weights(policy.model).keys() == names


def test_a_finished_policy_stands_alone(tiny_llama, tmp_path):
    policy = trained(lora(tiny_llama)[0])
    expected = logits(policy.model)
    policy.finished().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink(missing_ok=True)
    from transformers import AutoModelForCausalLM

    assert torch.allclose(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, atol=1e-5
    )


def test_layers_that_are_not_there_are_refused(tiny_llama):
    with pytest.raises(MulliganError, match=r"No adapter can be put .*lora.targets"):
        lora(tiny_llama, targets=("nothing",))


def test_the_same_seed_makes_the_same_adapter_and_leaves_other_draws_alone(tiny_llama):
    torch.manual_seed(3)
    one, _ = lora(tiny_llama)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == drawn
    two, _ = lora(tiny_llama)
    weights = [dict(each.model.named_parameters()) for each in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
