"""Real vLLM on a CPU, in the environment that `make vllm` makes, with SmolLM2-135M."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from mulligan.config import override_recipe
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.engines.server import connect
from mulligan.engines.vllm.control import Control
from mulligan.engines.vllm.engine import ON_A_CPU
from mulligan.engines.vllm.process import VllmProcess
from mulligan.engines.vllm.weights import save_model
from mulligan.errors import MulliganError
from mulligan.models.load import load_model
from mulligan.types import Sampling
from tiny import lines, make_model_folder, run_cli, tiny_recipe, write_recipe

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM here: `make vllm` installs it"),
]

GREEDY = Sampling(0.0, 12)
TEXTS = (
    "The capital of France is",
    # More than a block of the prefix cache, so that stale keys and values would be used again.
    "The old keeper counted the boats as they came in. " * 30,
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("smollm2-135m", "float32", "cpu")[1]


def new_policy(changed_by=0.0):
    policy, _ = load_model("smollm2-135m", "float32", "cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * changed_by * parameter.std())
    return policy


def engine_for(policy, tokenizer, folder, *overrides):
    if not any(each.startswith("engine.url") for each in overrides):
        overrides = (f"engine.python={PYTHON}", *overrides)
    settings = override_recipe(
        tiny_recipe(),
        ["engine.kind=vllm", "engine.arguments=[--max-model-len, '1024']", *overrides],
        "it",
    )
    surroundings = Surroundings(policy, tokenizer, "float32", folder)
    return find_engine("vllm").make(settings.engine.model_dump(), surroundings)


def prompts(tokenizer):
    return [tuple(tokenizer.encode(text)) for text in TEXTS]


def generated(engine, tokenizer, sampling=GREEDY):
    return [row[0] for row in engine.generate(prompts(tokenizer), 1, sampling)]


def ids(completions):
    return [each.token_ids for each in completions]


def furthest(here, there):
    """The largest difference between two engines' log-probs of the same tokens."""
    return max(
        abs(a - b)
        for x, y in zip(here, there, strict=True)
        for a, b in zip(x.logprobs, y.logprobs, strict=True)
    )


def adapted(policy):
    """The policy with a LoRA adapter that changes what it says."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(3)
    return get_peft_model(policy, config)


@pytest.fixture(scope="module")
def running(tokenizer, tmp_path_factory):
    """A server with the model as it is, and what it says before it is given other weights."""
    engine = engine_for(new_policy(), tokenizer, tmp_path_factory.mktemp("running"))
    yield engine, generated(engine, tokenizer)
    engine.close()


@pytest.fixture(scope="module")
def fresh(tokenizer, tmp_path_factory):
    """What a fresh server says that was started with the changed weights."""
    folder = tmp_path_factory.mktemp("fresh")
    engine = engine_for(new_policy(0.03), tokenizer, folder)
    said = generated(engine, tokenizer)
    engine.close()
    return said


def test_pushed_weights_generate_as_a_fresh_server_with_them_does(running, fresh, tokenizer):
    engine, before = running
    engine.update_weights(new_policy(0.03), 1)
    after = generated(engine, tokenizer)
    assert ids(after) == ids(fresh)
    assert furthest(after, fresh) < 1e-4
    assert ids(after) != ids(before) or furthest(after, before) > 0.05
    engine.update_weights(new_policy(), 2)
    again = generated(engine, tokenizer)
    assert ids(again) == ids(before)
    assert furthest(again, before) < 1e-4


def test_without_the_reset_of_the_prefix_cache_stale_keys_and_values_are_used(
    running, fresh, tokenizer, monkeypatch
):
    engine, _ = running
    generated(engine, tokenizer)  # the cache now holds the old weights' keys and values
    with monkeypatch.context() as mutation:
        mutation.setattr(Control, "reset_prefix_cache", lambda self: None)
        engine.update_weights(new_policy(0.03), 3)
    stale = generated(engine, tokenizer)
    assert ids(stale) != ids(fresh) or furthest(stale, fresh) > 1e-3
    engine.reset_cache()
    clean = generated(engine, tokenizer)
    assert ids(clean) == ids(fresh)
    assert furthest(clean, fresh) < 1e-4


def test_log_probs_are_those_of_the_temperature_that_was_sampled_at(running, tokenizer):
    engine, _ = running
    policy = new_policy(0.03)
    engine.update_weights(policy, 4)
    for completion, prompt in zip(
        generated(engine, tokenizer, Sampling(0.5, 8, seed=5)), prompts(tokenizer), strict=True
    ):
        with torch.no_grad():
            logits_TV = policy(torch.tensor([[*prompt, *completion.token_ids]])).logits[0]
        scored_TV = torch.log_softmax(logits_TV / 0.5, -1)
        expected = [
            float(scored_TV[len(prompt) - 1 + place, token])
            for place, token in enumerate(completion.token_ids)
        ]
        assert completion.logprobs == pytest.approx(expected, abs=1e-3)


def test_a_wrong_model_and_an_absent_server_are_refused(running, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("mulligan.engines.http.time.sleep", lambda seconds: None)
    engine, _ = running
    url = f"engine.url={engine._process.root}/v1"
    with pytest.raises(MulliganError, match="does not serve 'another'"):
        engine_for(new_policy(), tokenizer, tmp_path, url, "engine.model=another")
    with pytest.raises(MulliganError, match="failed 5 times in a row, most recently: ConnectError"):
        engine_for(
            new_policy(),
            tokenizer,
            tmp_path,
            "engine.url=http://127.0.0.1:9/v1",
            "engine.model=policy",
        )


def test_a_server_that_is_too_slow_is_given_up(running, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("mulligan.engines.http.time.sleep", lambda seconds: None)
    engine, _ = running
    slow = connect(f"{engine._process.root}/v1", "policy", tokenizer)
    slow._client._http.timeout = 0.01
    with pytest.raises(MulliganError, match="most recently: ReadTimeout"):
        slow.generate(prompts(tokenizer), 1, Sampling(0.9, 200))


def test_more_requests_than_a_server_takes_at_once_wait_for_their_turn(running, tokenizer):
    engine, _ = running
    many = prompts(tokenizer)[:1] * 100
    groups = engine.generate(many, 3, Sampling(1.0, 4))
    assert [len(group) for group in groups] == [3] * 100


def test_adapters_generate_as_a_fresh_server_with_them_does(tokenizer, tmp_path):
    arguments = (
        "engine.arguments=[--max-model-len, '1024', --enable-lora, --max-lora-rank, '8']",
        "engine.weights=adapter",
    )
    policy = adapted(new_policy())
    engine = engine_for(new_policy(), tokenizer, tmp_path / "one", *arguments)
    try:
        engine.update_weights(policy, 1)
        first = generated(engine, tokenizer)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(-1)
        engine.update_weights(policy, 2)
        second = generated(engine, tokenizer)
    finally:
        engine.close()
    assert ids(first) != ids(second) or furthest(first, second) > 0.05
    fresh = engine_for(new_policy(), tokenizer, tmp_path / "two", *arguments)
    try:
        fresh.update_weights(policy, 1)
        expected = generated(fresh, tokenizer)
    finally:
        fresh.close()
    assert ids(second) == ids(expected)
    assert furthest(second, expected) < 1e-4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random model whose heads are of a size that vLLM's attention takes."""
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_key_value_heads": 4}
    return make_model_folder(tmp_path_factory.mktemp("small") / "model", **sizes)


