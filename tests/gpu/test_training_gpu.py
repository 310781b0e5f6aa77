"""What only a GPU can show of training and of the local engine; `make test-gpu` runs it."""

import pytest
import torch

from engine_models import attention_error
from memory_bench import NAMES, SETTINGS, planned_and_measured
from mulligan.engines.local.attention import _over_trunk_and_branch
from mulligan.engines.local.engine import LocalEngine
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy
from mulligan.objectives.objective import make_objective
from mulligan.trainer.update import make_updater
from mulligan.types import Sampling
from tiny import lines, run_cli, tiny_recipe, write_recipe

pytestmark = pytest.mark.gpu

PROMPT = tuple(range(40, 90))
ROWS = [tuple((7 * row + place) % 200 + 20 for place in range(9 + row)) for row in range(4)]


def first_step(folder, device, dtype):
    """Take one optimiser step on a device; return the update and the log-probs before it."""
    model, _ = load_model(str(folder), "float32", device)
    recipe = tiny_recipe(folder, dtype=dtype, device=device)
    updater = make_updater(FullPolicy(model), make_objective(recipe).loss, recipe)
    with torch.no_grad():
        logprobs_GR, _ = updater.scorer(PROMPT, ROWS, 0.9)
    update = updater.optimizer.step([lambda: -updater.scorer(PROMPT, ROWS, 0.9)[0].mean()])
    return update, logprobs_GR.cpu()


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-3), ("bfloat16", 3e-2)])
def test_a_training_step_on_a_gpu_is_the_cpus_but_for_rounding(tiny_llama, dtype, close):
    here, logprobs_here = first_step(tiny_llama, "cpu", "float32")
    there, logprobs_there = first_step(tiny_llama, "cuda", dtype)
    assert there.applied
    assert there.loss == pytest.approx(here.loss, rel=close)
    assert there.gradient_norm == pytest.approx(here.gradient_norm, rel=3 * close)
    torch.testing.assert_close(logprobs_there, logprobs_here, atol=10 * close, rtol=close)


def test_a_run_on_a_gpu_goes_on_where_it_was_stopped(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama, device="cuda", sft=None)
    assert run_cli("run", recipe, "--runs", tmp_path / "whole").code == 0
    assert run_cli("run", recipe, "train.stop_after=2", "--runs", tmp_path / "cut").code == 130
    assert run_cli("run", recipe, "--runs", tmp_path / "cut", "--resume").code == 0
    whole, cut = (lines(tmp_path / each / "tiny" / "metrics.jsonl") for each in ("whole", "cut"))
    assert [line["step"] for line in cut] == [1, 2, 3, 4]
    for one, other in zip(whole, cut, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-2, abs=1e-4)


@pytest.fixture(scope="module")
def smollm():
    return load_model("smollm2-135m", "float32", "cuda")


def test_the_engine_says_what_generate_says(smollm):
    model, tokenizer = smollm
    prompts = [
        tuple(tokenizer.encode(text))
        for text in ("The capital of France is", "2 + 2 =", "Once upon a time there was a")
    ]
    rows = LocalEngine(model, tokenizer).generate(prompts, 1, Sampling(0.0, 24))
    for prompt, [completion] in zip(prompts, rows, strict=True):
        ids = torch.tensor([prompt], device="cuda")
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
        assert completion.token_ids == tuple(output[0, len(prompt) :].tolist())


def test_samples_share_their_prompt_and_have_the_models_log_probs_in_half_precision(smollm):
    model, tokenizer = smollm
    prompt = tuple(tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 8))
    engine = LocalEngine(model, tokenizer, dtype=torch.bfloat16)
    [row] = engine.generate([prompt], 8, Sampling(0.9, 24, seed=3))
    for completion in row:
        ids = torch.tensor([[*prompt, *completion.token_ids]], device="cuda")
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1] / 0.9
        scored = torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        mean = (scored.cpu() - torch.tensor(completion.logprobs)).abs().mean()
        assert float(mean) < 0.03


@pytest.mark.timeout(600)
@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_the_plan_of_a_gpus_memory_is_within_15_percent_of_the_measured_peak(setting):
    planned, measured = planned_and_measured(setting | {"device": "cuda"})
    assert planned == pytest.approx(measured, rel=0.15)


def test_the_engines_attention_is_rounded_once_on_a_gpu():
    assert attention_error(_over_trunk_and_branch, "cuda") < 0.005
