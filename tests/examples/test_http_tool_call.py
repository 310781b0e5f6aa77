import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.registry import load_task
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.pool import verifier_for
from mulligan.verifiers.validate import passed, validate_task

FOLDER = Path(__file__).parents[2] / "examples" / "http_tool_call"
ROOMS = {"birch": 4, "cedar": 8, "maple": 16}


@pytest.fixture(scope="module")
def task():
    return load_task(str(FOLDER / "booking.py"), {"timeout_s": 60})


@pytest.fixture(scope="module")
def problem(task):
    """A request for which birch is too small, cedar taken and maple free."""
    for problem in task.problems("train"):
        request = _request(problem)
        if request.people == 8 and request.taken == ("cedar",):
            return problem
    raise AssertionError("no such request")


def _request(problem):
    import booking_service  # importable since the task was loaded: its folder is on the path

    return booking_service.find_request(problem.given["request"])


def _call(problem, **changes) -> str:
    request = _request(problem)
    arguments = {"day": request.day, "start": request.start, "hours": request.hours}
    arguments = {"room": "maple", **arguments, **changes}
    return json.dumps({"name": "book_room", "arguments": arguments})


def test_the_example_is_a_valid_task(task):
    checks = validate_task(task, count=30, limits=Limits(deadline_s=90))
    assert passed(checks), [check for check in checks if check.result == "failed"]
    results = {check.name: check.result for check in checks}
    assert results["reference answers pass"] == "skipped"
    assert results["own wrong answers fail"] == "ok"


def test_a_call_that_the_service_accepts_passes_in_the_workers(task, problem):
    with verifier_for(task, limits=Limits(deadline_s=90)) as verifier:
        assert verifier.verify_many([(problem, _call(problem))])[0].passed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"room": "birch"}, "refused"),
        ({"room": "cedar"}, "refused"),
        ({"day": "Sunday"}, "refused"),
        ({"start": 7}, "refused"),
        ({"room": "attic"}, "wrong_arguments"),
        ({"hours": "two"}, "wrong_arguments"),
        ({"hours": True}, "wrong_arguments"),
        ({"people": 8}, "wrong_arguments"),
    ],
)
def test_a_call_that_the_service_refuses_is_wrong(task, problem, changes, reason):
    verdict = task.verify(problem, _call(problem, **changes))
    assert (verdict.status, verdict.reason) == ("failed", reason)


def test_every_request_can_be_met_by_some_room_and_not_by_all(task):
    accepted = [
        sum(task.verify(problem, _call(problem, room=room)).passed for room in ROOMS)
        for problem in islice(task.problems("test"), 40)
    ]
    assert min(accepted) >= 1
    assert sum(accepted) < 2 * len(accepted)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ("I would take maple.", "unparseable", "no_call"),
        ('{"name": "book_table", "arguments": {}}', "failed", "unknown_tool"),
    ],
)
def test_answers_without_a_known_call_do_not_pass(task, problem, answer, status, reason):
    verdict = task.verify(problem, answer)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_sending_every_possible_call_at_once_does_not_pass(task, problem):
    hedge = "\n".join(_call(problem, room=room) for room in ROOMS)
    assert task.verify(problem, hedge).reason == "wrong_number_of_calls"


def test_a_reflection_that_holds_an_accepted_call_leaks(task, problem):
    assert task.leaks(problem, f"I should have sent {_call(problem)}.")
    assert not task.leaks(problem, f"I should not have sent {_call(problem, room='birch')}.")


@pytest.fixture
def service_that_answers():
    """Start a service that gives one status to all calls; yields a function that starts it."""
    servers = []

    def start(status: int) -> tuple[str, list[str]]:
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [302, 307, 500, 503])
def test_a_service_in_trouble_or_that_redirects_is_an_error_not_a_wrong_call(
    status, service_that_answers, problem
):
    url, asked = service_that_answers(status)
    task = load_task(str(FOLDER / "booking.py"), {"url": url, "timeout_s": 60})
    with verifier_for(task, workers=1, limits=Limits(deadline_s=90)) as verifier:
        verdict = verifier.verify_many([(problem, _call(problem))])[0]
    assert verdict.status == "error"
    assert str(status) in verdict.detail
    assert len(asked) == 1  # a redirect is not followed


def test_a_service_that_is_not_there_is_an_error(problem):
    task = load_task(str(FOLDER / "booking.py"), {"url": "http://127.0.0.1:9"})
    with verifier_for(task, workers=1, limits=Limits(deadline_s=90)) as verifier:
        assert verifier.verify_many([(problem, _call(problem))])[0].status == "error"


def test_an_address_that_is_no_http_url_is_refused():
    with pytest.raises(MulliganError, match="url should look like"):
        load_task(str(FOLDER / "booking.py"), {"url": "file:///etc/passwd"})
