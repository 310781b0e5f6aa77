import threading
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, get_peft_model
from weight_server import WeightServer

from mulligan.config import override_recipe
from mulligan.engines.http import Client
from mulligan.engines.local.engine import LocalEngine
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.engines.vllm.control import Control
from mulligan.engines.vllm.weights import AdapterPush, FolderPush, save_model
from mulligan.errors import MulliganError
from mulligan.models.load import load_model
from mulligan.types import Sampling
from tiny import tiny_recipe

GREEDY = Sampling(0.0, 3)
PROMPTS = [(1, 2, 3), (40, 41)]


@contextmanager
def serving(folder, **settings):
    server = WeightServer(folder, **settings)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped = True
        server.shutdown()
        server.server_close()


@pytest.fixture
def policy_and_tokenizer(tiny_llama):
    return load_model(str(tiny_llama), "float32", "cpu")


def reach(server, policy_and_tokenizer, folder, model="tiny", *more):
    overrides = ["engine.kind=vllm", f"engine.url={server.url}", f"engine.model={model}"]
    settings = override_recipe(
        tiny_recipe(), [*overrides, "engine.timeout_seconds=20", *more], "it"
    )
    policy, tokenizer = policy_and_tokenizer
    surroundings = Surroundings(policy, tokenizer, "float32", folder)
    return find_engine("vllm").make(settings.engine.model_dump(), surroundings)


def perturb(policy, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * 0.3 * parameter.std())


def tokens(groups):
    return [row[0].token_ids for row in groups]


def test_each_version_generates_with_its_own_weights(tiny_llama, policy_and_tokenizer, tmp_path):
    policy, tokenizer = policy_and_tokenizer
    seen = []
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        for version in range(2):
            if version:
                perturb(policy, version)
                engine.update_weights(policy, version)
            there = engine.generate(PROMPTS, 1, GREEDY)
            here = LocalEngine(policy, tokenizer).generate(PROMPTS, 1, GREEDY)
            assert tokens(there) == tokens(here)
            for row, other in zip(there, here, strict=True):
                assert row[0].logprobs == pytest.approx(other[0].logprobs, abs=1e-5)
            assert engine.policy_version == version
            seen.append(there)
        assert server.resets == 2
    assert seen[0] != seen[1]
    assert len(list((tmp_path / "weights").iterdir())) == 1, "older versions are removed"
    engine.close()
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_completion_ends_at_every_token_that_ends_a_turn(
    tiny_llama, policy_and_tokenizer, tmp_path
):
    policy, tokenizer = policy_and_tokenizer
    [[unstopped], _] = LocalEngine(policy, tokenizer).generate(PROMPTS, 1, GREEDY)
    policy.generation_config.eos_token_id = [tokenizer.eos_token_id, unstopped.token_ids[0]]
    with serving(tiny_llama) as server:
        there = reach(server, policy_and_tokenizer, tmp_path).generate(PROMPTS, 1, GREEDY)
    here = LocalEngine(policy, tokenizer).generate(PROMPTS, 1, GREEDY)
    assert tokens(there) == tokens(here)
    assert there[0][0].token_ids == unstopped.token_ids[:1]
    assert there[0][0].finish_reason == "stop"


def test_stale_weights_are_found_out_at_the_first_push_to_a_server_that_the_run_started(
    tiny_llama, policy_and_tokenizer, tmp_path
):
    policy, _ = policy_and_tokenizer
    save_model(policy, tmp_path / "start")
    with serving(tiny_llama) as server:
        push = FolderPush(control_of(server), tmp_path, "tiny", tmp_path / "start")
        perturb(policy)
        server.wrong = "stale"
        with pytest.raises(MulliganError, match="still holds the weights from before"):
            push.send(policy, "1")


