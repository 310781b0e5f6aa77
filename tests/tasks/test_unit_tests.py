import json
import os
import time
from pathlib import Path

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.python_runner import run_tests
from mulligan.verifiers.pool import verifier_for
from mulligan.verifiers.validate import validate_task
from task_rows import only_problem, task_of

ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\n\ndef test_negative():\n    assert add(-1, 1) == 0, 'negative'\n"


def judge(folder, answer, tests=TESTS, **options):
    task = task_of("unit_tests", folder, {"messages": "Write add.", "tests": tests}, **options)
    return task.verify(only_problem(task), answer)


@pytest.mark.parametrize("answer", [ADD, f"Like this:\n```python\n{ADD}```\nIt adds."])
def test_code_that_passes_its_tests_passes(answer, tmp_path):
    assert judge(tmp_path, answer).passed


@pytest.mark.parametrize(
    ("answer", "status", "reason", "detail"),
    [
        ("", "unparseable", "no_code", ""),
        ("I cannot do that.", "unparseable", "not_python", ""),
        ("(" * 5000, "unparseable", "not_python", ""),
        ("def add(a, b): return a - b", "failed", "failed_test", "AssertionError"),
        ("def add(a, b): return abs(a) + b", "failed", "failed_test", "negative"),
        ("x = 1", "failed", "raised", "NameError: name 'add' is not defined"),
        ("def add(a, b): return a + c", "failed", "raised", "NameError: name 'c'"),
        ("while True: pass", "failed", "took_too_long", "longer than 0.8 s"),
        ("import time; time.sleep(60)", "failed", "took_too_long", "longer than 0.8 s"),
        ("import sys; sys.exit(0)", "failed", "ended_early", "exit status 0"),
        ("import os; os._exit(0)", "failed", "ended_early", "exit status 0"),
        ("import os; os.abort()", "failed", "ended_early", "SIGABRT"),
        ("x = bytearray(2**31)", "failed", "raised", "MemoryError"),
        ("open('f', 'wb').write(b'x' * 10**7)", "failed", "raised", "File too large"),
        (
            "def test_negative(): pass\ndef add(a, b): return abs(a) + b",
            "failed",
            "failed_test",
            "",
        ),
        ("raise SystemExit", "failed", "ended_early", ""),
    ],
)
def test_every_way_to_fail_has_its_reason(answer, status, reason, detail, tmp_path):
    verdict = judge(tmp_path, answer, seconds=0.8 if "longer" in detail else 2)
    assert (verdict.status, verdict.reason) == (status, reason), verdict.detail
    assert detail in verdict.detail


def test_an_answer_sees_an_empty_folder_no_key_and_not_the_tests(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "planted")
    seen = tmp_path / "seen"
    code = (
        "import json, os, sys\n"
        f"text = json.dumps([os.listdir(), dict(os.environ), sys.orig_argv])\n"
        f"open({str(seen)!r}, 'w').write(text)\n"
        f"{ADD}"
    )
    assert run_tests(code, TESTS, 5, 512).reason == "passed"
    files, environment, arguments = json.loads(seen.read_text())
    assert files == ["solution.py"]
    assert "planted" not in environment.values()
    assert environment["HOME"] == environment["TMPDIR"] != os.environ.get("HOME")
    assert not any("assert" in argument for argument in arguments)
    assert not Path(environment["HOME"]).exists()


def test_what_an_answer_started_dies_with_it(tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        f"{ADD}"
    )
    outcome = run_tests(code, TESTS, 5, 512)
    if outcome.reason != "passed":  # the system lets an ordinary user bound processes
        assert "Resource temporarily unavailable" in outcome.detail
        return
    child = int(pid_file.read_text())
    end = time.monotonic() + 5
    while time.monotonic() < end and _lives(child):
        time.sleep(0.02)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_answer_has_no_network_in_a_worker(tmp_path):
    import socket

    code = "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n" + ADD
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = code.format(port=server.getsockname()[1])
        task = task_of("unit_tests", tmp_path, {"messages": "Write add.", "tests": TESTS})
        with verifier_for(task, workers=1) as verifier:
            verdict, fine = verifier.verify_many(
                [(only_problem(task), code), (only_problem(task), ADD)]
            )
    assert fine.passed
    if verdict.passed:
        pytest.skip("this system has no network namespaces for us")
    assert "Network is unreachable" in verdict.detail


def test_tests_are_valid_rows_and_references_pass(tmp_path):
    rows = [
        {
            "messages": f"Write add{n}, which adds {n}.",
            "tests": f"assert add{n}(1) == {n + 1}",
            "reference": f"def add{n}(x): return x + {n}",
            "wrong": [f"def add{n}(x): return x", "import sys; sys.exit(0)"],
        }
        for n in range(1, 31)
    ]
    checks = validate_task(task_of("unit_tests", tmp_path, *rows), count=1)
    assert [check for check in checks if check.result == "failed"] == []


def test_assertions_of_a_function_that_the_tests_call_are_tests(tmp_path):
    tests = f"{NEVER_RUN[0]}\ncheck(add)"
    assert judge(tmp_path, ADD, tests).passed
    assert judge(tmp_path, "def add(a, b): return 0", tests).reason == "failed_test"


def test_code_is_the_same_but_for_layout_and_comments(tmp_path):
    task = task_of("unit_tests", tmp_path, {"messages": "Write add.", "tests": TESTS})
    problem = only_problem(task)
    assert task.same_answer(problem, ADD, f"```python\n{ADD}  # done\n```")
    assert not task.same_answer(problem, ADD, ADD.replace("+", "-"))
    assert not task.same_answer(problem, "no code", "no code")


def test_a_reflection_leaks_by_a_block_of_code(tmp_path):
    task = task_of("unit_tests", tmp_path, {"messages": "Write add.", "tests": TESTS})
    problem = only_problem(task)
    assert task.leaks(problem, f"I subtracted. Better:\n```python\n{ADD}```")
    assert task.leaks(problem, f"I subtracted. Better:\n\n{ADD}")
    assert not task.leaks(problem, "I subtracted (wrongly).")


NEVER_RUN = (
    "def check(add):\n    assert add(1, 2) == 3",
    "class TestAdd:\n    def test_add(self):\n        assert add(1, 2) == 3",
    "NAMES = {}\nasync def test_add():\n    assert add(1, 2) == 3",
)


@pytest.mark.parametrize("tests", ["", "add(1, 2)", "assert add(", 3, None, *NEVER_RUN])
def test_rows_whose_tests_test_nothing_are_refused(tests, tmp_path):
    with pytest.raises(MulliganError, match="line 1: 'tests' should be Python code with"):
        only_problem(task_of("unit_tests", tmp_path, {"messages": "x", "tests": tests}))