def test_killed_in_a_rollout_killed_in_a_push_and_restarted_with_old_weights(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr("mulligan.engines.http.time.sleep", lambda seconds: None)
    policy, tokenizer = load_model(str(small), "float32", "cpu")
    save_model(policy, tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")

    def start():
        arguments = [*ON_A_CPU, "--max-model-len", "256"]
        process = VllmProcess(
            str(PYTHON), tmp_path / "start", "float32", tmp_path / "log", arguments
        )
        process.wait_until_ready(300)
        return process

    def kill(process):
        os.killpg(process.pid, signal.SIGKILL)

    server = start()
    url = (f"engine.url={server.root}/v1", "engine.model=policy")
    engine = engine_for(policy, tokenizer, tmp_path, *url)
    engine.generate([(1, 2)], 1, Sampling(0.0, 4))
    killer = threading.Timer(0.5, kill, [server])
    killer.start()
    with pytest.raises(MulliganError, match=r"--resume"):
        while True:
            engine.generate([(1, 2)] * 20, 8, Sampling(1.0, 200))
    with pytest.raises(MulliganError, match=r"failed at /collective_rpc.*--resume"):
        engine.update_weights(policy, 1)

    monkeypatch.setattr("mulligan.engines.vllm.process.free_port", lambda: server.port)
    again = start()
    engine.update_weights(policy, 1)
    engine.generate([(1, 2)], 1, Sampling(0.0, 4))
    kill(again)
    third = start()
    try:
        with pytest.raises(MulliganError, match=r"before this rollout, not .*restarted"):
            engine.generate([(1, 2)], 1, Sampling(0.0, 4))
        engine.generate([(1, 2)], 1, Sampling(0.0, 4))  # its weights are sent again
    finally:
        third.close()


def test_a_run_whose_server_dies_is_resumed_and_ends_its_own_servers(small, tmp_path):
    engine = {"kind": "vllm", "python": str(PYTHON), "arguments": ["--max-model-len", "512"]}
    recipe = write_recipe(tmp_path, small, engine=engine, sft=None)

    def killed_in_training():
        log = tmp_path / "tiny" / "metrics.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= 1):
            time.sleep(0.05)
        for pid in servers_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=killed_in_training, daemon=True).start()
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert "--resume" in outcome.err
    assert servers_of(os.getpid()) == []
    outcome = run_cli("run", recipe, "--runs", tmp_path, "--resume")
    assert outcome.code == 0, outcome.err
    metrics = lines(tmp_path / "tiny" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert all(line["logprob_mismatch"] < 1e-3 for line in metrics)
    assert servers_of(os.getpid()) == []
    config = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())
    assert config["engine"]["kind"] == "vllm"
    assert (tmp_path / "tiny" / "engine" / "vllm.log").stat().st_size > 0


def servers_of(parent):
    """Process ids of the vLLM servers that a process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status[1]) == parent and b"vllm" in command and status[0] != "Z":
                found.append(int(folder.name))
    return found
