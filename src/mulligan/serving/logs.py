"""Rows of logs: a conversation and the answer that was given, in the forms that are common.

Known are OpenAI's chat format (``messages``, the answer last, or beside it as ``response``, as
LiteLLM logs it), a request with its response (``request`` and ``response``, each with or without a
``body``, as Portkey has them; ``request_body`` and ``response_body``, as Helicone exports them),
and ``input`` with ``output``, as Langfuse exports them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mulligan.engines.forms import written_call
from mulligan.errors import MulliganError
from mulligan.serving.problems import problem_of
from mulligan.tasks.base import Task
from mulligan.tasks.rows import Row
from mulligan.types import Problem

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
LONGEST_LINE = 16 * 2**20
"""Bytes of a line; what is longer is not read into memory."""
LONGEST_ANSWER = 100_000
"""Characters; no answer of that length fits a conversation to train on."""

DEEPEST = 100
"""Levels of lists and objects in a row; no log is as deep, and no program need survive it."""

_REQUEST = ("request", "request_body", "input")
_RESPONSE = ("response", "response_body", "output")


@dataclass(frozen=True, slots=True)
class Logged:
    """What a row of a log holds."""

    problem: Problem
    answer: str
    model: str
    """Empty where the row does not say."""


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file that are not blank, with their numbers; None for one too long.

    Raises:
        MulliganError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                        pass
                    yield number, None
                elif line.strip():
                    yield number, line
    except OSError as error:
        raise MulliganError(f"Cannot read {path}: {error.strerror}.") from error


def read_logged(task: Task, line: bytes | None, where: str) -> Logged:
    """Return what a line of a log holds.

    Raises:
        MulliganError: it cannot be read, or holds nothing that the task can verify.
    """
    if line is None:
        raise MulliganError(f"{where}: longer than {LONGEST_LINE // 2**20} MiB")
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MulliganError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise MulliganError(f"{where}: not an object with named fields")
    if _is_nested_deeper(values, DEEPEST):
        raise MulliganError(f"{where}: nested more than {DEEPEST} levels deep")
    request = _object(values, _REQUEST)
    messages = messages_of(values, request, where)
    response = next((values[name] for name in _RESPONSE if values.get(name) is not None), None)
    answer = _answer(response, where) if response is not None else None
    if answer is None:
        if not messages or messages[-1]["role"] != "assistant":
            raise MulliganError(f"{where}: no answer: the last message is not the assistant's")
        answer = _said(messages.pop(), where)
    if len(answer) > LONGEST_ANSWER:
        raise MulliganError(
            f"{where}: an answer of {len(answer)} characters; the longest that is taken has "
            f"{LONGEST_ANSWER}"
        )
    fields = {k: v for k, v in values.items() if k not in {*_REQUEST, *_RESPONSE}}
    given = given_of(values, request, where)
    fields |= {"messages": [plain_message(each, where) for each in messages]}
    fields |= {"tools": values.get("tools") or request.get("tools") or []}
    problem = problem_of(task, Row(where, fields if given is None else fields | {"given": given}))
    return Logged(problem, answer, _model(values, request, response))


def _is_nested_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value has more levels of lists and objects."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _object(values: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the first of some fields that is an object, or its ``body`` where it has one."""
    for name in names:
        found = values.get(name)
        if isinstance(found, dict):
            body = found.get("body")
            return body if isinstance(body, dict) else found
    return {}


def messages_of(
    values: Mapping[str, Any], request: Mapping[str, Any], where: str
) -> list[dict[str, Any]]:
    """Return a row's messages as they were logged.

    Raises:
        MulliganError: there are none, or one is malformed or of an unknown role.
    """
    found = values.get("messages") or request.get("messages") or values.get("input")
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list) or not found:
        raise MulliganError(f"{where}: no messages, in any of the forms that are known")
    for each in found:
        if not isinstance(each, dict) or "role" not in each:
            raise MulliganError(f"{where}: a message should be an object with role and content")
        if not isinstance(each["role"], str) or each["role"] not in ROLES:
            raise MulliganError(
                f"{where}: a message has the role {each['role']!r}; known are "
                f"{', '.join(sorted(ROLES))}"
            )
    return list(found)


def _answer(response: Any, where: str) -> str | None:
    """Return the text of a response: a chat completion, a message, or text."""
    if isinstance(response, str):
        return response
    if isinstance(response, list) and response:
        response = response[-1]
    if not isinstance(response, dict):
        return None
    if isinstance(response.get("body"), dict):
        response = response["body"]
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        response = choices[0].get("message")
    if not isinstance(response, dict) or not {"content", "tool_calls"} & response.keys():
        raise MulliganError(f"{where}: the response holds no message")
    return _said(response, where)


def _said(message: Mapping[str, Any], where: str) -> str:
    """Return what a message of the assistant says, calls of tools included."""
    calls = message.get("tool_calls") or []
    try:
        functions = [call["function"] for call in calls]
        written = [written_call(str(each["name"]), str(each["arguments"])) for each in functions]
    except (KeyError, TypeError) as error:
        raise MulliganError(
            f"{where}: a tool call should have a function with name and arguments"
        ) from error
    return "\n".join([*filter(None, [_text(message.get("content"), where)]), *written])


def plain_message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a message of the conversation as chat templates take it."""
    role = "system" if message["role"] == "developer" else message["role"]
    content = _said(message, where) if role == "assistant" else _text(message.get("content"), where)
    return {"role": role, "content": content}


def _text(content: Any, where: str) -> str:
    """Return a message's text, which may come in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise MulliganError(f"{where}: a message's content should be text, or parts of text")


def given_of(values: Mapping[str, Any], request: Mapping[str, Any], where: str) -> Any:
    """Return what the verifier needs: of the row, or of its metadata, where it may be JSON text."""
    for place in (values, request, values.get("metadata"), request.get("metadata")):
        found = place.get("given") if isinstance(place, dict) else None
        if isinstance(found, str):
            try:
                return json.loads(found)
            except (ValueError, RecursionError) as error:
                raise MulliganError(f"{where}: 'given' is text that is not JSON") from error
        if found is not None:
            return found
    return None


def _model(values: Mapping[str, Any], request: Mapping[str, Any], response: Any) -> str:
    places = (values, response if isinstance(response, dict) else {}, request)
    return next((str(place["model"]) for place in places if place.get("model")), "")
