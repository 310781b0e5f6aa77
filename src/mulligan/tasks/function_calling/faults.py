"""Faults that models make in function calls, put into right calls on purpose.

Each kind of fault is one function: it takes right calls and returns wrong ones with a sentence
that says what is wrong, or nothing where the calls give no occasion for it. Whether the result is
wrong indeed is the verifier's word, not this file's: an optional parameter may be absent after
all.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mulligan.tasks.function_calling.calls import Call, write_calls

FAULT_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "wrong_value": 0.45,
        "missing_parameter": 0.16,
        "unexpected_parameter": 0.11,
        "wrong_tool": 0.12,
        "wrong_number_of_calls": 0.1,
        "broken_off": 0.03,
        "no_call": 0.03,
    }
)
"""How often each kind of fault is made, by default; each is the name of its function below."""

_LONGEST_VALUE = 40
"""Longer values are not written out in a sentence."""
_OTHER_CHOICE_SHARE = 0.6
"""How often a wrong value is another of those that the description lists."""
_MADE_UP_PARAMETERS = ("format", "language", "limit", "units", "details", "user_id")
_MADE_UP_VALUES = ("default", "en", 10, True, "all")
_TALK = (
    "You can use the tool {} for this.",
    "The tool {} can help you with that.",
    "I would use {} to find this out.",
    "Let me look that up with {}.",
)
_JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}


@dataclass(frozen=True, slots=True)
class Situation:
    """Right calls and what there is to get wrong."""

    calls: Sequence[Call]
    tools: Mapping[str, Mapping[str, Any]]
    """The JSON schema of each offered tool's parameters, by the tool's name."""
    question: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A wrong answer."""

    attempt: str
    """The answer as a model would write it."""
    diagnosis: str
    """What is wrong with it, in a sentence."""
    call: Call
    """The right call that it got wrong."""
    kind: str


def make_faults(
    situation: Situation, rng: random.Random, shares: Mapping[str, float] = FAULT_SHARES
) -> Iterator[Fault]:
    """Yield a fault of each kind that has a share, those of larger shares earlier as a rule."""
    kinds = [kind for kind, share in shares.items() if share > 0]
    while kinds:
        kind = rng.choices(kinds, [shares[kind] for kind in kinds])[0]
        kinds.remove(kind)
        fault = _MAKERS[kind](situation, rng)
        if fault is not None:
            yield fault


def show(value: Any) -> str:
    """Return a value as JSON, for a sentence."""
    return json.dumps(value, ensure_ascii=False)


def wrong_value(situation: Situation, rng: random.Random) -> Fault | None:
    """Give one parameter another value."""
    place, call = _any_call(situation, rng)
    if not call.arguments:
        return None
    name = rng.choice(list(call.arguments))
    right = call.arguments[name]
    schema = _properties(situation, call).get(name, {})
    wrong = rng.choice(_other_values(right, schema, situation.question, rng))
    diagnosis = rng.choice(_value_diagnoses(name, wrong, right, schema))
    return _fault(situation, place, {**call.arguments, name: wrong}, diagnosis, "wrong_value")


def missing_parameter(situation: Situation, rng: random.Random) -> Fault | None:
    """Leave one parameter out."""
    place, call = _any_call(situation, rng)
    if not call.arguments:
        return None
    name = rng.choice(list(call.arguments))
    if name in situation.tools.get(call.name, {}).get("required", ()):
        diagnosis = f"I left out the parameter {name}, which is required."
    else:
        diagnosis = f"I left out {name}, although the user gave it."
    arguments = {key: value for key, value in call.arguments.items() if key != name}
    return _fault(situation, place, arguments, diagnosis, "missing_parameter")


def unexpected_parameter(situation: Situation, rng: random.Random) -> Fault | None:
    """Give a parameter that nobody asked for."""
    place, call = _any_call(situation, rng)
    own = _properties(situation, call)
    optional = [name for name in own if name not in call.arguments]
    if optional and rng.random() < 0.5:
        name = rng.choice(optional)
        value = own[name].get("default", rng.choice(own[name].get("enum") or _MADE_UP_VALUES))
        diagnosis = f"The user did not ask for {name}. I should leave it out."
    else:
        name = rng.choice([name for name in _MADE_UP_PARAMETERS if name not in own])
        value = rng.choice(_MADE_UP_VALUES)
        diagnosis = f"{call.name} has no parameter {name}."
    arguments = {**call.arguments, name: value}
    return _fault(situation, place, arguments, diagnosis, "unexpected_parameter")


def wrong_tool(situation: Situation, rng: random.Random) -> Fault | None:
    """Call another tool, or one whose name is not quite that of any."""
    place, call = _any_call(situation, rng)
    others = [name for name in situation.tools if name != call.name]
    if others and rng.random() < 0.8:
        name = rng.choice(others)
        wanted = situation.tools[name].get("properties", {})
        kept = {key: value for key, value in call.arguments.items() if key in wanted}
        arguments = kept or call.arguments
        diagnosis = f"I called {name}, but {call.name} is the tool for this."
    else:
        name, arguments = _garbled(call.name, rng), call.arguments
        diagnosis = f"There is no tool {name}. It is called {call.name}."
    calls = [*situation.calls]
    calls[place] = Call(name, arguments)
    return Fault(write_calls(calls), diagnosis, call, "wrong_tool")


