import json
import logging
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from model_server import serving
from mulligan.engines.forms import ChatForm, ChatReply, TokenForm
from mulligan.engines.http import Client
from mulligan.engines.local.engine import LocalEngine
from mulligan.engines.server import ServerEngine, connect
from mulligan.errors import MulliganError
from mulligan.models.load import load_model
from mulligan.types import ChatPrompt, Sampling
from tiny import make_tokenizer

KEY = "sk-planted-7f3a9c"
PROMPT = (1, 2, 3)
SAMPLING = Sampling(temperature=0.9, max_tokens=4, seed=11)


def good(request, **changes):
    """A whole and right reply, whose ids say for which prompt and seed they are."""
    choice = {
        "text": "ok",
        "finish_reason": "stop",
        "token_ids": [request["prompt"][0], request["seed"] % 1000, 2],
        "prompt_token_ids": request["prompt"],
        **changes,
    }
    return {"choices": [{"index": j, **choice} for j in range(request["n"])]}


class Server(ThreadingHTTPServer):
    """A real server on loopback; ``misbehave`` may take a request over, by its number."""

    daemon_threads = True

    def __init__(self, misbehave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.misbehave = misbehave
        self.requests = []
        self.headers_seen = []
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(request)
            self.server.headers_seen.append(self.headers)
            number = len(self.server.requests)
        if not self.server.misbehave(self, number, request):
            self.reply(200, good(request))

    def reply(self, status, body, headers=(), cut=0):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) + cut))
        self.end_headers()
        self.wfile.write(content)
        if cut:
            self.close_connection = True
        return True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(misbehave=lambda *_: False):
        server = Server(misbehave)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def engine(server, **changes):
    settings = {"tries": 3, "backoff_s": 0.001, "timeout_s": 5, **changes}
    return ServerEngine(Client(server.url, **settings), "tiny", TokenForm(logprobs=False))


def test_ids_travel_to_the_server_and_back_in_the_order_of_the_prompts(serve):
    server = serve()
    prompts = [(number, 5) for number in range(40)]
    groups = engine(server).generate(prompts, 2, SAMPLING)
    assert [[c.token_ids[0] for c in group] for group in groups] == [[n, n] for n in range(40)]
    assert groups[0][0].text == "ok"
    assert groups[0][0].finish_reason == "stop"
    request = server.requests[0]
    assert request["return_token_ids"] is True
    assert (request["temperature"], request["top_p"], request["top_k"]) == (0.9, 1.0, -1)
    assert (request["max_tokens"], request["model"], request["n"]) == (4, "tiny", 2)


def test_the_same_seed_asks_for_the_same_samples_and_another_for_others(serve):
    server = serve()
    first = engine(server).generate([PROMPT, PROMPT], 1, SAMPLING)
    assert engine(server).generate([PROMPT, PROMPT], 1, SAMPLING) == first
    assert first[0] != first[1]
    assert engine(server).generate([PROMPT], 1, Sampling(0.9, 4, seed=12))[0] != first[0]


