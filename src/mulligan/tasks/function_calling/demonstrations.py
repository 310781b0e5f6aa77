"""Conversations about function calls for the supervised warm-up.

A mix, on purpose: a model that is taught right answers only writes bare answers where it should
reflect. Reflections therefore come in four kinds, from one that says nothing to one that works
the call out, and the training that follows can choose between them.

For it to be able to, what a reflection says must matter. So a retry is right after a reflection
that says what was wrong or works the call out, and mostly repeats the attempt after one that says
nothing to go by. If every retry were right, the model would learn to pass over the reflection; if
it were wrong in a new way, the model would learn to put faults into calls.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mulligan.randomness import derive_seed
from mulligan.tasks.demonstrations import vague
from mulligan.tasks.function_calling.calls import Call
from mulligan.tasks.function_calling.faults import Fault, Situation, make_faults, show
from mulligan.types import Demonstration, Problem, Verdict

_LONGEST_REFLECTION = 320
"""In characters; a longer search becomes a diagnosis."""

_VAGUE = (
    "I did not check the parameters.",
    "I did not read the question closely.",
    "I answered too quickly.",
    "My call was wrong.",
    "I made a mistake in the arguments.",
    "I did not look at the tool's description.",
    "I did not compare my call with the question.",
    "I guessed a value instead of looking it up.",
    "I was careless with the tool's parameters.",
    "I should have worked more carefully.",
)
_VAGUE_ENDINGS = (
    "I will be more careful.",
    "Next time I will check every parameter.",
    "I should read the tool's description again.",
    "I need to take the values from the question.",
    "I have to look at what is required.",
)
_DIAGNOSIS_BEFORE_SEARCH_SHARE = 0.5
_WHOLE_CALL_SHARE = 0.5
_NOTHING_TO_GO_BY = ("vague", "searching")
_LUCK = 0.2  # share of right retries after these; the others repeat the attempt


def demonstrations(
    problems: Sequence[Problem],
    verify: Callable[[Problem, str], Verdict],
    count: int,
    seed: int,
    *,
    answer_share: float,
    reflection_shares: Mapping[str, float],
    fault_shares: Mapping[str, float],
) -> Iterator[Demonstration]:
    """Yield ``count`` conversations about problems that have references.

    Every problem comes once before any comes again; which conversation it becomes depends on the
    seed and on its place alone.
    """
    order = sorted(problems, key=lambda problem: derive_seed(seed, "demonstration", problem.id))
    kinds, weights = list(reflection_shares), list(reflection_shares.values())
    for index in range(count if order else 0):
        problem = order[index % len(order)]
        rng = random.Random(derive_seed(seed, "conversation", index))
        answer = problem.reference or ""
        if rng.random() < answer_share:
            yield Demonstration(problem, answer, tags=("answer",))
            continue
        situation = _situation(problem)
        fault = next(
            fault
            for fault in _endless_faults(situation, rng, fault_shares)
            if not verify(problem, fault.attempt).passed
        )
        kind, reflection = _reflect(rng.choices(kinds, weights)[0], fault, situation, rng)
        unlucky = kind in _NOTHING_TO_GO_BY and rng.random() >= _LUCK
        retry = fault.attempt if unlucky else answer
        yield Demonstration(problem, fault.attempt, reflection, retry, (kind, fault.kind))


def _situation(problem: Problem) -> Situation:
    calls = [Call(call["name"], call["arguments"]) for call in json.loads(problem.reference or "")]
    functions = [tool["function"] for tool in problem.tools]
    question = "\n".join(m["content"] for m in problem.messages if m["role"] == "user")
    return Situation(calls, {f["name"]: f["parameters"] for f in functions}, question)


def _endless_faults(
    situation: Situation, rng: random.Random, shares: Mapping[str, float]
) -> Iterator[Fault]:
    """Yield faults of the kinds asked for; then of any, where those had no occasion."""
    yield from make_faults(situation, rng, shares)
    while True:
        yield from make_faults(situation, rng)


def _reflect(kind: str, fault: Fault, situation: Situation, rng: random.Random) -> tuple[str, str]:
    """Return a reflection and its kind, which is another where the one asked for has no room."""
    if kind == "vague":
        return kind, vague(_VAGUE, _VAGUE_ENDINGS, rng)
    if kind.startswith("searching"):
        find = kind == "searching_right"
        search = _search(fault.call, situation.tools.get(fault.call.name, {}), find, rng)
        if rng.random() < _DIAGNOSIS_BEFORE_SEARCH_SHARE:
            search = f"{fault.diagnosis} {search}"
        if len(search) <= _LONGEST_REFLECTION:
            return kind, search
    return "diagnosing", fault.diagnosis


def _search(call: Call, schema: Mapping[str, Any], find: bool, rng: random.Random) -> str:
    """Go through a tool's parameters, and with ``find`` to the values they should have."""
    if find and rng.random() < _WHOLE_CALL_SHARE:
        values = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        return f"The tool is {call.name}. So: {call.name}({values})"
    if find:
        values = ", ".join(f"{name} is {show(value)}" for name, value in call.arguments.items())
        return f"{call.name}: {values or 'no parameters'}."
    required = schema.get("required", ())
    listed = [
        f"{name} ({details.get('type', 'any')}, {'required' if name in required else 'optional'})"
        for name, details in schema.get("properties", {}).items()
    ]
    return f"{call.name} takes {', '.join(listed) or 'no parameters'}."