def test_a_server_that_the_run_started_needs_no_adapter_before_there_is_one(
    tiny_llama, policy_and_tokenizer, tmp_path
):
    policy, _ = policy_and_tokenizer
    with serving(tiny_llama) as server:
        push = AdapterPush(control_of(server), tmp_path, "tiny", policy)
        assert push.send(policy, "0") == "tiny"
        assert server.requests == []
        get_peft_model(policy, LoraConfig(r=4, target_modules="all-linear"))
        assert push.send(policy, "1") == "1"
        with pytest.raises(MulliganError, match=r"this model has none.*engine\.python"):
            push.send(policy_without_adapter(tiny_llama), "2")
        push.close()
        assert list(tmp_path.iterdir()) == []


def control_of(server):
    return Control(Client(server.url.removesuffix("/v1")))


def test_each_version_generates_with_its_own_adapter(tiny_llama, policy_and_tokenizer, tmp_path):
    policy, tokenizer = policy_and_tokenizer
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(policy, config)
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path, "tiny", "engine.weights=adapter")
        for version in (1, 2):
            perturb_adapter(adapted, factor=-version)
            engine.update_weights(policy, version)  # the adapters are in the model itself
            there = engine.generate(PROMPTS, 1, GREEDY)
            here = LocalEngine(policy, tokenizer).generate(PROMPTS, 1, GREEDY)
            assert tokens(there) == tokens(here)
            for row, other in zip(there, here, strict=True):
                assert row[0].logprobs == pytest.approx(other[0].logprobs, abs=1e-5)
            assert list(server.adapters) == [
                folder.name for folder in (tmp_path / "weights").iterdir()
            ]
        assert server.resets == 0, "an adapter's name is part of the cache's key"
        with pytest.raises(MulliganError, match="this model has none"):
            engine.update_weights(policy_without_adapter(tiny_llama), 3)


def test_a_policy_with_an_adapter_travels_as_a_folder_with_the_adapter_merged_in(
    tiny_llama, policy_and_tokenizer, tmp_path
):
    policy, tokenizer = policy_and_tokenizer
    torch.manual_seed(3)
    get_peft_model(policy, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        there = engine.generate(PROMPTS, 1, GREEDY)
    here = LocalEngine(policy, tokenizer).generate(PROMPTS, 1, GREEDY)
    assert tokens(there) == tokens(here)
    assert tokens(there) != tokens(
        LocalEngine(policy_without_adapter(tiny_llama), tokenizer).generate(PROMPTS, 1, GREEDY)
    )


def perturb_adapter(adapted, factor):
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(factor)


def policy_without_adapter(folder):
    return load_model(str(folder), "float32", "cpu")[0]


def test_its_log_probs_are_not_the_trainers(tiny_llama, policy_and_tokenizer, tmp_path):
    with serving(tiny_llama) as server:
        abilities = reach(server, policy_and_tokenizer, tmp_path).abilities
    assert (abilities.weights, abilities.token_ids, abilities.exact) == (True, True, False)


def test_its_context_is_what_the_server_says(tiny_llama, policy_and_tokenizer, tmp_path):
    with serving(tiny_llama, context=48) as server:
        assert reach(server, policy_and_tokenizer, tmp_path).context == 48


def test_a_server_that_was_restarted_with_old_weights_is_found_out_before_it_generates(
    tiny_llama, policy_and_tokenizer, tmp_path
):
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        engine.generate(PROMPTS, 1, GREEDY)
        server.version = "default"
        asked = len(server.requests)
        with pytest.raises(MulliganError, match=r"'default' before this rollout.*--resume"):
            engine.generate(PROMPTS, 1, GREEDY)
        paths = [path for path, _ in server.requests[asked:]]
        assert paths == ["/weight_info"]
        engine.generate(PROMPTS, 1, GREEDY)  # it is given its weights again
        assert server.version != "default"


def test_weights_that_change_during_a_rollout_spoil_it(tiny_llama, policy_and_tokenizer, tmp_path):
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        engine.generate(PROMPTS, 1, GREEDY)
        complete = server.complete

        def restarted(request):
            server.version = "default"
            return complete(request)

        server.complete = restarted
        with pytest.raises(MulliganError, match="'default' after this rollout"):
            engine.generate(PROMPTS, 1, GREEDY)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("stale", "still holds the weights from before"),
        ("stale head", r"nats per token differently from the policy.*kept a part of the old"),
        ("busy", "prefix cache is in use by other requests"),
        ("/collective_rpc", r"failed at /collective_rpc: status 500, EngineCore"),
        ("/update_weight_version", r"failed at /update_weight_version"),
    ],
)
def test_a_push_that_goes_wrong_is_an_error_and_no_step_is_taken_on_what_is_left(
    tiny_llama, policy_and_tokenizer, tmp_path, monkeypatch, wrong, said
):
    monkeypatch.setattr("mulligan.engines.http.time.sleep", lambda seconds: None)
    policy, _ = policy_and_tokenizer
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        engine.generate(PROMPTS, 1, GREEDY)
        perturb(policy)
        server.wrong = wrong
        with pytest.raises(MulliganError, match=said):
            engine.update_weights(policy, 1)
        with pytest.raises(MulliganError, match=said):
            engine.generate(PROMPTS, 1, GREEDY)
        server.wrong = ""
        engine.generate(PROMPTS, 1, GREEDY)
        assert engine.policy_version == 1


