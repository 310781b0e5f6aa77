"""Our verdicts against those of bfcl-eval's own AST checker, which runs in a venv of its own.

``MULLIGAN_BFCL_VENV`` names the folder of that environment; it is made where it is not there.
"""

import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from mulligan.randomness import derive_seed
from mulligan.tasks.function_calling.bfcl import CATEGORIES, Bfcl, read_category
from mulligan.tasks.function_calling.calls import Call, write_calls

PACKAGE = "bfcl-eval==2026.3.23"
MUTATIONS_PER_PROBLEM = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def checker_python():
    """Interpreter of an environment that holds the package and nothing else."""
    default = Path(tempfile.gettempdir()) / f"mulligan-{PACKAGE.replace('==', '-')}"
    folder = Path(os.environ.get("MULLIGAN_BFCL_VENV", default))
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]
        subprocess.run(install, check=True)
        done.touch()
    return python


@pytest.fixture(scope="module")
def problems(checker_python):
    """Every entry of the leaderboard, impossible ones included: [(category, id, problem)]."""
    where = "import bfcl_eval, os; print(os.path.dirname(bfcl_eval.__file__))"
    folder = subprocess.check_output([checker_python, "-c", where], text=True).strip()
    task = Bfcl(folder=folder)
    return task, [
        (category, row.get("id"), task.problem(category, row, expected))
        for category in CATEGORIES
        for row, expected in read_category(task.data, category)
    ]


def test_verdicts_agree_on_every_reference_and_every_possible_value(checker_python, problems):
    task, entries = problems
    cases = []
    for category, name, problem in entries:
        rng = random.Random(derive_seed(0, name))
        answers = [plainest(problem), fullest(problem), *(chosen(problem, rng) for _ in range(2))]
        cases += [(category, name, problem, calls) for calls in answers]
    counts = compare(checker_python, task, cases)
    assert counts["right"] > 0.9 * len(cases)


def test_verdicts_agree_on_mutated_answers(checker_python, problems):
    task, entries = problems
    cases = []
    for category, name, problem in entries:
        rng = random.Random(derive_seed(1, name))
        for _ in range(MUTATIONS_PER_PROBLEM):
            base = rng.choice([plainest, fullest])(problem)
            for _ in range(rng.choice([1, 1, 1, 2])):
                base = rng.choice(MUTATIONS)(base, problem, rng)
            cases.append((category, name, problem, base))
    counts = compare(checker_python, task, cases)
    assert len(cases) >= 5_000
    assert min(counts["right"], counts["wrong"]) > 2_000


def compare(checker_python, task, cases):
    """Ask both, list every difference, and return how often each verdict was given."""
    questions = "".join(
        f"{(category, name, [{call.name: dict(call.arguments)} for call in calls])!r}\n"
        for category, name, _, calls in cases
    )
    script = Path(__file__).with_name("bfcl_checker.py")
    answered = subprocess.run(
        [checker_python, "-I", script], input=questions, capture_output=True, text=True, check=True
    )
    theirs = answered.stdout.splitlines()
    counts = Counter(line.partition(":")[0] for line in theirs)
    say(f"\n{len(cases)} answers; bfcl-eval says {dict(counts)}")
    differences, reasons = [], Counter()
    for (_, name, problem, calls), their in zip(cases, theirs, strict=True):
        verdict = task.judge_calls(problem, calls)
        reasons[verdict.reason] += 1
        if calls and not has_tuple(calls):
            assert task.verify(problem, write_calls(calls)) == verdict, name
        if verdict.passed != (their == "right"):
            differences.append((name, calls, verdict, their))
    say(f"ours: {dict(reasons)}")
    assert differences == []
    # The one way in which the checker breaks: an integer too large for a float. It gives no
    # verdict then; here the answer is wrong.
    assert set(counts) <= {"right", "wrong", "raised OverflowError"}
    return counts


def say(text):
    sys.stdout.write(f"{text}\n")


def has_tuple(calls):
    """Whether JSON cannot carry these calls as they are."""
    return any(isinstance(v, tuple) for call in calls for v in values_within(call.arguments))


def values_within(value):
    yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from values_within(item)


# Right answers, made from the possible ones.


def plainest(problem):
    return answer(problem, lambda values: values[0] if values else "", optional=False)


def fullest(problem):
    return answer(problem, lambda values: next((v for v in values if v != ""), ""), optional=True)


def chosen(problem, rng):
    return answer(problem, lambda values: rng.choice(values) if values else "", optional=True)


def answer(problem, choose, optional):
    calls = []
    for expected in problem.given["expected"]:
        ((name, possible),) = expected.items()
        arguments = {
            parameter: filled(value, choose)
            for parameter, values in possible.items()
            if ((value := choose(values)) != "" and (optional or "" not in values))
            or parameter in problem.given["tools"][name]["required"]
        }
        calls.append(Call(name, arguments))
    return calls


def filled(value, choose):
    if isinstance(value, dict):
        return {k: v for k, vs in value.items() if (v := choose(vs)) != ""}
    if isinstance(value, list):
        return [filled(item, choose) if isinstance(item, dict) else item for item in value]
    return value


