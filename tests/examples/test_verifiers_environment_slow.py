"""The environment in a real release of verifiers, as prime-rl drives it; a script plays vLLM."""

import asyncio
import json
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.interrupt import StopRequest
from mulligan.run.session import open_session
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Attempt, Completion, Failure, Problem, Sampling, Verdict
from tiny import said, tiny_recipe

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "verifiers_environment"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = PROJECT["optional-dependencies"]["dev-slow"]


def is_pinned_release():
    try:
        return f"verifiers=={version('verifiers')}" in PINNED
    except PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not is_pinned_release(), reason="needs verifiers 0.4.0: pip install 'mulligan[dev-slow]'"
    ),
]

RETRIES = ["yes", "no", "crash", "refused", "yes"]
"""What becomes of the retry after each of a failure's reflections."""
CALL = '<tool_call>\n{"name": "book", "arguments": {"room": "maple"}}\n</tool_call>'
TASK = f"""
import os
from mulligan.tasks.base import Task
from mulligan.types import Verdict

class Scripted(Task):
    name = "scripted"

    def problems(self, split):
        yield from ()

    def verify(self, problem, answer):
        if answer == "crash":
            os._exit(1)  # as a verifier that was killed for its memory
        return Verdict.right() if answer in ("yes", {CALL!r}) else Verdict.wrong()
"""
REQUEST = "Wrong. Why?"
TOOL = {"name": "book", "parameters": {"type": "object", "properties": {}}}


