import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import islice
from pathlib import Path

import pytest

from mulligan.tasks.registry import load_task
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.validate import passed, validate_task
from tiny import lines

FOLDER = Path(__file__).parents[2] / "examples" / "self_improving_service"


@pytest.fixture(scope="module")
def task():
    return load_task(str(FOLDER / "rooms.py"), {"timeout_s": 60})


@pytest.fixture(scope="module")
def service(task):
    return importlib.import_module("rooms_service")  # its folder is on the path with the task


def call(request, room, **changes):
    wanted = {"day": request.day, "start": request.start, "hours": request.hours} | changes
    return f"book({room}, {wanted['day']}, {wanted['start']}, {wanted['hours']})"


def test_the_task_is_valid(task):
    checks = validate_task(task, count=30, limits=Limits(deadline_s=90))
    assert passed(checks), [check for check in checks if check.result == "failed"]


def test_only_the_smallest_room_with_a_seat_for_everyone_is_booked(task, service):
    for problem in islice(task.problems("train"), 30):
        request = service.find_request(problem.given["request"])
        right = {room: task.verify(problem, call(request, room)).passed for room in service.ROOMS}
        fitting = [room for room, seats in request.seats.items() if seats >= request.people]
        assert [room for room, took in right.items() if took] == [
            min(fitting, key=request.seats.__getitem__)
        ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I would take cedar.", "no_call"),
        ("book(cedar, Mon, 9, 1) or book(elm, Mon, 9, 1)", "no_call"),
        ("book(attic, Mon, 9, 1)", "refused"),
    ],
)
def test_answers_that_are_not_one_acceptable_call_are_told_apart(task, answer, reason):
    problem = next(iter(task.problems("train")))
    assert task.verify(problem, answer).reason == reason


def test_another_time_than_the_customer_s_is_refused(task, service):
    problem = next(iter(task.problems("test")))
    request = service.find_request(problem.given["request"])
    assert task.verify(problem, call(request, request.right_room)).passed
    late = call(request, request.right_room, start=request.start + 1)
    assert task.verify(problem, late).reason == "refused"


def test_what_measures_is_never_shown_in_training(task):
    held_out = {problem.id for problem in task.problems("test")}
    assert held_out.isdisjoint(problem.id for problem in task.problems("train"))
    shown = {each.problem.id for each in task.demonstrations(400, 0)}
    assert held_out.isdisjoint(shown)


def test_a_demonstrated_retry_does_what_its_reflection_says(task):
    for each in task.demonstrations(60, 0):
        if each.reflection is None:
            assert task.verify(each.problem, each.attempt).passed
            continue
        assert not task.verify(each.problem, each.attempt).passed
        named = each.reflection.partition("The smallest is ")[2].rstrip(".")
        assert task.verify(each.problem, each.retry).passed == bool(named)
        assert named in each.retry


def go_round(out, *arguments, timeout):
    done = subprocess.run(
        [sys.executable, FOLDER / "circle.py", "--out", out, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_result(out, requests):
    """The figure's numbers are those of the file; returns the shares and their change."""
    result = json.loads((out / "circle.json").read_text())
    assert result["requests"] == requests
    shares, change = result["first_try"], result["change"]
    for each in (*shares, change):
        assert each["low"] <= each["value"] <= each["high"]
    assert change["value"] == pytest.approx(shares[-1]["value"] - shares[0]["value"])
    drawn = "".join(ET.parse(out / "circle.svg").getroot().itertext())
    assert "svg" in (out / "circle.svg").read_text()[:400]
    return shares, change, drawn


@pytest.mark.slow
def test_the_circle_closes_with_a_tiny_model(tiny_llama, tmp_path):
    """Two rounds of all the parts but a model that can do the task: everything is stored."""
    out = tmp_path / "out"
    settings = [
        f"model={tiny_llama}",
        *("device=cpu", "dtype=float32", "sft.examples=8", "train.steps=1"),
        "train.reward=random",  # or nothing would be learned: no retry of it passes
        *("train.failures_per_step=2", "train.group_size=8", "consolidate.tries=1"),
    ]
    sizes = ("--rounds", 2, "--traffic", 12, "--held-out", 4)
    said = go_round(out, *sizes, *settings, timeout=600)
    assert said.count("12 requests: 0 served at the first try, 0 at a later one") == 2
    assert "{'object': 'reload', 'weights': 3}" in said
    assert len(lines(out / "production" / "failures.jsonl")) <= 24
    shares, _, _ = check_result(out, 4)
    assert [each["value"] for each in shares] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(5500)
def test_the_real_model_gets_better_at_requests_that_it_was_never_trained_on(tmp_path):
    said = go_round(tmp_path / "out", timeout=5400)
    shares, change, _ = check_result(tmp_path / "out", 300)
    assert len(shares) == 2
    # One server, from the first request to the last.
    assert said.count("goes on with new weights") == 1
    assert change["low"] > 0
