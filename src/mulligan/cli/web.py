"""What the commands that serve a page or an interface share."""

import socket
from importlib.util import find_spec

from mulligan.errors import MulliganError


def require_web_packages(command: str) -> None:
    """Check that what serves is installed.

    Raises:
        MulliganError: it is not; says how to install it.
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise MulliganError(
            f"mulligan {command} needs packages that are not installed: "
            "pip install fastapi uvicorn."
        )


def web_address(host: str, listening: socket.socket) -> str:
    """Return the address of a socket that listens, as a browser takes it."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"
