"""Book rooms by calls that a service accepts: the verifier is the service's own HTTP status."""

import http.client
import json
import random
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import rooms_service
from rooms_service import Request, find_request

from mulligan import MulliganError, Problem, Task, Verdict
from mulligan.tasks.base import Split
from mulligan.types import Demonstration

HELD_OUT_FROM = 100_000
"""Requests from this number on are the test split: no training sees them."""
SYSTEM = (
    "Book the smallest free room with a seat for everyone. "
    "Answer with one call: book(room, day, start, hours)."
)
CALL = re.compile(r"book\(([a-z]{1,20}), ([A-Z][a-z]{2}), (\d{1,2}), (\d{1,2})\)")
REASONS = {400: "not_a_booking", 409: "refused", 413: "not_a_booking", 422: "not_a_booking"}
VAGUE = ("I chose the wrong room.", "I did not look closely.", "I should compare the rooms.")


class Rooms(Task):
    """Book a room by a call that an HTTP service accepts; there are no reference answers."""

    name = "rooms"
    network = True  # the verifier calls the service
    reasons = ("passed", "no_call", *dict.fromkeys(REASONS.values()))

    def __init__(self, url: str | None = None, timeout_s: float = 3.0) -> None:
        """Use the service at ``url``; by default, one that starts with the task."""
        if url is not None and urlsplit(url).scheme != "http":
            raise MulliganError(f"url should look like http://127.0.0.1:8765, not {url!r}.")
        self.url = url
        self.timeout_s = timeout_s

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the service's requests, as its customers put them."""
        first = HELD_OUT_FROM if split == "test" else 0
        seen = {each.id for each in self.problems("test")} if split == "train" else set()
        for number in range(first, first + 2000):
            problem = problem_of(number)
            if problem.id not in seen:
                seen.add(problem.id)
                yield problem

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Send the call to the service; 2xx is a pass."""
        booking = read_call(answer)
        if booking is None:
            return Verdict.unparseable("no_call")
        status, message = self.send(problem.given["request"], booking)
        if status // 100 == 2:
            return Verdict.right()
        return Verdict.wrong(REASONS[status], message)

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether the reflection holds a call that the service accepts."""
        calls = [read_call(found[0]) for found in CALL.finditer(reflection)]
        sent = (self.send(problem.given["request"], call) for call in calls[:20] if call)
        return any(status // 100 == 2 for status, _ in sent)

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Answers that no request allows."""
        return ["I would take the largest.", "book(attic, Sun, 3, 99)"]

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        """Yield conversations for a first warm-up: how a call, a reflection and a retry look."""
        numbers = list(range(HELD_OUT_FROM // 2, HELD_OUT_FROM // 2 + count))
        for number in numbers:
            yield _demonstration(number, random.Random(f"{seed}-{number}"))

    def send(self, number: int, booking: Any) -> tuple[int, str]:
        """Return the service's status and message. Redirects are not followed.

        Raises:
            RuntimeError: the service itself is in trouble, which is no fault of the call's.
            OSError: it cannot be reached in time.
        """
        connection = http.client.HTTPConnection(self._address, timeout=self.timeout_s)
        try:
            connection.request("POST", f"/requests/{number}/bookings", json.dumps(booking))
            response = connection.getresponse()
            content = response.read(rooms_service.MAX_BODY)
        finally:
            connection.close()
        if response.status // 100 != 2 and response.status not in REASONS:
            raise RuntimeError(f"the service answered {response.status} {response.reason}")
        return response.status, content.decode(errors="replace")

    @cached_property
    def _address(self) -> str:
        if self.url is not None:
            return urlsplit(self.url).netloc
        host, port = rooms_service.start().server_address[:2]
        return f"{host!s}:{port}"


def problem_of(number: int) -> Problem:
    """Return a request as its customer puts it."""
    request = find_request(number)
    free = ", ".join(f"{room} {seats}" for room, seats in request.seats.items())
    question = (
        f"{request.people} people, {request.day} {request.start}, {request.hours} h. "
        f"Free rooms and seats: {free}."
    )
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    problem = Problem.create(messages, {})
    # The same question under another number is the same problem: the number is not in its id.
    return Problem(problem.id, problem.messages, {"request": number})


def read_call(text: str) -> dict[str, Any] | None:
    """Return the booking that an answer calls for; None unless it is one call and nothing else."""
    found = CALL.fullmatch(text.strip())
    if found is None:
        return None
    room, day, start, hours = found.groups()
    return {"room": room, "day": day, "start": int(start), "hours": int(hours)}


def _demonstration(number: int, rng: random.Random) -> Demonstration:
    """Return an answer, or a failure with a reflection; the retry does what the reflection says."""
    request = find_request(number)
    right = _call(request, request.right_room)
    if rng.random() < 0.35:
        return Demonstration(problem_of(number), right, tags=("answer",))
    wrong = rng.choice([room for room in request.seats if room != request.right_room])
    failed = _call(request, wrong)
    if rng.random() < 0.5:
        return Demonstration(problem_of(number), failed, rng.choice(VAGUE), failed, ("vague",))
    fits = ", ".join(f"{room} {n}" for room, n in request.seats.items() if n >= request.people)
    reflection = f"{request.people} fit in: {fits}. The smallest is {request.right_room}."
    return Demonstration(problem_of(number), failed, reflection, right, ("searching",))


def _call(request: Request, room: str) -> str:
    return f"book({room}, {request.day}, {request.start}, {request.hours})"