def test_a_server_that_is_killed_in_a_push_is_named(tiny_llama, policy_and_tokenizer, tmp_path):
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
    with pytest.raises(MulliganError, match=r"failed at /collective_rpc: .*continue with --resume"):
        engine.update_weights(policy_and_tokenizer[0], 1)


def test_a_server_that_is_killed_in_a_rollout_is_named(
    tiny_llama, policy_and_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("mulligan.engines.http.time.sleep", lambda seconds: None)
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        engine.generate(PROMPTS, 1, GREEDY)
        server.complete = lambda request: 1 / 0  # its worker dies, the connection breaks
        server.handle_error = lambda *_: None
        with pytest.raises(MulliganError, match=r"failed 5 times in a row.*--resume"):
            engine.generate(PROMPTS, 1, GREEDY)


def test_a_server_that_is_full_is_asked_again(
    tiny_llama, policy_and_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("mulligan.engines.http.time.sleep", lambda seconds: None)
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        engine.generate(PROMPTS, 1, GREEDY)
        reply, refused = server.reply, []

        def full(path, request):
            if path == "/v1/completions" and len(refused) < 3:
                refused.append(path)
                return 503, {"error": {"message": "too many requests are waiting"}}
            return reply(path, request)

        server.reply = full
        assert len(engine.generate(PROMPTS, 1, GREEDY)) == 2
    assert len(refused) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"logprobs": "raw"}, "start it with --logprobs-mode processed_logprobs"),
        ({"logprobs": None}, "gives no log-probabilities"),
        ({"ids": False}, "returns no token ids"),
        ({"name": "other"}, "does not serve 'tiny'"),
        ({"wrong": "/weight_info"}, "failed at /weight_info"),
    ],
)
def test_a_server_that_training_cannot_use_is_refused_at_once(
    tiny_llama, policy_and_tokenizer, tmp_path, settings, said
):
    with serving(tiny_llama, **settings) as server, pytest.raises(MulliganError, match=said):
        reach(server, policy_and_tokenizer, tmp_path)


def test_a_policy_that_is_no_transformers_model_is_refused(
    tiny_llama, policy_and_tokenizer, tmp_path
):
    with serving(tiny_llama) as server:
        engine = reach(server, policy_and_tokenizer, tmp_path)
        with pytest.raises(MulliganError, match=r"Use engine\.kind=local"):
            engine.update_weights(torch.nn.Linear(2, 2), 1)


@pytest.mark.parametrize(
    "overrides", [[], ["engine.url=http://x/v1"], ["engine.python=p", "engine.url=http://x/v1"]]
)
def test_a_recipe_either_reaches_a_server_or_starts_one(overrides):
    with pytest.raises(MulliganError, match="give either `python`"):
        override_recipe(tiny_recipe(), ["engine.kind=vllm", *overrides], "it")
