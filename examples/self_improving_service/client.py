"""The service's client: it lets the model behind an OpenAI endpoint book rooms for requests."""

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
from rooms import problem_of, read_call

AT_ONCE = 32


def send_traffic(client: openai.OpenAI, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Ask for each request, naming it, so that a failure gets a second try and is stored.

    Returns:
        What happened to each: whether it passed, how many tries it took, which weights answered.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = pool.map(lambda n: _ask(client, n, {"given": {"request": n}}), numbers)
        return [dict(reply.mulligan) for reply in replies]


def first_tries(client: openai.OpenAI, service: str, numbers: Sequence[int]) -> list[bool]:
    """Return which requests succeed at the first try: the client sends each answer itself.

    The endpoint is told nothing to verify with, so it answers once, and stores nothing.
    """

    def succeeds(number: int) -> bool:
        reply = _ask(client, number, {})
        booking = read_call(reply.choices[0].message.content or "")
        return booking is not None and _book(service, number, booking) // 100 == 2

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(succeeds, numbers))


def _ask(client: openai.OpenAI, number: int, named: dict[str, Any]) -> Any:
    messages: Any = [dict(each) for each in problem_of(number).messages]
    return client.chat.completions.create(
        model="rooms", messages=messages, extra_body={"mulligan": named}
    )


def _book(service: str, number: int, booking: dict[str, Any]) -> int:
    """Send a booking to the service; return its status."""
    connection = http.client.HTTPConnection(urlsplit(service).netloc, timeout=10)
    try:
        connection.request("POST", f"/requests/{number}/bookings", json.dumps(booking))
        return connection.getresponse().status
    finally:
        connection.close()
