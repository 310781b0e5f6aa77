"""Every fault is made to happen for real, in a worker process."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.tasks.registry import load_task
from mulligan.types import Problem, Verdict
from mulligan.verifiers import worker_handle
from mulligan.verifiers.limits import Limits, processes_by_session
from mulligan.verifiers.pool import InProcessVerifier, IsolatedVerifier, verifier_for

HOSTILE = """
import ctypes, json, os, resource, socket, subprocess, sys, tempfile, time
from mulligan import Problem, Task, Verdict

hoard = []


def flood():
    for _ in range(100):
        print("x" * 1_000_000)
        sys.stderr.write("y" * 1_000_000)


def allocate():
    while True:
        hoard.append(bytearray(10_000_000))


def spawn_and_hang():
    child = subprocess.Popen(["sleep", "300"])
    open(os.environ["CHILD_PID_FILE"], "w").write(str(child.pid))
    child.wait()


def spawn_elsewhere():
    child = subprocess.Popen(["sleep", "300"], process_group=0)
    open(os.environ["CHILD_PID_FILE"], "w").write(str(child.pid))


def spawn_and_return():
    child = subprocess.Popen(["sleep", "300"])
    open(os.environ["CHILD_PID_FILE"], "w").write(str(child.pid))


def replace_stdout():
    sys.stdout.close()
    sys.stdout = None
    sys.stderr = sys.stdin = object()


def write_to_pipes():
    for number in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{number}") and int(number) > 2:
            try:
                os.write(int(number), b'{"value": ["passed", "passed", ""]}\\n')
            except OSError:
                pass


def fork_and_exit():
    if os.fork() == 0:
        time.sleep(300)  # holds both pipes open, so that their end is not seen
    os._exit(7)


def write_a_large_file():
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 3_000_000)
        file.flush()


def start_processes():
    for _ in range(60):
        subprocess.Popen(["sleep", "300"])
    time.sleep(300)


def connect():
    socket.create_connection(("127.0.0.1", int(os.environ["CHILD_PID_FILE"])), timeout=5)


def hang():
    while True:
        pass


def fail():
    raise ValueError("no such column: price")


FAULTS = {
    "hang": hang,
    "nap": lambda: time.sleep(0.4),
    "sleep": lambda: time.sleep(600),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "sys.exit": lambda: sys.exit(3),
    "os._exit": lambda: os._exit(0),
    "flood": flood,
    "allocate": allocate,
    "raise": fail,
    "recurse": lambda: (lambda f: f(f))(lambda f: f(f)),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "spawn_and_hang": spawn_and_hang,
    "spawn_and_return": spawn_and_return,
    "spawn_elsewhere": spawn_elsewhere,
    "fork_and_exit": fork_and_exit,
    "fork": os.fork,
    "close_fds": lambda: os.closerange(3, 4096),
    "write_to_pipes": write_to_pipes,
    "replace_stdout": replace_stdout,
    "large_file": write_a_large_file,
    "processes": start_processes,
    "connect": connect,
}
KINDS = ("RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_CORE")
RETURNS = {"None": None, "nan": float("nan"), "str": "passed", "True": True, "one": 1}


class Hostile(Task):
    name = "hostile"

    def problems(self, split):
        for number in range(200):
            yield Problem.create(f"{split} {number}", {"number": number}, str(number))

    def verify(self, problem, answer):
        if answer in FAULTS:
            FAULTS[answer]()
        if answer in RETURNS:
            return RETURNS[answer]
        if answer == "environment":
            return Verdict.wrong(detail=json.dumps(dict(os.environ)))
        if answer == "limits":
            used = time.process_time()
            bounds = {kind: resource.getrlimit(getattr(resource, kind)) for kind in KINDS}
            return Verdict.wrong(detail=json.dumps([used, bounds]))
        return Verdict.right() if answer == str(problem.given["number"]) else Verdict.wrong()
