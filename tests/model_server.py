"""A real server over a real, tiny model: OpenAI's protocol in front of a plain sampling loop."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class ModelServer(ThreadingHTTPServer):
    """Serves one model under one name.

    Args:
        folder: the model, as ``from_pretrained`` reads it.
        name: what it is called here.
        ids: whether token ids are taken and returned, as vLLM does.
        logprobs: ``processed`` or ``raw`` (before the temperature) are given, or None are.
        strict: whether settings that OpenAI's protocol does not have are refused.
        context: what is said of the model's context, as vLLM says it.
    """

    daemon_threads = True

    def __init__(
        self, folder, name="tiny", *, ids=True, logprobs="processed", strict=False, context=None
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.ids, self.logprobs, self.strict = name, ids, logprobs, strict
        self.context = context
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.requests = []
        self.stopped = False
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    @torch.no_grad()
    def sample(self, prompt, request, number):
        """Sample one completion by plain forwards over all that there is so far."""
        temperature = request.get("temperature", 1.0)
        random = torch.Generator().manual_seed(request.get("seed", 0) + number)
        ids, logprobs, top = list(prompt), [], []
        stops = {self.tokenizer.eos_token_id, *request.get("stop_token_ids", ())}
        for _ in range(request["max_tokens"]):
            logits = self.model(torch.tensor([ids])).logits[0, -1].float()
            scaled = torch.log_softmax(logits / (temperature or 1.0), -1)
            token = (
                int(scaled.argmax())
                if temperature == 0
                else int(torch.multinomial(scaled.exp(), 1, generator=random))
            )
            shown = scaled if self.logprobs == "processed" else torch.log_softmax(logits, -1)
            logprobs.append(float(shown[token]))
            top.append(shown.topk(5).values.tolist())
            ids.append(token)
            if token in stops:
                break
        sampled = ids[len(prompt) :]
        reason = "stop" if sampled[-1] in stops else "length"
        return sampled, reason, logprobs, top

    def reply(self, path, request):
        """Return (status, body)."""
        if path == "/v1/models":
            served = {"id": self.name, "object": "model", "max_model_len": self.context}
            return 200, {"object": "list", "data": [served]}
        if request["model"] != self.name:
            return 404, {"error": {"message": f"The model {request['model']} does not exist."}}
        if self.strict and {"top_k", "min_p", "repetition_penalty"} & request.keys():
            return 400, {"error": {"message": "Unrecognized request argument supplied: top_k"}}
        if path == "/v1/chat/completions":
            return 200, self.chat(request)
        if path == "/v1/completions":
            return 200, self.complete(request)
        return 404, {"detail": "Not Found"}

    def complete(self, request):
        prompt = request["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=False)
        choices = []
        for number in range(request.get("n", 1)):
            ids, reason, logprobs, top = self.sample(prompt, request, number)
            choice = {"index": number, "text": self.text(ids), "finish_reason": reason}
            if self.logprobs and request.get("logprobs") is not None:
                named = [{f"token-{n}": each for n, each in enumerate(row)} for row in top]
                choice["logprobs"] = {"token_logprobs": logprobs, "top_logprobs": named}
            if self.ids and request.get("return_token_ids"):
                choice |= {"token_ids": ids, "prompt_token_ids": prompt}
            choices.append(choice)
        return {"object": "text_completion", "choices": choices}

    def chat(self, request):
        prompt = self.tokenizer.apply_chat_template(
            request["messages"], add_generation_prompt=True, tokenize=False
        )
        prompt = self.tokenizer.encode(prompt, add_special_tokens=False)
        ids, reason, logprobs, top = self.sample(prompt, request, 0)
        message = {"role": "assistant", "content": self.text(ids)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        if self.logprobs and request.get("logprobs"):
            content = [
                {"logprob": each, "top_logprobs": [{"logprob": other} for other in row]}
                for each, row in zip(logprobs, top, strict=True)
            ]
            choice["logprobs"] = {"content": content}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        return {"object": "chat.completion", "choices": [choice], "usage": usage}

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(json.loads(content) if content else {})

    def answer(self, request):
        if self.server.stopped:
            self.close_connection = True
            return
        with self.server.lock:
            self.server.requests.append((self.path, request))
            status, body = self.server.reply(self.path, request)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder, *arguments, **settings):
    """Serve a model for as long as the block runs."""
    server = ModelServer(folder, *arguments, **settings)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped = True  # connections that are kept open are not answered either
        server.shutdown()
        server.server_close()