def wrong_number_of_calls(situation: Situation, rng: random.Random) -> Fault | None:
    """Leave a call out, or call twice."""
    place, call = _any_call(situation, rng)
    calls = [*situation.calls]
    if len(calls) > 1:
        del calls[place]
        diagnosis = (
            f"I made {len(calls)} of {len(calls) + 1} calls. A call of {call.name} is missing."
        )
    else:
        calls.append(call)
        diagnosis = f"I called {call.name} twice. One call is enough."
    return Fault(write_calls(calls), diagnosis, call, "wrong_number_of_calls")


def broken_off(situation: Situation, rng: random.Random) -> Fault:
    """Break the JSON off before its end."""
    _, call = _any_call(situation, rng)
    whole = write_calls(situation.calls)
    attempt = whole[: -rng.randint(1, min(8, len(whole) - 1))]
    diagnosis = "My answer was not complete JSON. Every bracket has to be closed."
    return Fault(attempt, diagnosis, call, "broken_off")


def no_call(situation: Situation, rng: random.Random) -> Fault:
    """Talk about the call instead of making it."""
    _, call = _any_call(situation, rng)
    attempt = rng.choice(_TALK).format(call.name)
    diagnosis = "I wrote about the call instead of making it. The answer is a JSON array."
    return Fault(attempt, diagnosis, call, "no_call")


_MAKERS: Mapping[str, Callable[[Situation, random.Random], Fault | None]] = {
    make.__name__: make
    for make in (
        wrong_value,
        missing_parameter,
        unexpected_parameter,
        wrong_tool,
        wrong_number_of_calls,
        broken_off,
        no_call,
    )
}


def _any_call(situation: Situation, rng: random.Random) -> tuple[int, Call]:
    place = rng.randrange(len(situation.calls))
    return place, situation.calls[place]


def _properties(situation: Situation, call: Call) -> Mapping[str, Mapping[str, Any]]:
    properties: Mapping[str, Mapping[str, Any]] = situation.tools.get(call.name, {}).get(
        "properties", {}
    )
    return properties


def _fault(
    situation: Situation, place: int, arguments: Mapping[str, Any], diagnosis: str, kind: str
) -> Fault:
    """Return the fault of one call having other arguments."""
    calls = [*situation.calls]
    right = calls[place]
    calls[place] = Call(right.name, arguments)
    return Fault(write_calls(calls), diagnosis, right, kind)


def _garbled(name: str, rng: random.Random) -> str:
    """Return a name that is almost the tool's."""
    words = [word for word in re.split(r"[._\s-]+", name) if word]
    ways = [name + rng.choice(("_tool", "_v2", "_function"))]
    if len(words) > 1:
        ways += ["_".join(words[1:]), words[0] + "".join(word.title() for word in words[1:])]
    return rng.choice([way for way in ways if way != name])


def _other_values(
    right: Any, schema: Mapping[str, Any], question: str, rng: random.Random
) -> list[Any]:
    """Return values that a model might write instead; at least one."""
    allowed = schema.get("enum")
    others = [value for value in allowed if value != right] if isinstance(allowed, list) else []
    if others and rng.random() < _OTHER_CHOICE_SHARE:
        return others
    if isinstance(right, bool):
        return [not right, str(right)]
    if isinstance(right, int | float):
        return _other_numbers(right, question)
    if isinstance(right, str):
        return _other_texts(right, question, rng)
    return _other_collections(right, question, rng)


def _other_collections(right: Any, question: str, rng: random.Random) -> list[Any]:
    if isinstance(right, list) and right:
        return [right[:-1], [*right, right[0]], ", ".join(map(str, right))]
    if isinstance(right, dict) and right:
        name = rng.choice(list(right))
        inner = rng.choice(_other_values(right[name], {}, question, rng))
        return [{**right, name: inner}]
    return ["none"]


def _other_numbers(right: float, question: str) -> list[Any]:
    asked = [
        json.loads(number) for number in re.findall(r"(?<![\d.])[1-9]\d{0,5}(?![\d.])", question)
    ]
    others = [number for number in asked if number != right]
    return [*others, *others, right + 1, right - 1, right * 10, str(right)]


def _other_texts(right: str, question: str, rng: random.Random) -> list[Any]:
    words = right.split()
    asked = [
        word for word in re.findall(r"[^\W\d_]{4,}", question) if word.lower() not in right.lower()
    ]
    others: list[Any] = rng.sample(asked, min(3, len(asked)))
    if len(words) > 1:
        others += [words[0], words[-1], " ".join(words[:-1])]
    if re.fullmatch(r"\d+", right) and len(right) < 10:
        others.append(int(right))
    return others or [right + "s"]


def _value_diagnoses(name: str, wrong: Any, right: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return sentences about a wrong value, most of them short of giving the right one away."""
    sentences = [
        f"The value of {name} is not what the user asked for.",
        f"I have to take {name} from the question, word for word.",
    ]
    if len(show(wrong)) <= _LONGEST_VALUE:
        sentences.append(f"{name} is not {show(wrong)}.")
        if len(show(right)) <= _LONGEST_VALUE:
            sentences.append(f"I wrote {show(wrong)} for {name}, but the user wants {show(right)}.")
    kinds = [_JSON_TYPES.get(type(value)) for value in (wrong, right)]
    if None not in kinds and kinds[0] != kinds[1]:
        sentences = [f"{name} should be a {kinds[1]}, but I wrote a {kinds[0]}."]
    allowed = schema.get("enum")
    if isinstance(allowed, list) and len(show(allowed)) <= 2 * _LONGEST_VALUE:
        listed = ", ".join(map(str, allowed))
        sentences.append(
            f"{name} should be one of {listed}; I wrote {str(wrong)[:_LONGEST_VALUE]}."
        )
    return sentences