class ScriptedVllm:
    """Answers what vLLM answers: tokens for tokens, or a chat message for messages."""

    def __init__(self, tokenizer):
        self.asked = []
        self._numbers = count()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, {"data": [{"id": "policy", "max_model_len": 512}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.asked.append(body)
                answer = engine.chat if "messages" in body else engine.tokens
                self.reply(*answer(body, tokenizer))

            def reply(self, status, value):
                written = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def tokens(self, body, tokenizer):
        prompt = tokenizer.decode(body["token_ids"])
        if prompt.endswith(f"{REQUEST}<|im_end|>\n<|im_start|>assistant\n"):
            text = f"r{next(self._numbers) % len(RETRIES)}"
        else:
            [number] = [n for n in range(len(RETRIES)) if f"\nr{n}<|im_end|>" in prompt]
            text = RETRIES[number]
            if text == "refused":
                return 400, {"error": {"message": "no"}}
        ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
        content = [{"token": f"token_id:{each}", "logprob": -0.5} for each in ids]
        choice = {"token_ids": ids, "finish_reason": "stop", "logprobs": {"content": content}}
        return 200, {"choices": [choice]}

    def chat(self, body, tokenizer):
        del tokenizer
        message = {"role": "assistant", "content": "I forgot the room."}
        if body["messages"][-1]["content"] != REQUEST:
            call = {"name": "book", "arguments": '{"room": "maple"}'}
            calls = [{"id": "1", "type": "function", "function": call}]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "policy"}
        return 200, {**reply, "choices": [choice], "usage": usage}


@pytest.fixture(scope="module")
def vllm(tiny_tokenizer):
    engine = ScriptedVllm(tiny_tokenizer)
    yield engine
    engine.server.shutdown()
    engine.server.server_close()


@pytest.fixture(scope="module")
def policy(tiny_tokenizer, tmp_path_factory):
    """What a client needs of a model: its tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("policy")
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def make_run(policy, tmp_path_factory):
    """Makes a run folder with some failures of a task that runs in worker processes."""

    def make(stored):
        folder = tmp_path_factory.mktemp("run")
        (folder / "scripted.py").write_text(TASK)
        recipe = tiny_recipe(policy, task=str(folder / "scripted.py"))
        run = RunFolder(folder / "tiny")
        with open_session(recipe, run, Console(), StopRequest()):
            pass
        with FailureStore(run.failures) as store:
            for each in stored:
                store.append(each)
        return run

    return make


@pytest.fixture(scope="module")
def stored(tiny_tokenizer):
    return [failure(f"question {n}", said(tiny_tokenizer, "a")) for n in range(2)]


def failure(words, answer, **more):
    problem = Problem.create(words, {}, **more)
    tried = Attempt(problem, (1,), answer, Verdict.wrong())
    return Failure(problem.id, tried, "tiny", Sampling(0.9, 5))


@pytest.fixture(scope="module")
def episodes(make_run, stored, vllm, policy):
    """Five episodes of each of two failures, as prime-rl's orchestrator gets them."""
    from verifiers import v1 as vf

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        client = vf.TrainClientConfig(base_url=vllm.url, renderer_model_name=policy)
        return asyncio.run(served(make_run(stored), client, len(RETRIES)))


async def served(run, client, group_size):
    """Run episodes on verifiers' server: tasks go to it, and episodes come back, over its wire."""
    from verifiers import v1 as vf
    from verifiers.v1.serve import EnvClient
    from verifiers.v1.serve.server import EnvServer
    from verifiers.v1.utils.loaders import resolve_env_config

    source = tomllib.loads((EXAMPLE / "rl.toml").read_text())["orchestrator"]["train"]["source"]
    settings = source[0]["env"]
    settings["taskset"]["run"] = str(run.path)
    settings["retrier"]["sampling"]["max_completion_tokens"] = 7
    config = resolve_env_config(settings)
    server = EnvServer(config, "tcp://127.0.0.1:0")
    serving, asking = asyncio.create_task(server.run()), EnvClient(server.address)
    try:
        return [
            await asking.run(
                task_data=task.data.model_dump(mode="json"),
                client=client,
                model="policy",
                sampling=vf.SamplingConfig(temperature=0.9, max_completion_tokens=9),
            )
            for task in vf.load_taskset(config.taskset)
            for _ in range(group_size)
        ]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def trained(episode):
    """What prime-rl 0.8 trains on: sampled tokens of trainable traces, where the episode is whole.

    Its ``Env.run`` marks every trace of an episode that is not ok, ``iter_trainable_traces`` leaves
    out those that are marked or not trainable, and ``trace_to_samples`` takes a branch's mask.
    """
    return [
        (branch.token_ids, branch.sampled_mask, branch.logprobs, trace.reward)
        for trace in episode.traces
        if episode.ok and trace.ok and trace.agent.trainable
        for branch in trace.branches
        if any(branch.sampled_mask)
    ]


def prompts(stored, tokenizer):
    """Of each episode, the tokens that Mulligan's own trainer has before a reflection."""
    conversations = Conversations(tokenizer, REQUEST)
    for each in stored:
        tried = each.attempt
        prompt = conversations.reflection(tried.problem, tried.completion)
        yield from [list(prompt)] * len(RETRIES)


def test_the_reflections_tokens_would_be_trained_and_no_others(episodes, stored, tiny_tokenizer):
    numbers = [*range(len(RETRIES))] * len(stored)
    expected = []
    for number, prompt in zip(numbers, prompts(stored, tiny_tokenizer), strict=True):
        ids = [*tiny_tokenizer.encode(f"r{number}"), tiny_tokenizer.eos_token_id]
        mask = [False] * len(prompt) + [True] * len(ids)
        logprobs = [0.0] * len(prompt) + [-0.5] * len(ids)
        reward = float(RETRIES[number] == "yes")
        judged = RETRIES[number] in ("yes", "no")
        expected.append([([*prompt, *ids], mask, logprobs, reward)] if judged else [])
    assert [trained(episode) for episode in episodes] == expected


def test_a_retry_is_sampled_after_the_reflection_and_would_not_be_trained(
    episodes, stored, tiny_tokenizer
):
    conversations = Conversations(tiny_tokenizer, REQUEST)
    [retried] = episodes[0].by_agent["retrier"]
    [branch] = retried.branches
    answer = [*tiny_tokenizer.encode("yes"), tiny_tokenizer.eos_token_id]
    tried = stored[0].attempt
    prompt = conversations.retry(tried.problem, tried.completion, said(tiny_tokenizer, "r0"))
    assert branch.token_ids == [*prompt, *answer]
    assert any(branch.sampled_mask)
    assert not retried.agent.trainable


@pytest.mark.parametrize(
    ("number", "reason"),
    [(2, "UnjudgedRetryError"), (3, "UnjudgedRetryError: the retry could not be sampled")],
)
def test_without_a_verdict_the_episode_and_its_reflection_have_failed(episodes, number, reason):
    episode = episodes[number]
    [reflected] = episode.by_agent["reflector"]
    assert not episode.ok
    assert not reflected.ok
    assert reason in episode.last_error.message
    assert not reflected.rewards


def test_each_role_has_the_limits_of_the_settings(episodes, vllm):
    del episodes
    sampled = [body["sampling_params"] for body in vllm.asked if "sampling_params" in body]
    assert {each["max_tokens"] for each in sampled} == {7, 9}
    assert {each["temperature"] for each in sampled} == {0.9}


def test_tools_are_offered_and_a_call_is_judged_as_models_write_it(
    make_run, vllm, tiny_tokenizer, monkeypatch
):
    from verifiers import v1 as vf

    monkeypatch.syspath_prepend(str(EXAMPLE))
    said_no = said(tiny_tokenizer, "no")
    run = make_run([failure("Book a room for nine.", said_no, tools=(TOOL,))])
    client = vf.EvalClientConfig(base_url=vllm.url, api_key_var="NO_SUCH_VARIABLE")
    [episode] = asyncio.run(served(run, client, 1))
    [reflected] = episode.by_agent["reflector"]
    assert episode.ok, episode.errors
    assert reflected.reward == 1.0
    offered = [body["tools"] for body in vllm.asked if "messages" in body]
    assert offered == [[{"type": "function", "function": TOOL}]] * 2


def test_an_unfinished_thought_is_no_answer(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from mulligan_reflection.judging import Judges

    task = str(Path(__file__).parents[1] / "parity_task.py")
    judges = Judges(tiny_recipe(task=task))
    thought = Completion((), "", "length", unfinished_thought=True, counted_tokens=9)
    try:
        verdict = asyncio.run(judges.verdict(Problem.create("q", {}), thought))
    finally:
        judges.close()
    assert verdict.reason == "unfinished_thought"