"""

TELLING = {
    "abort": "killed by SIGABRT",
    "segfault": "killed by SIGSEGV",
    "sys.exit": "SystemExit: 3",
    "os._exit": "ended its process with exit code 0",
    "allocate": "out of memory (a verifier may use 100 MiB)",
    "raise": "ValueError: no such column: price (hostile.py, line ",
    "recurse": "RecursionError",
    "interrupt": "KeyboardInterrupt",
    "fork_and_exit": "ended its process with exit code 7",
    "close_fds": "ended its process with exit code 1",
    "large_file": "File too large",
    "None": "hostile: verify returned None, where a Verdict was expected",
    "nan": "hostile: verify returned nan, where a Verdict was expected",
    "str": "hostile: verify returned 'passed', where a Verdict was expected",
    "True": "hostile: verify returned True, where a Verdict was expected",
    "one": "hostile: verify returned 1, where a Verdict was expected",
}


PATIENT = Limits(deadline_s=60, memory_mib=100, file_mib=1, environment=("CHILD_PID_FILE",))
IMPATIENT = Limits(deadline_s=1, environment=("CHILD_PID_FILE",))


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    path = tmp_path_factory.mktemp("hostile") / "hostile.py"
    path.write_text(HOSTILE)
    return load_task(str(path))


@pytest.fixture(scope="module")
def problems(task) -> list[Problem]:
    return list(task.problems("test"))


@pytest.fixture
def verifier(task):
    with IsolatedVerifier(task.source, workers=2, limits=PATIENT) as verifier:
        yield verifier


@pytest.fixture
def impatient_verifier(task):
    with IsolatedVerifier(task.source, workers=1, limits=IMPATIENT) as verifier:
        yield verifier


@pytest.fixture
def child_pid_file(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "child"
    monkeypatch.setenv("CHILD_PID_FILE", str(path))
    return path


def test_right_and_wrong_answers_get_their_verdicts_in_order(verifier, problems):
    answers = [p.reference if number % 3 else "no" for number, p in enumerate(problems)]
    verdicts = verifier.verify_many(list(zip(problems, answers, strict=True)))
    assert [v.passed for v in verdicts] == [bool(number % 3) for number in range(len(problems))]
    assert {v.status for v in verdicts} == {"passed", "failed"}


@pytest.mark.parametrize("fault", TELLING)
def test_a_fault_is_an_error_that_says_what_happened_and_hurts_no_other_answer(
    fault, verifier, problems, child_pid_file
):
    answers = [problem.reference for problem in problems]
    answers[17] = fault
    verdicts = verifier.verify_many(list(zip(problems, answers, strict=True)))
    assert verdicts[17].status == "error"
    assert TELLING[fault] in verdicts[17].detail
    assert [v.status for v in verdicts[:17] + verdicts[18:]] == ["passed"] * (len(problems) - 1)


@pytest.mark.parametrize("fault", ["hang", "sleep", "spawn_and_hang"])
def test_a_verifier_that_hangs_is_killed_at_its_deadline(
    fault, impatient_verifier, problems, child_pid_file
):
    pairs = [(problems[0], "0"), (problems[1], fault), (problems[2], "2")]
    verdicts = impatient_verifier.verify_many(pairs)
    assert [verdict.status for verdict in verdicts] == ["passed", "error", "passed"]
    assert "took longer than 1 s and was killed" in verdicts[1].detail


@pytest.mark.parametrize("fault", ["flood", "replace_stdout", "spawn_and_return"])
def test_noise_does_not_disturb_the_verdicts(fault, verifier, problems, child_pid_file):
    pairs = [(problems[0], fault), (problems[1], "1"), (problems[2], "2")]
    statuses = [verdict.status for verdict in verifier.verify_many(pairs)]
    assert statuses == ["failed", "passed", "passed"]


def test_a_verifier_sees_no_key_or_token_of_the_environment(monkeypatch, task, problems):
    secrets = ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MY_URL")
    for name in secrets:
        monkeypatch.setenv(name, "planted")
    with IsolatedVerifier(task.source, 1, Limits(environment=["MY_URL"])) as verifier:
        seen = json.loads(verifier.verify(problems[0], "environment").detail)
    assert {"PATH", "HOME"} <= seen.keys()
    assert [name for name, value in seen.items() if value == "planted"] == ["MY_URL"]


def test_a_verifier_is_bounded_in_time_memory_and_files(task, problems):
    limits = Limits(deadline_s=2, memory_mib=100, file_mib=7)
    with IsolatedVerifier(task.source, 1, limits) as verifier:
        used, bounds = json.loads(verifier.verify(problems[0], "limits").detail)
    assert used < bounds["RLIMIT_CPU"][0] <= used + limits.cpu_s + 2
    assert bounds["RLIMIT_FSIZE"] == [7 * 2**20] * 2
    assert 100 * 2**20 < bounds["RLIMIT_AS"][1] < 4000 * 2**20
    assert bounds["RLIMIT_CORE"] == [0, 0]


def test_a_verifier_that_starts_too_many_processes_is_killed_with_them(task, problems):
    with IsolatedVerifier(task.source, 1, Limits(deadline_s=60, processes=20)) as verifier:
        verdict = verifier.verify(problems[0], "processes")
        pids = [worker.process.pid for worker in verifier._workers]
    assert verdict.status == "error"
    assert "processes, where 20 are allowed, and was killed" in verdict.detail
    assert all(pid not in processes_by_session() for pid in pids)


def cut_off_here() -> bool:
    """Whether this system lets a process leave the network."""
    code = "from mulligan.verifiers.limits import leave_network as f; print(f())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip() == ""


@pytest.mark.parametrize("network", [False, True])
def test_a_verifier_reaches_the_network_only_where_its_task_needs_it(
    network, task, problems, monkeypatch
):
    if not cut_off_here():
        pytest.skip("this system has no network namespaces for us")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("CHILD_PID_FILE", str(server.getsockname()[1]))
        limits = replace(PATIENT, network=network)
        with IsolatedVerifier(task.source, 1, limits) as verifier:
            verdict = verifier.verify(problems[0], "connect")
    assert verdict.status == ("failed" if network else "error")
    assert ("Network is unreachable" in verdict.detail) is not network


def test_where_the_network_cannot_be_cut_off_it_is_said_once(caplog, monkeypatch):
    worker_handle._say_once_if_online.cache_clear()
    for _ in range(3):
        worker_handle._say_once_if_online("Operation not permitted")
        worker_handle._say_once_if_online("")
    assert [record.getMessage() for record in caplog.records] == [
        "Verifiers can reach the network: this system does not allow cutting it off "
        "(Operation not permitted)."
    ]


def test_whether_answers_are_the_same_is_asked_in_the_workers_too(tmp_path):
    path = tmp_path / "same.py"
    path.write_text(
        HOSTILE + "\n    def same_answer(self, problem, one, other):\n"
        "        return {'raise': 1 / len(other)}.get(one, one.lower() == other.lower())\n"
    )
    task = load_task(str(path))
    problem = next(iter(task.problems("train")))
    assert task.compares_answers
    with verifier_for(task) as verifier:
        triples = [(problem, "a", "A"), (problem, "a", "b"), (problem, "a", "")]
        assert verifier.same_many(triples) == [True, False, None]


def test_what_a_verifier_writes_into_the_pipes_never_becomes_a_pass(verifier, problems):
    pairs = [(problem, "write_to_pipes") for problem in problems[:4]]
    assert not any(verdict.passed for verdict in verifier.verify_many(pairs))
    assert verifier.verify(problems[5], "5").passed


def test_a_verifier_that_doubles_its_process_never_makes_a_wrong_answer_pass(verifier, problems):
    pairs = [(problem, "fork" if n == 3 else "no") for n, problem in enumerate(problems)]
    assert {v.status for v in verifier.verify_many(pairs)} <= {"failed", "error"}


def test_each_of_many_faults_is_blamed_on_its_own_answer(verifier, problems):
    answers = [problem.reference for problem in problems]
    faults = {
        3: "os._exit",
        4: "abort",
        50: "fork_and_exit",
        51: "sys.exit",
        52: "raise",
        199: "segfault",
    }
    for place, fault in faults.items():
        answers[place] = fault
    verdicts = verifier.verify_many(list(zip(problems, answers, strict=True)))
    assert {n for n, v in enumerate(verdicts) if v.status == "error"} == set(faults)
    assert all(v.passed for n, v in enumerate(verdicts) if n not in faults)


def test_the_deadline_is_per_call_not_per_batch(impatient_verifier, problems):
    pairs = [(problems[0], "nap")] * 4 + [(problems[9], "9")]
    statuses = [verdict.status for verdict in impatient_verifier.verify_many(pairs)]
    assert statuses == ["failed"] * 4 + ["passed"]  # 1.6 s in all, each within the deadline


@pytest.mark.parametrize("fault", ["spawn_and_hang", "spawn_and_return", "spawn_elsewhere"])
def test_what_a_verifier_started_dies_with_its_worker(fault, task, problems, child_pid_file):
    with IsolatedVerifier(task.source, workers=1, limits=IMPATIENT) as verifier:
        verifier.verify(problems[0], fault)
        child = int(child_pid_file.read_text())
    assert _is_gone(child)


def test_closing_leaves_no_process_behind(task, problems):
    with IsolatedVerifier(task.source, workers=2) as verifier:
        verifier.verify_many([(problems[0], "0")] * 50)
        pids = [worker.process.pid for worker in verifier._workers]
    assert len(pids) == 2
    assert all(_is_gone(pid) for pid in pids)


def test_a_worker_killed_while_idle_is_replaced_and_nothing_is_blamed(verifier, problems):
    assert verifier.verify_many([(problems[0], "0")] * 50)[0].passed
    for worker in verifier._workers:
        os.kill(worker.process.pid, 9)
        worker.process.wait()
    assert all(v.passed for v in verifier.verify_many([(problems[0], "0")] * 50))


def test_long_texts_and_lone_surrogates_travel(verifier, problems):
    pairs = [(problems[0], "x" * 5_000_000), (problems[0], "\ud800\x00\n"), (problems[0], "0")]
    assert [v.status for v in verifier.verify_many(pairs)] == ["failed", "failed", "passed"]


def test_leaks_are_looked_for_in_the_workers_too(impatient_verifier, problems):
    texts = ["I should say\n0\n", "I was careless.", "hang", "raise"]
    assert impatient_verifier.leaks_many([(problems[0], t) for t in texts]) == [
        True,
        False,
        None,
        None,
    ]


def test_ids_can_be_asked_of_a_fresh_process(verifier, task, problems):
    assert verifier.problem_ids("test", 10) == [problem.id for problem in problems[:10]]


def test_nothing_to_verify_starts_no_worker(verifier):
    assert verifier.verify_many([]) == []
    assert verifier._workers == []


def test_a_task_that_cannot_be_loaded_in_the_worker_is_an_error_for_the_user(tmp_path):
    path = tmp_path / "fleeting.py"
    path.write_text(HOSTILE)
    task = load_task(str(path))
    path.unlink()
    with (
        pytest.raises(MulliganError, match="There is no file"),
        IsolatedVerifier(task.source) as verifier,
    ):
        verifier.verify(next(iter(task.problems("train"))), "0")


def test_a_problem_that_is_not_plain_json_is_named(verifier, problems):
    odd = Problem("abc", problems[0].messages, {"set": {1, 2}})
    with pytest.raises(MulliganError, match=r"The problem abc of the task .* plain JSON"):
        verifier.verify(odd, "0")


@pytest.mark.parametrize("bound", ["deadline_s", "memory_mib", "file_mib", "processes"])
def test_senseless_limits_are_refused(bound):
    with pytest.raises(MulliganError, match="Verifying needs a deadline above 0 s"):
        Limits(**{bound: 0})


def test_no_workers_at_all_are_refused(task):
    with pytest.raises(MulliganError, match="at least one worker"):
        IsolatedVerifier(task.source, workers=0)


def test_two_thousand_verifications_a_second_are_reached(task, problems):
    pairs = [(problem, "no") for problem in problems] * 5
    rates = []
    with verifier_for(task, workers=2) as verifier:
        verifier.verify_many(pairs[:100])
        for _ in range(5):  # the best of five: the machine may be busy with other things
            began = time.monotonic()
            verifier.verify_many(pairs)
            rates.append(len(pairs) / (time.monotonic() - began))
    assert max(rates) > 2000


class Tame(Task):
    name = "tame"
    safe = True

    def problems(self, split):
        yield Problem.create("What?", {})

    def verify(self, problem, answer):
        if answer == "raise":
            raise KeyError("price")
        return None if answer == "None" else Verdict.right()


def test_a_safe_task_is_verified_in_process_and_its_faults_are_errors():
    problem = next(Tame().problems("train"))
    with verifier_for(Tame()) as verifier:
        assert isinstance(verifier, InProcessVerifier)
        verdicts = verifier.verify_many([(problem, text) for text in ("fine", "raise", "None")])
        leaks = verifier.leaks_many([(problem, "fine"), (problem, "raise")])
    assert [v.status for v in verdicts] == ["passed", "error", "error"]
    assert "tame: verify raised KeyError: 'price'" in verdicts[1].detail
    assert "tame: verify returned None" in verdicts[2].detail
    assert leaks == [True, None]


def test_an_unsafe_task_made_by_hand_is_refused():
    class Wild(Tame):
        name = "wild"
        safe = False

    with pytest.raises(MulliganError, match=r"make it by mulligan\.tasks\.registry\.load_task"):
        verifier_for(Wild())


def _is_gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether a process ends; a zombie that waits for its new parent has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
