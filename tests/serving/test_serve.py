import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import openai
import pytest

from model_server import serving
from mulligan import Mulligan
from mulligan.config import Prompts
from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.report.live.server import open_port
from mulligan.serving.api import Bounds, Endpoint, make_server
from mulligan.serving.redact import Redactor
from mulligan.serving.second_chance import Method
from mulligan.serving.worker import Worker
from mulligan.tasks.registry import load_task
from mulligan.types import Sampling
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.pool import verifier_for
from tiny import TASK_FILE, lines, second_time_right

ASKED = [{"role": "user", "content": "hm"}]
GIVEN = {"mulligan": {"given": {}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture
def serve(tmp_path, tiny_tokenizer):
    """Serves a script, and gives the official client of it."""

    def mulligan_of(script, file=TASK_FILE, **options):
        task = load_task(str(file), options)
        with ExitStack() as stack:
            verifier = stack.enter_context(verifier_for(task, 1, Limits(deadline_s=0.5)))
            write = Sampling(0.9, 90)
            engine = ScriptedEngine(script, tiny_tokenizer)
            speak = Conversations(tiny_tokenizer, "Why?", context=2000)
            method = Method(engine, speak, verifier.verify_many, write, write)
            return Mulligan(task, method, verifier, "tiny", Prompts(), stack.pop_all())

    @contextmanager
    def start(script=None, bounds=None, key=None, sent="none", newer=None, **task):
        mulligan = mulligan_of(script or second_time_right(tiny_tokenizer), **task)
        with ExitStack() as stack:
            worker = stack.enter_context(Worker(mulligan, tmp_path / "store", Redactor()))
            listening = open_port("127.0.0.1", 0)

            def load():
                if newer is None:
                    raise RuntimeError("out of memory")
                return mulligan_of(newer, **task)

            endpoint = Endpoint(worker, "tiny", bounds or Bounds(), key, load)
            server = make_server(endpoint, "127.0.0.1")
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            with openai.OpenAI(base_url=url, api_key=sent, max_retries=0) as client:
                try:
                    yield client
                finally:
                    server.should_exit = True
                    thread.join(20)
                    listening.close()

    return start


def ask(client, text="Say something even.", **more):
    more.setdefault("extra_body", GIVEN)
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="tiny", messages=messages, **more)


def test_a_failure_is_reflected_on_retried_and_stored(serve, tmp_path, tiny_tokenizer):
    with serve() as client:
        reply = ask(client)
        assert [model.id for model in client.models.list()] == ["tiny"]
    assert reply.choices[0].message.content == "bb"
    assert reply.choices[0].finish_reason == "stop"
    happened = reply.mulligan
    assert (happened["verified"], happened["status"], happened["tries"]) == (True, "passed", 2)
    assert [step["kind"] for step in happened["steps"]] == ["attempt", "reflection", "retry"]
    assert reply.usage.completion_tokens == 2 + 3 + 3
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8
    assert reply.usage.prompt_tokens > 3 * len("Say something even.")
    [stored] = lines(tmp_path / "store" / "failures.jsonl")
    assert (stored["answer"], stored["id"]) == ("a", happened["failure_id"])


def test_a_right_answer_stores_nothing(serve, tmp_path):
    with serve(verdict="passed") as client:
        reply = ask(client)
    assert (reply.mulligan["tries"], reply.mulligan["failure_id"]) == (1, None)
    assert not (tmp_path / "store" / "failures.jsonl").exists()


def test_a_request_that_names_nothing_to_verify_is_answered_and_told_so(serve, tmp_path):
    with serve() as client:
        reply = ask(client, extra_body={})
    assert reply.choices[0].message.content == "a"
    assert (reply.mulligan["verified"], reply.mulligan["status"]) == (False, "not_verifiable")
    assert not (tmp_path / "store" / "failures.jsonl").exists()


def test_an_answer_whose_verifier_broke_is_unverified_and_told_so(serve, tmp_path):
    with serve(breaks_on="a") as client:
        reply = ask(client)
    assert reply.choices[0].message.content == "a"
    assert (reply.mulligan["verified"], reply.mulligan["status"]) == (False, "error")
    [apart] = lines(tmp_path / "store" / "unverified.jsonl")
    assert apart["id"] == reply.mulligan["failure_id"]


HANGS = """
import time
from mulligan import Problem, Task, Verdict

class Hangs(Task):
    name = "hangs"

    def problems(self, split):
        yield Problem.create("hm", {})

    def verify(self, problem, answer):
        time.sleep(60)
"""


def test_an_answer_whose_verifier_hangs_comes_after_its_deadline(serve, tmp_path):
    file = tmp_path / "hangs.py"
    file.write_text(HANGS)
    with serve(file=file) as client:
        reply = ask(client)
    assert reply.choices[0].message.content == "a"
    assert (reply.mulligan["verified"], reply.mulligan["status"]) == (False, "error")


def test_an_answer_is_streamed_with_what_happened_and_the_usage(serve):
    with serve() as client:
        parts = list(ask(client, stream=True, stream_options={"include_usage": True}))
    said = "".join(each.choices[0].delta.content or "" for each in parts if each.choices)
    assert said == "bb"
    [ended] = [each for each in parts if each.choices and each.choices[0].finish_reason]
    assert ended.mulligan["tries"] == 2
    assert parts[-1].usage.completion_tokens == 8


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_the_tools_of_a_request_come_as_such(serve, stream):
    with serve(lambda *_: CALL, verdict="passed") as client:
        reply = ask(client, tools=[TOOL], stream=stream)
        if stream:
            choices = [each.choices[0] for each in reply]
            calls, reason = choices[0].delta.tool_calls, choices[-1].finish_reason
        else:
            calls, reason = reply.choices[0].message.tool_calls, reply.choices[0].finish_reason
    [call] = calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 2})
    assert reason == "tool_calls"