CUT = b'{"choices": [{"text": "ok", "finish_reason": "st'
TROUBLES = {
    "429": lambda handler, _: handler.reply(429, {"error": {"message": "slow down"}}),
    "429 with a wait": lambda handler, _: handler.reply(429, {}, [("Retry-After", "0.01")]),
    "500": lambda handler, _: handler.reply(500, b"<html>oops</html>"),
    "503": lambda handler, _: handler.reply(503, {}),
    "cut JSON": lambda handler, _: handler.reply(200, CUT),
    "a cut connection": lambda handler, _: handler.reply(200, CUT, cut=50),
    "no choices": lambda handler, _: handler.reply(200, {"choices": []}),
    "nonsense": lambda handler, _: handler.reply(200, [1, 2]),
    "ids that are none": lambda handler, request: handler.reply(200, good(request, token_ids=[-1])),
    "half a character": lambda handler, request: handler.reply(200, good(request, text="\ud800")),
    "no finish reason": lambda handler, request: handler.reply(
        200, good(request, finish_reason=None)
    ),
    "too many tokens": lambda handler, request: handler.reply(
        200, good(request, token_ids=[1] * 5)
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_passing_trouble_is_tried_again_and_the_group_is_whole(serve, trouble):
    server = serve(
        lambda handler, number, request: number <= 2 and TROUBLES[trouble](handler, request)
    )
    (group,) = engine(server).generate([PROMPT], 4, SAMPLING)
    assert [completion.token_ids[0] for completion in group] == [1, 1, 1, 1]
    assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_stays_is_an_error_after_the_last_try(serve, trouble):
    server = serve(lambda handler, _, request: TROUBLES[trouble](handler, request))
    with pytest.raises(MulliganError, match=r"failed 3 times in a row, most recently: .*--resume"):
        engine(server).generate([PROMPT], 4, SAMPLING)
    assert len(server.requests) == 3


def test_fewer_choices_than_asked_for_are_made_up_by_asking_for_the_rest(serve):
    def give_three_at_most(handler, _, request):
        return handler.reply(200, good({**request, "n": min(3, request["n"])}))

    server = serve(give_three_at_most)
    (group,) = engine(server).generate([PROMPT], 8, SAMPLING)
    assert len(group) == 8
    assert [request["n"] for request in server.requests] == [8, 5, 2]
    assert len({request["seed"] for request in server.requests}) == 3  # no sample comes twice


def test_more_choices_than_asked_for_are_left_out(serve):
    server = serve(lambda handler, _, request: handler.reply(200, good({**request, "n": 9})))
    (group,) = engine(server).generate([PROMPT], 2, SAMPLING)
    assert len(group) == 2


def test_one_prompt_that_fails_fails_the_call_rather_than_giving_a_partial_answer(serve):
    server = serve(lambda handler, _, request: request["prompt"] == [9] and handler.reply(500, {}))
    with pytest.raises(MulliganError, match="most recently: status 500"):
        engine(server).generate([(1,), (9,), (2,)], 2, SAMPLING)


def test_a_server_that_hangs_is_given_up(serve):
    hang = threading.Event()
    server = serve(lambda *_: hang.wait(10))
    with pytest.raises(MulliganError, match="most recently: ReadTimeout"):
        engine(server, timeout_s=0.1).generate([PROMPT], 1, SAMPLING)
    hang.set()


def test_a_server_that_is_not_there_is_named():
    nowhere = Client("http://127.0.0.1:9/v1", tries=2, backoff_s=0.001)
    with pytest.raises(MulliganError, match=r"server 127\.0\.0\.1:9 failed 2 times"):
        nowhere.call("GET", "/models")


def test_a_server_that_gives_no_token_ids_is_refused(serve):
    server = serve(lambda handler, _, request: handler.reply(200, good(request, token_ids=None)))
    with pytest.raises(MulliganError, match="gives no token ids"):
        engine(server).generate([PROMPT], 1, SAMPLING)
    assert len(server.requests) == 1


def test_a_server_that_read_another_prompt_is_refused(serve):
    server = serve(
        lambda handler, _, request: handler.reply(200, good(request, prompt_token_ids=[0, 1, 2, 3]))
    )
    with pytest.raises(MulliganError, match="read different token ids from the 3 it was sent"):
        engine(server).generate([PROMPT], 1, SAMPLING)


def test_a_refused_request_is_not_repeated_and_says_what_the_server_said(serve):
    body = {"error": {"message": "maximum context length is 8 tokens\x1b[2J"}}
    server = serve(lambda handler, *_: handler.reply(400, body))
    with pytest.raises(MulliganError, match=r"with 400: maximum context length is 8 tokens \[2J"):
        engine(server).generate([PROMPT], 1, SAMPLING)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_never_followed(serve, monkeypatch, status):
    monkeypatch.setenv("TEST_KEY", KEY)
    other = serve()
    elsewhere = f"http://localhost:{other.server_port}/v1/completions"
    server = serve(lambda handler, *_: handler.reply(status, {}, [("Location", elsewhere)]))
    with pytest.raises(MulliganError, match="redirects to 'localhost'"):
        engine(server, api_key_env="TEST_KEY").generate([PROMPT], 1, SAMPLING)
    assert other.requests == []


def test_control_characters_in_the_text_arrive_as_they_were_sent(serve):
    server = serve(lambda handler, _, request: handler.reply(200, good(request, text="a\0é\x1b")))
    assert engine(server).generate([PROMPT], 1, SAMPLING)[0][0].text == "a\0é\x1b"


def test_the_key_reaches_the_server_and_nothing_else(serve, monkeypatch, caplog, capfd):
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")

    def echo_the_key(handler, number, _):
        status = {1: 500, 2: 429}.get(number, 401)
        return handler.reply(status, {"error": {"message": f"Incorrect API key: {KEY}"}})

    server = serve(echo_the_key)
    with caplog.at_level(logging.DEBUG):
        asking = engine(server, api_key_env="TEST_KEY")
        with pytest.raises(MulliganError, match=r"Incorrect API key: \[key\] Check the key") as e:
            asking.generate([PROMPT], 1, SAMPLING)
    assert server.headers_seen[0]["Authorization"] == f"Bearer {KEY}"
    output = capfd.readouterr()
    shown = [repr(asking), str(asking), repr(e.value), "".join(traceback.format_exception(e.value))]
    assert KEY not in "".join([*shown, caplog.text, output.out, output.err])


def test_a_key_that_is_not_set_is_named_by_its_variable(serve, monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(MulliganError, match="TEST_KEY should hold the server's key, but it is not"):
        engine(serve(), api_key_env="TEST_KEY")


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(serve, monkeypatch):
    monkeypatch.setenv("TEST_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(MulliganError, match="an HTTP header cannot") as error:
        engine(serve(), api_key_env="TEST_KEY")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", ""])
def test_an_address_that_is_no_http_url_is_refused(url):
    with pytest.raises(MulliganError, match=r"such as http://host:8000/v1"):
        Client(url)


def test_an_address_that_holds_a_password_is_refused_without_showing_it():
    with pytest.raises(MulliganError, match="holds a user name or password") as error:
        Client(f"https://me:{KEY}@host/v1")
    assert KEY not in str(error.value)


@pytest.fixture(scope="module")
def tiny(tiny_llama):
    return load_model(str(tiny_llama), "float32", "cpu")


def reach(server, tokenizer, model="tiny"):
    return connect(server.url, model, tokenizer, timeout_s=30)


def test_a_real_server_that_knows_token_ids_samples_what_the_local_engine_would(tiny_llama, tiny):
    policy, tokenizer = tiny
    prompts = [tuple(tokenizer.encode(text)) for text in ("one", "two three", "4")]
    with serving(tiny_llama) as server:
        engine = reach(server, tokenizer)
        there = engine.generate(prompts, 1, Sampling(0.0, 6))
        warm = engine.generate(prompts, 2, Sampling(0.7, 6, seed=3))
    here = LocalEngine(policy, tokenizer).generate(prompts, 1, Sampling(0.0, 6))
    assert [row[0].token_ids for row in there] == [row[0].token_ids for row in here]
    for row, other in zip(there, here, strict=True):
        assert row[0].logprobs == pytest.approx(other[0].logprobs, abs=1e-5)
    for prompt, row in zip(prompts, warm, strict=True):
        for completion in row:
            scored = plain_logprobs(policy, prompt, completion.token_ids, 0.7)
            assert completion.logprobs == pytest.approx(scored, abs=1e-5)
    assert engine.abilities.token_ids
    assert engine.abilities.logprobs


def plain_logprobs(policy, prompt, completion, temperature):
    with torch.no_grad():
        logits = policy(torch.tensor([[*prompt, *completion]])).logits[0] / temperature
    scored = torch.log_softmax(logits, -1)
    return [float(scored[len(prompt) - 1 + i, token]) for i, token in enumerate(completion)]


@pytest.mark.parametrize("strict", [False, True])
def test_a_real_server_without_token_ids_is_asked_by_messages(tiny_llama, tiny, strict, caplog):
    _, tokenizer = tiny
    messages = [{"role": "user", "content": "one"}]
    with serving(tiny_llama, ids=False, strict=strict) as server:
        with caplog.at_level(logging.INFO, "mulligan"):
            engine = reach(server, tokenizer)
        [[there]] = engine.generate([ChatPrompt(messages)], 1, Sampling(0.0, 6))
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False)
        sampled, reason, logprobs, _ = server.sample(ids, {"temperature": 0, "max_tokens": 6}, 0)
        assert (there.text, there.finish_reason) == (server.text(sampled), reason)
    assert (there.token_ids, there.length) == ((), len(sampled))
    assert there.logprobs == pytest.approx(logprobs, abs=1e-5)
    assert not engine.abilities.token_ids
    assert "chat messages, through its own template" in caplog.text


def test_a_server_of_another_tokenizer_is_asked_by_messages(tiny_llama):
    other = make_tokenizer(added=("fox",))
    with serving(tiny_llama) as server:
        assert not reach(server, other).abilities.token_ids


@pytest.mark.parametrize(
    ("logprobs", "said"),
    [(None, "gives no log-probabilities"), ("raw", "from before the temperature")],
)
@pytest.mark.parametrize("ids", [False, True])
def test_log_probs_that_are_missing_or_mean_something_else_are_said_and_left_out(
    tiny_llama, tiny, caplog, logprobs, said, ids
):
    _, tokenizer = tiny
    with serving(tiny_llama, ids=ids, logprobs=logprobs) as server:
        engine = reach(server, tokenizer)
        prompt = (1, 2) if ids else ChatPrompt([{"role": "user", "content": "one"}])
        [[completion]] = engine.generate([prompt], 1, Sampling(0.9, 3))
    assert said in caplog.text
    assert completion.logprobs is None
    assert not engine.abilities.logprobs


def test_a_model_that_the_server_does_not_serve_is_refused_with_the_nearest(tiny_llama, tiny):
    with (
        serving(tiny_llama, "tiny-chat") as server,
        pytest.raises(MulliganError, match=r"not serve 'tiny-cat': did you mean 'tiny-chat'"),
    ):
        reach(server, tiny[1], "tiny-cat")


@pytest.mark.parametrize("context", [64, None])
def test_the_context_is_what_the_server_says_of_it(tiny_llama, tiny, context):
    with serving(tiny_llama, context=context) as server:
        assert reach(server, tiny[1]).context == context


def test_a_server_takes_no_weights(serve):
    with pytest.raises(
        MulliganError, match=r"takes no weights, and step 3 needs weights of its own"
    ):
        engine(serve()).update_weights(None, 3)


def test_a_server_that_takes_messages_refuses_token_ids():
    form = ChatForm(logprobs=False)
    with pytest.raises(MulliganError, match="takes messages but was given token ids"):
        form.body((1, 2), 1, SAMPLING, 0)


def test_tool_calls_that_a_server_has_read_are_written_as_models_write_them():
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    choice = {"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 8, "completion_tokens": 3}
    reply = ChatReply.model_validate({"choices": [choice], "usage": usage})
    [completion] = ChatForm(logprobs=False).completions(reply, (), SAMPLING)
    assert completion.text == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert (completion.finish_reason, completion.length) == ("stop", 3)
    assert completion.counted_prompt == 8


def test_thoughts_that_a_server_tells_apart_stay_apart():
    choice = {"message": {"content": "7", "reasoning_content": "2+5"}, "finish_reason": "stop"}
    reply = ChatReply.model_validate({"choices": [choice]})
    [completion] = ChatForm(logprobs=False).completions(reply, (), SAMPLING)
    assert (completion.text, completion.thoughts, completion.unfinished_thought) == (
        "7",
        "2+5",
        False,
    )
