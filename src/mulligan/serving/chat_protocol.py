"""OpenAI's chat completions: requests read, responses written."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mulligan.errors import MulliganError
from mulligan.serving.logs import given_of, messages_of, plain_message
from mulligan.serving.problems import part_of, problem_of
from mulligan.serving.second_chance import Solution
from mulligan.tasks.base import Task
from mulligan.tasks.function_calling.parse import UnreadableError, read_calls
from mulligan.tasks.row_task import RowTask
from mulligan.tasks.rows import Row
from mulligan.types import Problem

UNVERIFIABLE = "mulligan: nothing to verify with"
"""Stands in ``given`` of a problem that names nothing which its task could verify."""


class StreamOptions(BaseModel):
    """What a stream tells besides its answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request; a field that would change the answer and is not supported is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] = []
    mulligan: dict[str, Any] = {}
    """What the task's verifier needs: ``given``, or the fields of the task's own rows."""
    metadata: dict[str, Any] | None = None
    """May hold ``given`` too, as JSON text."""
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    top_p: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    tool_choice: Literal["auto"] | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, fields: Any) -> Any:
        """Leave out what is null, as the protocol does."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


def requested_problem(request: ChatRequest, task: Task) -> Problem:
    """Return the problem that a request puts.

    Raises:
        MulliganError: its messages cannot be used, or what it names for the verifier is malformed.
    """
    where = "The request"
    found = messages_of({"messages": request.messages}, {}, where)
    messages = [plain_message(each, where) for each in found]
    if all(each["role"] != "user" for each in messages):
        raise MulliganError(f"{where}: a user should ask something in its messages")
    if None in _names(request.tools):
        raise MulliganError(f"{where}: each of its tools should be a function with a name")
    given = given_of(request.mulligan, {"metadata": request.metadata}, where)
    fields = {**request.mulligan, "messages": messages, "tools": request.tools}
    if given is None and not request.mulligan:
        return Problem.create(messages, {UNVERIFIABLE: True}, None, request.tools)
    row = Row(where, fields if given is None else fields | {"given": given})
    if given is None and not isinstance(part_of(task, row), RowTask):
        raise MulliganError(f"{where}: the field mulligan should hold `given`, an object")
    return problem_of(task, row)


def is_verifiable(problem: Problem) -> bool:
    """Whether a request named something that its task can verify."""
    return UNVERIFIABLE not in problem.given


def completion_body(
    request: ChatRequest, solution: Solution, failure_id: str | None, weights: int
) -> dict[str, Any]:
    """Return a response, with what happened in its field ``mulligan``.

    Args:
        request: that is answered.
        solution: the answer, and the way to it.
        failure_id: of what was stored, where the first try failed.
        weights: which weights answered, counted from 1.
    """
    message, reason = _message(request, solution)
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _usage(solution),
        "mulligan": _what_happened(solution, failure_id) | {"weights": weights},
    }


def chunks(request: ChatRequest, body: dict[str, Any]) -> Iterator[str]:
    """Yield a response as server-sent events."""
    head = {key: body[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    [choice] = body["choices"]
    delta = dict(choice["message"])
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls)]
    for part, reason in ((delta, None), ({}, choice["finish_reason"])):
        shown = [{"index": 0, "delta": part, "finish_reason": reason}]
        more = {"mulligan": body["mulligan"]} if reason else {}
        yield f"data: {json.dumps({**head, 'choices': shown, **more})}\n\n"
    if request.stream_options and request.stream_options.include_usage:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': body['usage']})}\n\n"
    yield "data: [DONE]\n\n"


def error_body(message: str, kind: str, code: str) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _message(request: ChatRequest, solution: Solution) -> tuple[dict[str, Any], str]:
    """Return the answer as a message: calls of the request's tools as such."""
    names = _names(request.tools)
    try:
        calls = read_calls(solution.answer) if names else []
    except UnreadableError:
        calls = []
    if calls and all(call.name in names for call in calls):
        written = [
            {
                "id": f"call_{uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in calls
        ]
        return {"role": "assistant", "content": None, "tool_calls": written}, "tool_calls"
    reason = solution.last_try.completion.finish_reason
    return {"role": "assistant", "content": solution.answer}, reason


def _names(tools: Sequence[Mapping[str, Any]]) -> set[str | None]:
    """Return the names of tools, as OpenAI describes them or bare; None for one without."""
    functions = [tool.get("function") or tool for tool in tools]
    names = [each.get("name") if isinstance(each, dict) else None for each in functions]
    return {name if isinstance(name, str) else None for name in names}


def _usage(solution: Solution) -> dict[str, int]:
    return {
        "prompt_tokens": solution.prompt_tokens,
        "completion_tokens": solution.tokens,
        "total_tokens": solution.prompt_tokens + solution.tokens,
    }


def _what_happened(solution: Solution, failure_id: str | None) -> dict[str, Any]:
    judged = is_verifiable(solution.problem)
    return {
        "verified": judged and solution.verdict.status != "error",
        "status": solution.verdict.status if judged else "not_verifiable",
        "reason": solution.verdict.reason if judged else "the request names nothing to verify",
        "tries": solution.tries,
        "failure_id": failure_id,
        "steps": [
            {
                "kind": event.kind,
                "text": event.completion.text,
                "tokens": event.completion.length,
                "status": event.verdict.status if event.verdict and judged else None,
            }
            for event in solution.events
        ],
    }
