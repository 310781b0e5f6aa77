"""Function calls found in a model's text.

Every call that is found counts, so that an answer cannot hedge by naming several. The shapes, in
the order in which they are looked for:

1. the whole text;
2. ``<tool_call>...</tool_call>`` blocks, and nothing outside them;
3. fenced blocks, and nothing outside them;
4. JSON calls within prose, else lines of prose that are Python-style calls.

In the whole text and within a block a call is a JSON (or Python) object with its tool's name
under ``name`` or ``function`` and its values under ``arguments`` or ``parameters``, or it is a
Python-style call with keywords, ``f(a=1)``; several stand in an array or one after another.

Nothing is ever evaluated: JSON goes through :mod:`json`, Python through :mod:`ast` and an
allow-list of literals. Length, nesting and the number of places looked at are bounded.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from mulligan.tasks.function_calling.calls import Call
from mulligan.types import Verdict

MAX_LENGTH = 10_000
MAX_DEPTH = 40
MAX_PLACES = 100
_MAX_CALL_LENGTH = 2_000

_TOOL_CALL = re.compile(r"<tool_call>(.*?)(?=<tool_call>|</tool_call>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```(?:json\b|python\b|[\w-]*\n)?(.*?)(?:```|\Z)", re.DOTALL)
_CALL_LINE = re.compile(r"[\[(]?\s*[A-Za-z_][\w.]*\(.*\)\s*[\])]?")
_LOOKS_LIKE_A_CALL = re.compile(r"[\[{`]|<tool_call>|\w\(")
_OPENS_JSON = re.compile(r"[\[{]")
_LOOKS_LIKE_JSON = re.compile(r"[\[{]\s*[\[{\"]")
_SEPARATORS = re.compile(r"[\s,;]*")
_JSON_NAMES = {"true": True, "false": False, "null": None}
_PYTHON_FAULTS = (SyntaxError, ValueError, RecursionError, MemoryError)


class UnreadableError(Exception):
    """No calls could be read from a text; carries the verdict."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.verdict = Verdict.unparseable(reason, detail)


def read_calls(text: str) -> list[Call]:
    """Return all calls in a model's answer, at least one.

    Raises:
        UnreadableError: With the verdict ``no_call`` where nothing looks like a call, and
            ``not_parseable`` where something does and cannot be read as one.
    """
    if len(text) > MAX_LENGTH:
        raise UnreadableError("not_parseable", f"longer than {MAX_LENGTH} characters")
    if _depth(text) > MAX_DEPTH:
        raise UnreadableError("not_parseable", f"nested more than {MAX_DEPTH} deep")
    calls = _calls_in_answer(text.rpartition("</think>")[2].strip())
    if calls is None:
        raise UnreadableError("not_parseable", "what looks like a call cannot be read as one")
    if not calls:
        raise UnreadableError("no_call", "nothing looks like a call")
    return calls


def find_calls(text: str, tool_names: Iterable[str]) -> list[Call]:
    """Return every call anywhere in a text, in the order of the text, broken ones left out.

    Looser than :func:`read_calls`: a Python-style call may stand within a sentence, if it calls
    one of ``tool_names``. This is how a reflection is searched for calls.
    """
    text = text[:MAX_LENGTH]
    if _depth(text) > MAX_DEPTH:
        return []
    found = [*_json_calls(text), *_python_calls_within(text, tool_names)]
    found.sort(key=lambda item: item[0])
    return [call for _, calls in found if calls for call in calls]


