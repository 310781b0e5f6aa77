"""Requests to a server: tried again where another try may help, and refused in words.

A key is read from an environment variable, sent as a header, and shown nowhere: no error quotes
headers, and a key that the server repeats is struck out.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2 as httpx
from pydantic import BaseModel, PositiveInt, ValidationError

from mulligan.errors import MulliganError

_RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
_LONGEST_WAIT_S = 60.0

T = TypeVar("T")


class PassingTrouble(Exception):  # noqa: N818  (callers of this file do not see it: it says "again")
    """The server failed in a way that another try may help."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Refused(MulliganError):  # noqa: N818  (a server that says no is not at fault)
    """The server answered that it will not do this."""

    def __init__(self, status: int, said: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.said = said
        """What the server gave as the reason."""


class Client:
    """Asks one server.

    Args:
        base_url: where paths begin, such as ``http://host:8000/v1``.
        api_key_env: the environment variable that holds the key; None sends none.
        tries: how often a request is made before the server is given up.
        backoff_s: the wait after the first failure in seconds, doubled after each further one.
        timeout_s: how long one request may take, in seconds.

    Raises:
        MulliganError: the URL is not one of http(s), or the variable is not set.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None = None,
        tries: int = 5,
        backoff_s: float = 0.5,
        timeout_s: float = 600.0,
    ) -> None:
        self.host = _checked_host(base_url)
        self._base = base_url.rstrip("/")
        self._tries = tries
        self._backoff_s = backoff_s
        self._key = _key_from(api_key_env)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # A redirect would carry the key and the prompts to whom the user did not name.
        self._http = httpx.Client(
            timeout=timeout_s,
            headers=headers,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None),
        )

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: type[BaseModel] | None = None,
    ) -> Any:
        """Ask until there is an answer; return its JSON, checked where ``read`` says how.

        Raises:
            MulliganError: refused, redirected, or still failing after the last try.
        """
        return self.persist(lambda: self.ask(method, path, body, read=read))

    def persist(self, attempt: Callable[[], T]) -> T:
        """Repeat what fails in passing, with growing waits.

        Raises:
            MulliganError: it failed as often as it may.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except PassingTrouble as trouble:
                failures += 1
                if failures >= self._tries:
                    raise MulliganError(
                        f"The server {self.host} failed {failures} times in a row, most recently: "
                        f"{trouble}. Check it, then continue with --resume."
                    ) from None
                time.sleep(max(trouble.wait_s, self._backoff_s * 2 ** (failures - 1)))

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: type[BaseModel] | None = None,
    ) -> Any:
        """Ask once.

        Raises:
            PassingTrouble: another try may help.
            MulliganError: refused, or redirected.
        """
        reply = self._send(method, path, body)
        if read is None:
            return _json(reply.content)
        try:
            return read.model_validate_json(reply.content)
        except (ValidationError, ValueError):
            raise PassingTrouble("its reply was cut off or not what was asked for") from None

    def tell(self, path: str, body: Mapping[str, Any]) -> None:
        """Post something once; what the reply says besides its status is not read.

        Raises:
            PassingTrouble: another try may help.
            MulliganError: refused, or redirected.
        """
        self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        try:
            reply = self._http.request(method, self._base + path, json=body)
        except httpx.TransportError as error:
            raise PassingTrouble(type(error).__name__) from None
        if not reply.is_success:
            raise self._refusal(reply)
        return reply

    def _refusal(self, reply: httpx.Response) -> Exception:
        """Say what a reply other than 200 means; never quote headers, where the key is."""
        status = reply.status_code
        said = self._shown(_server_message(reply))
        if status in _RETRIED:
            what = f"status {status}" + (f", {said}" if said else "")
            return PassingTrouble(what, _retry_after(reply.headers))
        if 300 <= status < 400:
            target = urlsplit(reply.headers.get("location", "")).hostname or "another address"
            return MulliganError(
                f"The server {self.host} redirects to {target!r}. Redirects are not followed, "
                "because they would take the key and the prompts there. Give the final address."
            )
        advice = {
            401: "Check the key.",
            403: "Check the key.",
            404: "Check the address and the model's name.",
        }.get(status, "Check the model's name and the prompt.")
        message = f"The server {self.host} refused the request with {status}: {said} {advice}"
        return Refused(status, said, message)

    def _shown(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "[key]")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:300]


class ServedModel(BaseModel):
    """A model that a server offers."""

    id: str
    max_model_len: PositiveInt | None = None
    """Its context, where the server says it, as vLLM does."""


class _Models(BaseModel):
    data: list[ServedModel]


def served_models(client: Client) -> list[ServedModel]:
    """Return the models that a server offers.

    Raises:
        MulliganError: it cannot be reached, or does not say.
    """
    models: list[ServedModel] = client.call("GET", "/models", read=_Models).data
    return models


def _json(content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise PassingTrouble("its reply was cut off or not JSON") from None


def _checked_host(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MulliganError(
            "The server's address should be a URL such as http://host:8000/v1, but is "
            f"{base_url!r}. Correct it."
            if "@" not in base_url
            else "The server's address should be a URL such as http://host:8000/v1. Correct it."
        )
    if parts.username or parts.password:
        raise MulliganError(
            f"The address of {parts.hostname} holds a user name or password. Put the key into an "
            "environment variable and name that instead."
        )
    return parts.netloc


def _key_from(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise MulliganError(
            f"The environment variable {variable} should hold the server's key, but it is not "
            f"set. Set it, for example with: read -rs {variable}; export {variable}"
        )
    if not (key.isascii() and key.isprintable()):
        raise MulliganError(
            f"The key in {variable} holds characters that an HTTP header cannot. Set it again."
        )
    return key


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        wait_s = float(headers.get("retry-after", "0"))
    except ValueError:  # a date: our own backoff is enough
        return 0.0
    return min(wait_s, _LONGEST_WAIT_S) if wait_s > 0 else 0.0


def _server_message(reply: httpx.Response) -> str:
    """Return the reason that a server gives, in the forms that servers give it."""
    try:
        body = reply.json()
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return body if isinstance(body, str) else json.dumps(body, default=str) if body else ""