def test_64_requests_at_once_are_all_answered_each_with_its_own(serve, tmp_path):
    with serve() as client, ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda n: ask(client, f"Number {n}."), range(64)))
    assert [reply.choices[0].message.content for reply in replies] == ["bb"] * 64
    stored = {each["id"]: each for each in lines(tmp_path / "store" / "failures.jsonl")}
    assert len(stored) == 64
    for number, reply in enumerate(replies):
        problem = stored[reply.mulligan["failure_id"]]["problem"]
        assert problem["messages"][0]["content"] == f"Number {number}."


def test_a_request_that_is_never_sent_whole_is_not_waited_for(serve):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    with serve(bounds=Bounds(requests=1, seconds=0.2)) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(head)
            assert b" 504 " in connection.recv(100)
        assert ask(client).mulligan["verified"]


@pytest.mark.parametrize("path", ["chat/completions", "reload"])
def test_requests_of_web_pages_are_refused(serve, path):
    with serve() as client:
        body = json.dumps({"model": "tiny", "messages": ASKED, **GIVEN}).encode()
        page = {"Origin": "http://example.com", "Content-Type": "text/plain"}
        request = urllib.request.Request(f"{client.base_url}{path}", body, page)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
        assert ask(client).mulligan["weights"] == 1


def reload(client):
    return client.post("/reload", body={}, cast_to=object)


def test_new_weights_answer_without_a_restart_and_no_request_is_lost(serve):
    began = threading.Event()

    def old(*_):
        began.set()
        time.sleep(0.05)
        return "bb"

    with serve(old, newer=lambda *_: "dd") as client, ThreadPoolExecutor(65) as pool:
        asked = [pool.submit(ask, client, f"Number {n}.") for n in range(64)]
        assert began.wait(20)
        reloaded = reload(client)
        later = ask(client)
        replies = [each.result() for each in asked]
    assert reloaded == {"object": "reload", "weights": 2}
    assert (later.choices[0].message.content, later.mulligan["weights"]) == ("dd", 2)
    said = {(each.choices[0].message.content, each.mulligan["weights"]) for each in replies}
    assert ("bb", 1) in said
    assert said <= {("bb", 1), ("dd", 2)}


def test_weights_that_cannot_be_loaded_leave_the_old_ones(serve):
    with serve(lambda *_: "bb") as client:
        with pytest.raises(openai.InternalServerError, match="the old ones stay: out of memory"):
            reload(client)
        assert ask(client).mulligan["weights"] == 1


