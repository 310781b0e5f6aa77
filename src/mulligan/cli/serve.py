"""The command that serves a model with a second chance."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mulligan.cli.console import console
from mulligan.cli.solve import (
    KeyVariable,
    ServedModel,
    Source,
    TaskName,
    TaskOptions,
    Tries,
    Url,
    load,
)
from mulligan.cli.web import require_web_packages, web_address
from mulligan.errors import MulliganError

if TYPE_CHECKING:
    from mulligan.serving.mulligan import Mulligan


def serve(
    source: Source,
    task: TaskName = None,
    task_options: TaskOptions = "{}",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="The address to serve at; other machines need 0.0.0.0.")
    ] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model; its folder's name.")
    ] = None,
    store: Annotated[Path, typer.Option("--store", help="Folder where failures go.")] = Path(
        "production"
    ),
    tries: Tries = 2,
    key_env: Annotated[
        str | None, typer.Option("--key-env", help="Variable with the key that clients must send.")
    ] = None,
    max_requests: Annotated[int, typer.Option("--max-requests", min=1)] = 256,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=0.001)] = 300.0,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1)] = 2**20,
    redact: Annotated[
        list[str] | None,
        typer.Option("--redact", help="Another pattern of secrets (a regular expression)."),
    ] = None,
    url: Url = None,
    model: ServedModel = None,
    api_key_env: KeyVariable = None,
) -> None:
    """Serve chat completions; what fails is reflected on, retried, and stored to train on.

    POST /v1/reload loads RUN_OR_MODEL again, where it, or what a link of that name leads to, has
    new weights: without a restart, and without a request that is lost.
    """
    require_web_packages("serve")
    from mulligan.report.live.server import LOOPBACK, open_port
    from mulligan.serving.api import Bounds, Endpoint, make_server
    from mulligan.serving.redact import Redactor
    from mulligan.serving.worker import Worker

    key = os.environ.get(key_env) if key_env else None
    if key_env and not key:
        raise MulliganError(f"--key-env names {key_env}, which is not set in the environment.")
    redactor = Redactor(redact or ())
    bounds = Bounds(max_requests, max_seconds, max_bytes)
    called = name or Path(source).name

    def newest() -> "Mulligan":
        there = Path(source)
        found = str(there.resolve()) if there.exists() else source
        return load(found, task, task_options, tries, url, model or source, api_key_env)

    listening = open_port(host, port)
    with Worker(newest(), store, redactor) as worker:
        console.print(
            f"{called!r} at {web_address(host, listening)}/v1 (Ctrl-C stops it); "
            f"failures go to {store}",
            highlight=False,
            soft_wrap=True,
        )
        if host not in LOOPBACK and key is None:
            console.print("Everyone who can reach this machine can use it.", style="yellow")
        endpoint = Endpoint(worker, called, bounds, key, newest)
        make_server(endpoint, host).run(sockets=[listening])
