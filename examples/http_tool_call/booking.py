"""Book a room by a tool call. Nobody knows the right answers: the service says what works.

The verifier sends the model's call to an HTTP service and passes on a 2xx.
"""

import http.client
import json
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import urlsplit

import booking_service

from mulligan import MulliganError, Problem, Task, Verdict
from mulligan.tasks.base import Split
from mulligan.tasks.function_calling.calls import Call
from mulligan.tasks.function_calling.parse import UnreadableError, find_calls, read_calls

TEST_FROM = 100_000
"""Requests from this number on are the test split."""
REASONS = {400: "not_a_call", 404: "unknown_tool", 409: "refused", 422: "wrong_arguments"}
TOOL = {
    "type": "function",
    "function": {
        "name": "book_room",
        "description": "Book a meeting room.",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": list(booking_service.ROOMS)},
                "day": {"type": "string", "enum": list(booking_service.DAYS)},
                "start": {"type": "integer", "description": "full hour, 0 to 23"},
                "hours": {"type": "integer", "description": "length of the meeting"},
            },
            "required": ["room", "day", "start", "hours"],
        },
    },
}


class Booking(Task):
    """Book a room by a call that an HTTP service accepts; there are no reference answers."""

    name = "booking"
    network = True  # the verifier calls the service
    reasons = (
        "passed", "no_call", "not_parseable", "wrong_number_of_calls", *REASONS.values(),
    )  # fmt: skip

    def __init__(self, url: str | None = None, size: int = 2000, timeout_s: float = 3.0) -> None:
        """Use the service at ``url``; by default, one that starts with the task."""
        if url is not None and urlsplit(url).scheme != "http":
            raise MulliganError(f"url should look like http://127.0.0.1:8765, not {url!r}.")
        self.url = url
        self.size = size
        self.timeout_s = timeout_s

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the service's requests, as its customers would put them."""
        first = TEST_FROM if split == "test" else 0
        seen = {problem.id for problem in self.problems("test")} if split == "train" else set()
        for number in range(first, first + self.size):
            problem = _problem(number)
            if problem.id not in seen:
                seen.add(problem.id)
                yield problem

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Send the call to the service."""
        try:
            calls = read_calls(answer)
        except UnreadableError as unreadable:
            return unreadable.verdict
        if len(calls) != 1:
            return Verdict.wrong("wrong_number_of_calls")
        status, message = self._send(problem, calls[0])
        return Verdict.right() if status // 100 == 2 else Verdict.wrong(REASONS[status], message)

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether the reflection holds a call that the service accepts."""
        calls = find_calls(reflection, ["book_room"])
        return any(self._send(problem, call)[0] // 100 == 2 for call in calls[:20])

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Calls that no request allows."""
        unknown = Call("book_table", {"room": "birch"})
        attic = Call("book_room", {"room": "attic", "day": "Sunday", "start": 3, "hours": 99})
        return [json.dumps({"name": c.name, "arguments": c.arguments}) for c in (unknown, attic)]

    def _send(self, problem: Problem, call: Call) -> tuple[int, str]:
        """Return the service's status and message. Redirects are not followed.

        Raises:
            RuntimeError: the service itself is in trouble, which is no fault of the call's.
            OSError: it cannot be reached in time.
        """
        body = json.dumps({"name": call.name, "arguments": call.arguments})
        connection = http.client.HTTPConnection(self._address, timeout=self.timeout_s)
        try:
            connection.request("POST", f"/requests/{problem.given['request']}/calls", body)
            response = connection.getresponse()
            content = response.read(booking_service.MAX_BODY)
        finally:
            connection.close()
        if response.status // 100 != 2 and response.status not in REASONS:
            raise RuntimeError(f"the service answered {response.status} {response.reason}")
        return response.status, content.decode(errors="replace")

    @cached_property
    def _address(self) -> str:
        if self.url is not None:
            return urlsplit(self.url).netloc
        host, port = booking_service.start().server_address[:2]
        return f"{host}:{port}"


def _problem(number: int) -> Problem:
    request = booking_service.find_request(number)
    rooms = ", ".join(f"{room} ({seats} seats)" for room, seats in booking_service.ROOMS.items())
    taken = ", ".join(request.taken) or "none"
    question = (
        f"We are {request.people} people and need a room on {request.day} from {request.start}:00 "
        f"for {request.hours} h. Rooms: {rooms}. Taken at that time: {taken}. Book one that is "
        f"free and large enough."
    )
    problem = Problem.create(question, {}, tools=[TOOL])
    # The same question under another number is the same problem: the number is not in its id.
    return Problem(problem.id, problem.messages, {"request": number}, tools=problem.tools)