def test_only_one_load_at_a_time_and_only_with_the_key(serve):
    def newer(*_):
        return "dd"

    sent = serve(key="secret", sent="wrong", newer=newer)
    with sent as client, pytest.raises(openai.AuthenticationError):
        reload(client)
    with (
        serve(key="secret", sent="secret", newer=newer) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        errors = [each.exception() for each in [pool.submit(reload, client) for _ in range(8)]]
        assert {type(each) for each in errors} <= {type(None), openai.ConflictError}
        assert errors.count(None) == ask(client).mulligan["weights"] - 1 >= 1


REFUSED = {
    "another model": ({"model": "gpt"}, 404, "There is no model 'gpt' here; this is 'tiny'."),
    "an unknown role": ({"messages": [{"role": "wizard"}]}, 400, "the role 'wizard'"),
    "nobody asks": (
        {"messages": [{"role": "system", "content": "x"}]},
        400,
        "a user should ask something",
    ),
    "an unsupported field": ({"logit_bias": {"1": 1}}, 400, "'logit_bias' is not supported"),
    "more than one answer": ({"n": 2}, 400, "n: Input should be 1"),
    "given that is no object": ({"mulligan": {"given": 3}}, 400, "'given' should be an object"),
    "a field that the task lacks": ({"mulligan": {"x": 3}}, 400, "should hold `given`"),
    "too long": ({"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "does not fit"),
    "a megabyte": ({"user": "x" * 2**20}, 413, "larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("change", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_cannot_be_answered_is_told_why(serve, change, status, says):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hm"}], **GIVEN, **change}
    with serve() as client, pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", body=body, cast_to=object)
    assert refused.value.status_code == status
    assert says in refused.value.body["message"]


def test_a_body_that_is_not_json_is_refused(serve):
    with serve() as client:
        request = urllib.request.Request(f"{client.base_url}chat/completions", b"{hm")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)


def test_a_key_is_asked_for_where_one_is_set(serve):
    with serve(key="secret", sent="wrong") as client, pytest.raises(openai.AuthenticationError):
        ask(client)
    with serve(key="secret", sent="secret") as client:
        assert ask(client).mulligan["verified"]


def test_requests_beyond_the_bound_and_beyond_the_time_are_refused(serve):
    def slow(*_):
        time.sleep(0.6)
        return "bb"

    bounds = Bounds(requests=1, seconds=0.3)
    with serve(slow, bounds=bounds) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client)
        time.sleep(0.15)
        with pytest.raises(openai.RateLimitError, match="1 requests are under way"):
            ask(client)
        with pytest.raises(openai.APIStatusError, match=r"no answer after 0\.3 s") as late:
            first.result()
    assert late.value.status_code == 504


def test_one_request_that_breaks_the_engine_harms_no_other(serve):
    def script(prompt, i, j):
        if len(prompt) > 300:
            raise RuntimeError("broke")
        return "bb"

    with serve(script) as client, ThreadPoolExecutor(8) as pool:
        texts = ["x" * 400 if n == 3 else f"Number {n}." for n in range(8)]
        asked = [pool.submit(ask, client, text) for text in texts]
        errors = [each.exception() for each in asked]
    assert [n for n, error in enumerate(errors) if error] == [3]
    assert errors[3].status_code == 500
    assert "RuntimeError" in errors[3].body["message"]


@contextmanager
def started(folder, source, *options):
    """Start ``mulligan serve`` in a process of its own; gives it and the official client."""
    arguments = [
        *("serve", source, "--task", TASK_FILE, "--task-options", '{"verdict": "failed"}'),
        *("--port", 0, "--store", folder / "store", *options),
    ]
    server = subprocess.Popen(
        [sys.executable, "-c", "from mulligan.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        url = server.stdout.readline().split()[2]
        yield server, openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_loses_no_failure_that_it_told_of(tmp_path, tiny_llama):
    told = []
    with started(tmp_path, tiny_llama) as (server, client):

        def traffic(number):
            body = {"mulligan": {"given": {"number": number}}}
            messages = [{"role": "user", "content": f"{number}?"}]
            reply = client.chat.completions.create(
                model="llama", messages=messages, max_tokens=4, extra_body=body
            )
            told.append(reply.mulligan["failure_id"])
            if len(told) == 3:
                server.send_signal(signal.SIGKILL)

        with ThreadPoolExecutor(4) as pool:
            outcomes = [pool.submit(traffic, number).exception for number in range(24)]
            errors = [outcome() for outcome in outcomes]
    assert any(isinstance(error, openai.APIConnectionError) for error in errors)
    whole = (tmp_path / "store" / "failures.jsonl").read_bytes().split(b"\n")[:-1]
    assert len(told) >= 3
    assert set(told) <= {json.loads(line)["id"] for line in whole}


@pytest.mark.slow
def test_before_another_server_its_own_count_of_tokens_is_told(tmp_path, tiny_llama):
    with (
        serving(tiny_llama, ids=False) as other,
        started(tmp_path, "tiny", "--url", other.url) as (_, client),
    ):
        reply = ask(client, max_tokens=4)
        prompts = [
            body["messages"] for path, body in other.requests if path == "/v1/chat/completions"
        ][-3:]
    assert [len(messages) for messages in prompts] == [1, 3, 5]
    assert [step["kind"] for step in reply.mulligan["steps"]] == ["attempt", "reflection", "retry"]
    assert reply.usage.prompt_tokens > 3 * len("Say something even.")
    assert reply.usage.completion_tokens > 0
    assert len(lines(tmp_path / "store" / "failures.jsonl")) == 1
