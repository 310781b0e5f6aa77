"""An endpoint that speaks OpenAI's protocol, before a model with a second chance."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from mulligan.errors import MulliganError
from mulligan.report.live.server import LOOPBACK
from mulligan.serving.chat_protocol import (
    ChatRequest,
    chunks,
    completion_body,
    error_body,
    requested_problem,
)
from mulligan.serving.mulligan import Mulligan
from mulligan.serving.worker import Job, Served, Worker

logger = logging.getLogger("mulligan")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the endpoint accepts."""

    requests: int = 256
    """Requests under way at a time; more are refused with status 429."""
    seconds: float = 300.0
    """Longest time that a request may take, its sending and its waiting included."""
    body_bytes: int = 2**20
    """The largest body of a request."""


class RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, kind: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, code)


class Endpoint:
    """Answers requests through a worker, within bounds.

    Args:
        worker: answers; it is running.
        name: what the model is called to clients.
        bounds: what is accepted.
        key: what clients must send as their key; None asks for none.
        load: loads the newest weights of what is served.
    """

    def __init__(
        self,
        worker: Worker,
        name: str,
        bounds: Bounds,
        key: str | None,
        load: Callable[[], Mulligan],
    ) -> None:
        self.worker = worker
        self.name = name
        self.bounds = bounds
        self._key = key
        self._load = load
        self._loading = False
        self._under_way = 0

    async def models(self, request: Request) -> Response:
        """List the one model that is served."""
        self._check_sender(request)
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "mulligan"}
        return JSONResponse({"object": "list", "data": [model]})

    async def reload(self, request: Request) -> Response:
        """Load the newest weights and answer with them; what waits is answered by the old ones."""
        self._check_sender(request)
        if self._loading:
            raise RefusalError(
                409, "conflict_error", "already_loading", "Weights are being loaded already."
            )
        self._loading = True
        try:
            loaded = await asyncio.to_thread(self._load)
            number = await asyncio.wrap_future(self.worker.replace(loaded))
        except Exception as error:  # a GPU whose memory does not hold both, for one
            if not isinstance(error, MulliganError):
                logger.exception("The weights could not be loaded.")
            message = f"The weights could not be loaded, and the old ones stay: {error}"
            raise RefusalError(500, "server_error", "not_loaded", message) from error
        finally:
            self._loading = False
        return JSONResponse({"object": "reload", "weights": number})

    async def chat(self, request: Request) -> Response:
        """Answer a chat completion."""
        self._check_sender(request)
        if self._under_way >= self.bounds.requests:
            raise RefusalError(
                429,
                "rate_limit_error",
                "too_many_requests",
                f"{self.bounds.requests} requests are under way, which is the most that are "
                "taken at a time. Try again.",
            )
        self._under_way += 1
        try:
            async with asyncio.timeout(self.bounds.seconds):
                asked = await self._read(request)
                served = await self._served(asked)
        except TimeoutError as error:
            message = f"There is no answer after {self.bounds.seconds:g} s."
            raise RefusalError(504, "server_error", "timeout", message) from error
        finally:
            self._under_way -= 1
        body = completion_body(asked, served.solution, served.failure_id, served.weights)
        if not asked.stream:
            return JSONResponse(body)

        async def stream() -> AsyncIterator[str]:
            for chunk in chunks(asked, body):
                yield chunk

        return StreamingResponse(stream(), media_type="text/event-stream")

    def _check_sender(self, request: Request) -> None:
        """Refuse who has no key, and web pages: a browser sends for any page that is looked at."""
        if "origin" in request.headers:
            raise RefusalError(
                403, "permission_error", "web_page", "Requests of web pages are not answered."
            )
        if self._key is None:
            return
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(sent.encode(), self._key.encode()):
            raise RefusalError(
                401, "authentication_error", "invalid_api_key", "The key is missing or wrong."
            )

    async def _read(self, request: Request) -> ChatRequest:
        try:
            asked = ChatRequest.model_validate_json(await self._body(request))
        except ValidationError as error:
            raise _invalid(_first(error)) from error
        if asked.model != self.name:
            raise RefusalError(
                404,
                "invalid_request_error",
                "model_not_found",
                f"There is no model {asked.model!r} here; this is {self.name!r}.",
            )
        return asked

    async def _body(self, request: Request) -> bytes:
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > self.bounds.body_bytes:
                    raise RefusalError(
                        413,
                        "invalid_request_error",
                        "request_too_large",
                        f"The request is larger than {self.bounds.body_bytes} bytes.",
                    )
        except ClientDisconnect as error:
            raise _invalid("The client left before all of its request was there.") from error
        return body

    async def _served(self, asked: ChatRequest) -> Served:
        method = self.worker.mulligan.method
        try:
            problem = requested_problem(asked, self.worker.mulligan.task)
        except (MulliganError, ValueError) as error:  # NaN among its tools
            raise _invalid(str(error)) from error
        longest = method.writing.max_tokens
        wanted = asked.max_completion_tokens or asked.max_tokens or longest
        job = Job(
            problem,
            method.writing.temperature if asked.temperature is None else asked.temperature,
            min(wanted, longest),
            asked.seed,
        )
        try:
            served = await asyncio.wrap_future(self.worker.submit(job))
        except MulliganError as error:
            raise RefusalError(502, "server_error", "engine_error", str(error)) from error
        except Exception as error:
            logger.exception("A request could not be answered.")
            message = f"The request could not be answered: {type(error).__name__}."
            raise RefusalError(500, "server_error", "internal_error", message) from error
        if not served.solution.last_try.completion.asked:
            raise RefusalError(
                400,
                "invalid_request_error",
                "context_length_exceeded",
                "The conversation does not fit the model's context.",
            )
        return served


def make_app(endpoint: Endpoint, host: str) -> FastAPI:
    """Return the application that serves an endpoint at an address."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    app.add_route("/v1/models", endpoint.models, methods=["GET"])
    app.add_route("/v1/reload", endpoint.reload, methods=["POST"])
    app.add_route("/v1/chat/completions", endpoint.chat, methods=["POST"])
    app.add_exception_handler(RefusalError, _refused)
    return app


def make_server(endpoint: Endpoint, host: str) -> uvicorn.Server:
    """Return the server; its ``run`` takes a socket that listens."""
    app = make_app(endpoint, host)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RefusalError)
    return JSONResponse(error.body, status_code=error.status)


def _invalid(message: str) -> RefusalError:
    return RefusalError(400, "invalid_request_error", "invalid_request", message)


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"The field {place!r} is not supported here."
    return f"{place or 'The request'}: {first['msg']}."
