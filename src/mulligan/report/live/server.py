"""`mulligan watch`: a page that shows runs as they go. It reads, and never writes.

One page written by hand, with a script and a style of its own, all served from here: no build step,
nothing from another host. What models and tasks wrote reaches the page as JSON and is put there as
text only; the Content-Security-Policy allows no script but the page's own.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulligan.errors import MulliganError
from mulligan.report.compare import compare
from mulligan.report.live.browse import Source, Wanted, browse, failed_attempt
from mulligan.report.live.details import comparison_as_json, run_details
from mulligan.report.live.status import StatusReader, find_runs, status_as_json
from mulligan.storage.run_folder import RunFolder

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""A report is a document of its own that may hold what an older version wrote: no script at all."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_ASSETS = {"page.js": "text/javascript", "page.css": "text/css"}
_SECONDS = 1.0
"""Seconds between two looks at the runs."""


def make_app(folder: Path, host: str, is_closing: Callable[[], bool]) -> FastAPI:
    """Return the application that shows the runs in a folder.

    Args:
        folder: holds the runs, or is one.
        host: the address that it is served at. On a loopback address only requests that name such
            a host are answered, so that no page from elsewhere can read along by a name of its own.
        is_closing: whether open connections have to end now.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)
    app.add_middleware(_Headers)
    app.exception_handler(MulliganError)(_say_error)
    _add_pages(app, folder)
    _add_data(app, folder, is_closing)
    return app


class _Headers:
    """Adds the headers that keep a page to itself to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with the headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, with_headers)


async def _say_error(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse({"error": str(error)}, status_code=409)


def _run_in(folder: Path, name: str) -> RunFolder:
    """Return a run by its name in the list; nothing else of the disk can be named."""
    for run in find_runs(folder):
        if run.path.resolve().name == name:
            return run
    raise HTTPException(404, "There is no such run.")


def _add_pages(app: FastAPI, folder: Path) -> None:
    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return _asset("page.html")

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404)
        return PlainTextResponse(_asset(name), media_type=_ASSETS[name])

    @app.get("/report/{name}", response_class=HTMLResponse)
    def report(name: str) -> Response:
        run = _run_in(folder, name)
        if not run.report.is_file():
            raise HTTPException(404, "This run has no report yet.")
        text = run.report.read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_POLICY})


def _add_data(app: FastAPI, folder: Path, is_closing: Callable[[], bool]) -> None:
    reader = StatusReader()

    def overview() -> str:
        runs = [status_as_json(reader.read(run)) for run in find_runs(folder)]
        return json.dumps({"runs": runs})

    @app.get("/api/runs")
    def runs() -> Response:
        return Response(overview(), media_type="application/json")

    @app.get("/api/events")
    async def events(request: Request) -> StreamingResponse:
        async def is_over() -> bool:
            return is_closing() or await request.is_disconnected()

        looks = _events(overview, is_over)
        return StreamingResponse(looks, media_type="text/event-stream")

    @app.get("/api/runs/{name}")
    def details(name: str) -> dict[str, Any]:
        return run_details(_run_in(folder, name))

    @app.get("/api/runs/{name}/episodes")
    def episodes(
        name: str,
        wanted: Annotated[Wanted, Depends()],
        source: Source = "training",
        before: Annotated[int | None, Query(ge=0)] = None,
    ) -> dict[str, Any]:
        return asdict(browse(_run_in(folder, name), source, wanted, before))

    @app.get("/api/runs/{name}/failures/{failure_id}")
    def failure(name: str, failure_id: str) -> dict[str, Any]:
        found = failed_attempt(_run_in(folder, name), failure_id)
        if found is None:
            raise HTTPException(404, "This failure is not stored.")
        return found

    @app.get("/api/compare")
    def compared(run: Annotated[list[str], Query(min_length=2, max_length=8)]) -> dict[str, Any]:
        return comparison_as_json(compare([_run_in(folder, name).path for name in run]))


async def _events(
    look: Callable[[], str], is_over: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    """Yield a server-sent event whenever the overview has changed, and a comment now and then."""
    last, quiet = "", 0.0
    while not await is_over():
        try:
            found = await to_thread.run_sync(look)
        except MulliganError as error:
            found = json.dumps({"error": str(error)})
        if found != last:
            last, quiet = found, 0.0
            yield f"data: {found}\n\n"
        elif quiet >= 15:  # a proxy must not take the silence for an end
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(_SECONDS)
        quiet += _SECONDS


def _asset(name: str) -> str:
    return files("mulligan.report.live").joinpath(name).read_text(encoding="utf-8")


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any that is free.

    Raises:
        MulliganError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise MulliganError(
            f"Cannot serve at {host}, port {port}: {error.strerror}. "
            "Choose another port by --port; 0 takes any that is free."
        ) from error
    return listening


def make_server(folder: Path, host: str = "127.0.0.1") -> uvicorn.Server:
    """Return the server; its ``run`` takes the socket of ``open_port``."""
    servers: list[uvicorn.Server] = []
    app = make_app(folder, host, lambda: servers[0].should_exit)
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    servers.append(uvicorn.Server(settings))
    return servers[0]
