"""A small room-booking service: it says of a call whether it can be carried out.

Nothing is stored: the same call gets the same answer, however often it is sent. To look at it:

    python booking_service.py 8765
    curl localhost:8765/requests/7
"""

import json
import random
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROOMS = {"birch": 4, "cedar": 8, "maple": 16}
"""Seats of each room."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
PARAMETERS: dict[str, type] = {"room": str, "day": str, "start": int, "hours": int}
MAX_BODY = 65_536


@dataclass(frozen=True)
class Request:
    """What a customer has asked for, and which rooms are taken while they want one."""

    people: int
    day: str
    start: int
    """Full hour at which the meeting begins."""
    hours: int
    taken: tuple[str, ...]


def find_request(number: int) -> Request:
    """Return one of the service's requests; at least one room always fits it."""
    rng = random.Random(number)
    people = rng.randint(2, max(ROOMS.values()))
    fitting = [room for room, seats in ROOMS.items() if seats >= people]
    kept = rng.choice(fitting)
    taken = tuple(room for room in ROOMS if room != kept and rng.random() < 0.4)
    return Request(people, rng.choice(DAYS), rng.randint(8, 17), rng.randint(1, 3), taken)


def answer(number: int, call: Mapping[str, Any]) -> tuple[int, str]:
    """Return the HTTP status for a call, and why."""
    if call.get("name") != "book_room":
        return 404, "there is no such tool: book_room is the only one"
    arguments = call.get("arguments")
    fault = find_fault(arguments)
    if fault:
        return 422, fault
    refusal = find_refusal(find_request(number), arguments)
    return (409, refusal) if refusal else (200, "booked")


def find_fault(arguments: object) -> str | None:
    """Say what makes the arguments no booking at all."""
    if not isinstance(arguments, dict) or arguments.keys() != PARAMETERS.keys():
        return f"book_room takes exactly {', '.join(PARAMETERS)}"
    for name, kind in PARAMETERS.items():
        if type(arguments[name]) is not kind:
            return f"{name} should be of type {kind.__name__}"
    return None if arguments["room"] in ROOMS else f"the rooms are {', '.join(ROOMS)}"


def find_refusal(request: Request, booking: Mapping[str, Any]) -> str | None:
    """Say why a booking is not what the customer needs."""
    room = booking["room"]
    if any(booking[name] != getattr(request, name) for name in ("day", "start", "hours")):
        return "the customer has asked for another time"
    if ROOMS[room] < request.people:
        return f"{room} has {ROOMS[room]} seats, and {request.people} people come"
    return f"{room} is taken at that time" if room in request.taken else None


class Handler(BaseHTTPRequestHandler):
    """``GET /requests/N`` shows a request, ``POST /requests/N/calls`` takes a call for it."""

    timeout = 5

    def do_GET(self) -> None:
        """Show a request."""
        found = re.fullmatch(r"/requests/(\d{1,9})", self.path)
        if not found:
            return self._reply(404, {"error": "no such page"})
        return self._reply(200, asdict(find_request(int(found[1]))))

    def do_POST(self) -> None:
        """Judge a call."""
        found = re.fullmatch(r"/requests/(\d{1,9})/calls", self.path)
        length = self.headers.get("Content-Length", "")
        if not found:
            return self._reply(404, {"error": "no such page"})
        if not length.isdecimal() or int(length) > MAX_BODY:
            return self._reply(413, {"error": f"at most {MAX_BODY} bytes, and their number"})
        try:
            call = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return self._reply(400, {"error": "not JSON"})
        if not isinstance(call, dict):
            return self._reply(400, {"error": "not an object"})
        status, message = answer(int(found[1]), call)
        return self._reply(status, {"message": message})

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def _reply(self, status: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def start(port: int = 0) -> ThreadingHTTPServer:
    """Start the service in a thread, on this machine only; port 0 takes a free one."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