def _depth(text: str) -> int:
    """Return how deep brackets nest, those within strings counted too: a bound, not a parse."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(depth - 1, 0)
    return deepest


def _calls_in_answer(text: str) -> list[Call] | None:
    """Return the calls of the first shape that fits; ``None`` where a call is there but broken."""
    calls = _calls_in(text)
    if calls is not None:
        return calls
    if blocks := _TOOL_CALL.findall(text):
        return _joined(map(_calls_in, blocks))
    if fences := _FENCE.findall(text):
        return [call for fence in fences for call in _calls_in(fence) or ()] or None
    return _calls_in_prose(text)


def _calls_in(text: str) -> list[Call] | None:
    """Return the calls of a text that holds calls and nothing else, ``None`` for other texts."""
    values = _json_values(text)
    if values is None:
        values = _python_values(text)
    return None if values is None else _joined(map(_as_calls, values))


def _calls_in_prose(text: str) -> list[Call] | None:
    """Return the calls within prose; ``None`` where something looks like a call and is none."""
    calls = _joined(calls for _, calls in _json_calls(text))
    if calls == []:
        lines = [line for line in map(str.strip, text.splitlines()) if _CALL_LINE.fullmatch(line)]
        calls = [call for line in lines[:MAX_PLACES] for call in _calls_in(line) or ()]
    return calls or (None if _LOOKS_LIKE_A_CALL.search(text) else [])


def _joined(parts: Iterable[list[Call] | None]) -> list[Call] | None:
    """Join lists of calls; one that could not be read spoils the whole."""
    joined: list[Call] = []
    for part in parts:
        if part is None:
            return None
        joined += part
    return joined


def _as_calls(value: Any) -> list[Call] | None:
    """Read a parsed value as calls: an object, or arrays of them; ``None`` if it is not calls."""
    if isinstance(value, Call):
        return [value]
    if isinstance(value, list | tuple):
        return _joined(map(_as_calls, value))
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("tool_calls"), list):
        return _as_calls(value["tool_calls"])
    inner = value.get("function")
    call = inner if isinstance(inner, dict) else value
    name = call.get("name", inner)
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = next(iter(_json_values(arguments) or ()), arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return [Call(name, arguments)]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(strict=False, parse_constant=_refuse)


def _json_values(text: str) -> list[Any] | None:
    """Return the JSON values of which a text consists, ``None`` where it holds anything else."""
    values = []
    place = _end_of_separators(text, 0)
    while place < len(text):
        try:
            value, place = _JSON.raw_decode(text, place)
        except (ValueError, RecursionError):
            return None
        values.append(value)
        place = _end_of_separators(text, place)
    return values


def _end_of_separators(text: str, place: int) -> int:
    match = _SEPARATORS.match(text, place)
    return match.end() if match else place


def _json_calls(text: str) -> Iterator[tuple[int, list[Call] | None]]:
    """Yield the place and calls of JSON within a text; ``None`` for JSON that is broken."""
    place = 0
    for _ in range(MAX_PLACES):
        opening = _OPENS_JSON.search(text, place)
        if opening is None:
            return
        start = opening.start()
        place = start + 1
        try:
            value, end = _JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            if _LOOKS_LIKE_JSON.match(text, start):
                yield start, None
            continue
        if calls := _as_calls(value):
            yield start, calls
            place = end


def _python_calls_within(
    text: str, tool_names: Iterable[str]
) -> Iterator[tuple[int, list[Call] | None]]:
    """Yield the place and calls of Python-style calls of known tools within a text."""
    names = "|".join(re.escape(name) for name in tool_names)
    if not names:
        return
    openings = re.finditer(rf"(?<![\w.])(?:{names})\(", text)
    for _, opening in zip(range(MAX_PLACES), openings, strict=False):
        call = _until_closed(text, opening.start(), opening.end())
        yield opening.start(), _calls_in(call)


def _until_closed(text: str, start: int, inside: int) -> str:
    """Return the call that starts at ``start``, up to the parenthesis that closes it."""
    depth, quote = 1, ""
    for place in range(inside, min(len(text), start + _MAX_CALL_LENGTH)):
        character = text[place]
        if quote:
            quote = "" if character == quote and text[place - 1] != "\\" else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return text[start : place + 1]
    return ""


def _python_values(text: str) -> list[Any] | None:
    """Return the calls and literals of which a Python text consists, ``None`` for other texts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's "\d" should not show in the terminal
            statements = ast.parse(text.strip()).body
        return [_python_value(statement) for statement in statements]
    except _PYTHON_FAULTS:
        return None


def _python_value(node: ast.AST) -> Any:
    """Turn a node into a call, a literal, or a list of them.

    Raises:
        ValueError: For whatever is not on the list.
    """
    match node:
        case ast.Expr(value=value):
            return _python_value(value)
        case ast.Call(func=function, args=[], keywords=keywords):
            return Call(_dotted_name(function), _keyword_values(keywords))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_python_value(item) for item in items]
        case _:
            return _literal(node)


def _keyword_values(keywords: Sequence[ast.keyword]) -> dict[str, Any]:
    values = {}
    for keyword in keywords:
        if keyword.arg is None:
            raise ValueError("**values cannot be read")
        values[keyword.arg] = _literal(keyword.value)
    return values


def _dotted_name(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ValueError("only a name can be called")
    return ".".join([node.id, *reversed(parts)])


def _literal(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return _text_keyed(keys, values)
    raise ValueError(f"{type(node).__name__} is not a literal")


def _text_keyed(keys: Sequence[ast.expr | None], values: Sequence[ast.expr]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise ValueError("only strings can be keys")
        result[key.value] = _literal(value)
    return result
