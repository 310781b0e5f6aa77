"""Running code that a model wrote against tests, in a bounded process of its own.

The code is a file of an empty folder; the tests come through standard input, so that the code
finds them in no file. Only the end of the tests writes a word that is drawn for each run; leaving
early, with whatever exit status, is not a pass.
"""

import ast
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FILE_MIB = 4
_OPEN_FILES = 64
_LONGEST_DETAIL = 300

_PROGRAM = """\
import resource as _r, sys as _s
for _kind, _value in {limits}:
    _kind = getattr(_r, _kind)
    _hard = _r.getrlimit(_kind)[1]
    _value = _value if _hard == _r.RLIM_INFINITY else min(_value, _hard)
    _r.setrlimit(_kind, (_value, _value))
_s.path.insert(0, {folder!r})
from solution import *
import solution
{tests}
{calls}
import os as _o
_o.write({descriptor}, {word!r})
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the tests went."""

    reason: str
    """``passed``, ``failed_test``, ``raised``, ``took_too_long`` or ``ended_early``."""
    detail: str = ""
    """The last line of the traceback, or how the process ended."""


def run_tests(code: str, tests: str, seconds: float, memory_mib: int) -> Outcome:
    """Run code, and tests that use its names.

    Args:
        code: Python code; it becomes the module ``solution``.
        tests: Python code that finds the names of ``code``.
        seconds: Longest time for both.
        memory_mib: Memory that they may allocate.

    Raises:
        OSError: the process cannot be started.
    """
    word = secrets.token_hex(16).encode()
    with tempfile.TemporaryDirectory(prefix="mulligan-") as folder:
        Path(folder, "solution.py").write_text(code, encoding="utf-8")
        reading, writing = os.pipe()
        program = _PROGRAM.format(
            limits=_limits(seconds, memory_mib),
            folder=folder,
            tests=tests,
            calls="\n".join(f"{name}()" for name in test_functions(ast.parse(tests))),
            descriptor=writing,
            word=word,
        )
        try:
            complaints, status = _run(program, folder, writing, seconds)
            os.set_blocking(reading, False)
            with suppress(BlockingIOError):
                if os.read(reading, 1000) == word and status == 0:
                    return Outcome("passed")
        finally:
            os.close(reading)
    return _failure(complaints, status, seconds)


def _run(program: str, folder: str, writing: int, seconds: float) -> tuple[str, int | None]:
    """Run the program to its end; return the end of its complaints and its status."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-B", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                env=_environment(folder),
                pass_fds=(writing,),
                process_group=0,
            )
        finally:
            os.close(writing)
        status: int | None = None
        try:
            process.communicate(program.encode("utf-8", "replace"), timeout=seconds)
            status = process.returncode
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        end = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, end - 4000))
        return errors.read().decode("utf-8", "replace"), status


def _failure(complaints: str, status: int | None, seconds: float) -> Outcome:
    if status is None:
        return Outcome("took_too_long", f"longer than {seconds:g} s")
    lines = [line for line in complaints.splitlines() if line.strip()]
    last = lines[-1][:_LONGEST_DETAIL] if lines else ""
    if status == 1 and "Traceback (most recent call last)" in complaints:
        return Outcome("failed_test" if last.startswith("AssertionError") else "raised", last)
    if status < 0:
        return Outcome("ended_early", f"killed by {signal.Signals(-status).name}")
    return Outcome("ended_early", f"exit status {status} before the tests were over")


def test_functions(tests: ast.Module) -> list[str]:
    """Return the names of the test functions, in their order."""
    functions = [n.name for n in tests.body if isinstance(n, ast.FunctionDef)]
    return [name for name in functions if name.startswith("test_")]


def _limits(seconds: float, memory_mib: int) -> list[tuple[str, int]]:
    return [
        ("RLIMIT_AS", memory_mib * 2**20),
        ("RLIMIT_CPU", int(seconds) + 1),
        ("RLIMIT_FSIZE", _FILE_MIB * 2**20),
        ("RLIMIT_NOFILE", _OPEN_FILES),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CORE", 0),
    ]


def _environment(folder: str) -> dict[str, str]:
    return {
        "HOME": folder,
        "TMPDIR": folder,
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }
