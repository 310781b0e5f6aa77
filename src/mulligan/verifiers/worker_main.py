"""What a worker process does: it loads the task and verifies; ``worker_handle.py`` asks it.

Started as ``python -m mulligan.verifiers.worker_main REQUESTS REPLIES``, two inherited file
descriptors. Both carry JSON, one message per line, answers in the order of the requests. Standard
input, output and error lead nowhere, so a verifier may print what it likes. What it may use is
said in ``limits.py``.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any, BinaryIO

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.tasks.registry import load_task
from mulligan.tasks.user_file import explain
from mulligan.types import Problem
from mulligan.verifiers.judging import checked
from mulligan.verifiers.limits import allow_cpu_seconds, bound_this_process, leave_network
from mulligan.verifiers.reward_function import PREFIX, RewardFunction, seen_episode

Served = Task | RewardFunction

MAX_DETAIL = 2000
"""Characters of a verdict's detail that are sent back."""


def main() -> None:
    """Load the task, then answer requests until the pipe ends."""
    requests, replies = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (requests, replies):
        os.set_inheritable(descriptor, False)
    lines = open(requests, "rb")  # noqa: SIM115 (open until this process ends)
    setup = json.loads(lines.readline())
    online = "" if setup["network"] else leave_network()
    try:
        task = _load(setup["spec"], setup["options"])
    except MulliganError as error:
        _send(replies, {"failed": str(error)})
    else:
        bound_this_process(setup["memory_mib"], setup["file_mib"])
        _send(replies, {"value": "ready", "online": online})
        _serve(task, lines, replies, setup)
    # Whatever the verifier has started and left behind belongs to this process group.
    os.killpg(0, signal.SIGKILL)


def _load(spec: str, options: dict[str, Any]) -> Served:
    """Load what this process serves: a task, or a reward function."""
    if spec.startswith(PREFIX):
        return RewardFunction(spec.removeprefix(PREFIX))
    return load_task(spec, options)


def _serve(task: Served, lines: BinaryIO, replies: int, setup: dict[str, Any]) -> None:
    memory = f"{task.name}: out of memory (a verifier may use {setup['memory_mib']} MiB)"
    # Encoded beforehand: when memory is short, this must not need any.
    out_of_memory = _encoded({"error": memory, "leaving": True})
    for line in lines:
        # Should this process be orphaned in a hanging verifier, the kernel ends it.
        signal.setitimer(signal.ITIMER_REAL, setup["orphan_s"])
        allow_cpu_seconds(setup["cpu_s"])
        try:
            reply = _answer(task, json.loads(line))
        except MemoryError:
            _write(replies, out_of_memory)
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)
        if "leaving" in reply:
            os._exit(1)


def _answer(task: Served, request: dict[str, Any]) -> dict[str, Any]:
    action = request["do"]
    try:
        return {"n": request["n"], "value": _ACTIONS[action](task, request)}
    except MemoryError:
        raise
    except Exception as error:
        detail = f"{task.name}: {action} raised {explain(error)}"
        return {"n": request["n"], "error": detail[:MAX_DETAIL]}
    except BaseException as error:
        # SystemExit and its like: the verifier asked for the end of its process, and gets it.
        detail = f"{task.name}: {action} left by {explain(error)}"
        return {"error": detail[:MAX_DETAIL], "leaving": True}


def _verify(task: Task, request: dict[str, Any]) -> list[str]:
    verdict = checked(task, task.verify(_problem(request), request["text"]))
    return [verdict.status, verdict.reason, str(verdict.detail)[:MAX_DETAIL]]


def _leaks(task: Task, request: dict[str, Any]) -> bool:
    return bool(task.leaks(_problem(request), request["text"]))


def _same(task: Task, request: dict[str, Any]) -> bool:
    return bool(task.same_answer(_problem(request), request["text"], request["other"]))


def _ids(task: Task, request: dict[str, Any]) -> list[str]:
    problems = task.problems(request["split"])
    return [problem.id for problem in islice(problems, request["count"])]


def _reward(function: RewardFunction, request: dict[str, Any]) -> float:
    return function(seen_episode(request["episode"]))


_ACTIONS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "verify": _verify,
    "leaks": _leaks,
    "same": _same,
    "ids": _ids,
    "reward": _reward,
}


def _problem(request: dict[str, Any]) -> Problem:
    sent = request["problem"]
    return Problem(
        sent["id"],
        tuple(sent["messages"]),
        sent["given"],
        sent["reference"],
        tuple(sent["tools"]),
        sent["task"],
    )


def _send(descriptor: int, message: dict[str, Any]) -> None:
    _write(descriptor, _encoded(message))


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
