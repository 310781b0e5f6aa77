r"""A small service that books rooms: it accepts a booking with status 201, or says why not.

Nothing is stored: the same booking gets the same answer, however often it is sent. To look at it:

    python rooms_service.py 8765
    curl localhost:8765/requests/7
    curl localhost:8765/requests/7/bookings \
        -d '{"room": "birch", "day": "Mon", "start": 9, "hours": 1}'
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

ROOMS = ("birch", "cedar", "elm", "maple")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri")
FIELDS: dict[str, type] = {"room": str, "day": str, "start": int, "hours": int}
MAX_BODY = 4096


@dataclass(frozen=True)
class Request:
    """What a customer wants, and which rooms are free then."""

    people: int
    day: str
    start: int
    """Full hour at which the meeting begins."""
    hours: int
    seats: Mapping[str, int]
    """Seats of each free room; no two have as many."""

    @property
    def right_room(self) -> str:
        """The smallest free room in which everybody has a seat."""
        return min((n, room) for room, n in self.seats.items() if n >= self.people)[1]


def find_request(number: int) -> Request:
    """Return one of the service's requests; at least one room always fits it."""
    rng = random.Random(number)
    free = rng.sample(ROOMS, 3)
    seats = dict(zip(free, rng.sample(range(2, 21), 3), strict=True))
    people = rng.randint(2, max(seats.values()))
    return Request(people, rng.choice(DAYS), rng.randint(8, 17), rng.randint(1, 3), seats)


def answer(number: int, booking: object) -> tuple[int, str]:
    """Return the HTTP status for a booking, and why."""
    if not isinstance(booking, dict) or booking.keys() != FIELDS.keys():
        return 422, f"a booking has exactly {', '.join(FIELDS)}"
    for name, kind in FIELDS.items():
        if type(booking[name]) is not kind:
            return 422, f"{name} should be of type {kind.__name__}"
    request = find_request(number)
    if any(booking[name] != getattr(request, name) for name in ("day", "start", "hours")):
        return 409, "the customer has asked for another time"
    return _judge_room(request, booking["room"])


def _judge_room(request: Request, room: str) -> tuple[int, str]:
    if room not in request.seats:
        return 409, f"{room} is not free"
    if request.seats[room] < request.people:
        return 409, f"{room} has {request.seats[room]} seats, and {request.people} people come"
    if room != request.right_room:
        return 409, f"a smaller room than {room} would do"
    return 201, "booked"


class Handler(BaseHTTPRequestHandler):
    """``GET /requests/N`` shows a request, ``POST /requests/N/bookings`` takes a booking for it."""

    timeout = 5

    def do_GET(self) -> None:
        """Show a request."""
        found = re.fullmatch(r"/requests/(\d{1,9})", self.path)
        if not found:
            return self._reply(404, {"error": "no such page"})
        return self._reply(200, asdict(find_request(int(found[1]))))

    def do_POST(self) -> None:
        """Judge a booking."""
        found = re.fullmatch(r"/requests/(\d{1,9})/bookings", self.path)
        length = self.headers.get("Content-Length", "")
        if not found:
            return self._reply(404, {"error": "no such page"})
        if not length.isdecimal() or int(length) > MAX_BODY:
            return self._reply(413, {"error": f"at most {MAX_BODY} bytes, and their number"})
        try:
            booking = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return self._reply(400, {"error": "not JSON"})
        status, message = answer(int(found[1]), booking)
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


class Service(ThreadingHTTPServer):
    """Books rooms."""

    request_queue_size = 128
    """Connections that wait to be taken: a batch of answers comes at once, and of more than the
    usual five the others may be reset."""


def start(port: int = 0) -> ThreadingHTTPServer:
    """Start the service in a thread, on this machine only; port 0 takes a free one."""
    server = Service(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    Service(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