# Mutations: each takes calls and returns others.


def at_one_call(change):
    """Turn a change of one call's arguments into a change of one of several calls."""

    def mutation(calls, problem, rng):
        if not calls:
            return calls
        place = rng.randrange(len(calls))
        call = calls[place]
        changed = Call(call.name, change(dict(call.arguments), call, problem, rng))
        return [*calls[:place], changed, *calls[place + 1 :]]

    return mutation


def at_one_value(change):
    """Turn a change of a value into a change of one of a call's values."""

    def at_arguments(arguments, call, problem, rng):
        if arguments:
            name = rng.choice(list(arguments))
            arguments[name] = change(arguments[name], rng)
        return arguments

    return at_one_call(at_arguments)


@at_one_call
def dropped(arguments, call, problem, rng):
    if arguments:
        del arguments[rng.choice(list(arguments))]
    return arguments


@at_one_call
def renamed(arguments, call, problem, rng):
    known = list(problem.given["tools"].get(call.name, {"types": {}})["types"])
    if not arguments:
        return {"extra": 1}
    old = rng.choice(list(arguments))
    new = rng.choice([*known, old.upper(), f"{old}s"])
    return {new if name == old else name: value for name, value in arguments.items()}


@at_one_call
def added(arguments, call, problem, rng):
    known = list(problem.given["tools"].get(call.name, {"types": {}})["types"])
    name = rng.choice([*known, "extra"])
    return {**arguments, name: rng.choice(["", "x", 0, 1, None, True, [], {}, 2.5, [""], ["x"]])}


@at_one_call
def reordered(arguments, call, problem, rng):
    items = list(arguments.items())
    rng.shuffle(items)
    return dict(items)


@at_one_call
def swapped_values(arguments, call, problem, rng):
    values = list(arguments.values())
    rng.shuffle(values)
    return dict(zip(arguments, values, strict=True))


@at_one_value
def retyped(value, rng):
    changes = [f"{value}"[:100], [value], (value,), None, {"value": value}, {}, [], ""]
    if isinstance(value, bool | int | float) and abs(value) < 10**300:
        changes += [float(value), int(value), bool(value), -value]
    if isinstance(value, list):
        changes += [
            tuple(value),
            value[:1],
            list(map(str, value)),
            dict(enumerate(map(str, value))),
        ]
        changes += [[{"value": item} for item in value], [None for _ in value]]
    if isinstance(value, dict):
        changes += [list(value.items()), list(value), [value]]
    if isinstance(value, str):
        changes += [value.split(), {value: value}, list(value)]
    return rng.choice(changes)


@at_one_value
def respelled(value, rng):
    return respell(value, rng)


def respell(value, rng):
    """Change case, spaces, punctuation and quotes, at any depth."""
    if isinstance(value, str):
        ways = [
            value.upper(),
            value.lower(),
            value.replace(" ", ""),
            value.replace("-", "/"),
            value.replace(",", " -_*^./"),
            value.replace("'", '"'),
            value + ".",
            value + "!",
            value + "\t",
            f"'{value}'",
        ]
        return rng.choice(ways)
    if isinstance(value, list):
        return [respell(item, rng) for item in value]
    if isinstance(value, dict):
        return {key: respell(item, rng) for key, item in value.items()}
    return value


@at_one_value
def nudged(value, rng):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float) and abs(value) < 10**300:
        return rng.choice([value + 1, value - 1, value * 1.0, value + 1e-12, 10**400])
    if isinstance(value, str):
        return rng.choice([value[:-1], value + "s", value[::-1]])
    if isinstance(value, list):
        return rng.choice([value[:-1], value[::-1], [*value, *value[:1]], [*value, ""]])
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        others = {k: v for k, v in value.items() if k != key}
        changed = [str(value[key]), [value[key]], None]
        return rng.choice([others, {**value, "extra": 1}, {**others, key: rng.choice(changed)}])
    return value


def retooled(calls, problem, rng):
    if not calls:
        return calls
    place = rng.randrange(len(calls))
    call = calls[place]
    names = [*problem.given["tools"], call.name.replace(".", "_"), call.name.upper(), "other"]
    return [*calls[:place], Call(rng.choice(names), call.arguments), *calls[place + 1 :]]


def extra_call(calls, problem, rng):
    return [*calls, rng.choice(calls)] if calls else calls


def call_left_out(calls, problem, rng):
    place = rng.randrange(len(calls)) if calls else 0
    return [*calls[:place], *calls[place + 1 :]]


def call_repeated_for_another(calls, problem, rng):
    return [rng.choice(calls), *calls[1:]] if calls else calls


def calls_reordered(calls, problem, rng):
    return rng.sample(calls, len(calls))


MUTATIONS = [
    dropped,
    renamed,
    added,
    reordered,
    swapped_values,
    retyped,
    retyped,
    respelled,
    respelled,
    nudged,
    nudged,
    retooled,
    extra_call,
    call_left_out,
    call_repeated_for_another,
    calls_reordered,
]
