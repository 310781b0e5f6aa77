"""What a reasoning model thinks before it answers, told apart from the answer.

A verifier, a leak check and a report's answer see the answer only; thoughts are kept for people.
The marks are those of the field: ``<think>`` and its relatives, and the channels of gpt-oss
("harmony" format). A recipe may name its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

Marks = tuple[str, str]
"""What opens a thought and what closes it."""

KNOWN_MARKS: tuple[Marks, ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),
)
"""Qwen, DeepSeek and most others; Mistral; Seed; Gemma 4."""

CHANNEL = "<|channel|>"
"""Begins the name of a channel in the harmony format."""
_CHANNELS = re.compile(
    r"(?P<header>(?:(?!<\|message\|>).)*)<\|message\|>"
    r"(?P<body>.*?)(?:<\|end\|>|<\|call\|>|<\|return\|>|\Z)",
    re.DOTALL,
)
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")


@dataclass(frozen=True, slots=True)
class Speech:
    """What a model said, in two parts."""

    answer: str
    """What is meant for others; empty where the thought never ended."""
    thoughts: str | None
    """What came before it; ``None`` where the model did not think."""
    finished: bool = True
    """Whether the thought ended."""
    marks: Marks | None = None
    """What stood around the thoughts."""
    calls: tuple[tuple[str, str], ...] = ()
    """Tool calls of the harmony format, as (name, arguments in JSON)."""


def split_thoughts(text: str, known: Sequence[Marks], opened: Marks | None = None) -> Speech:
    """Tell thoughts from the answer.

    Args:
        text: what was sampled.
        known: the marks to look for; the first pair that occurs counts.
        opened: the marks of a thought that the prompt has begun already, if it has.
    """
    for opening, closing in known:
        before, closed, after = text.rpartition(closing)
        if closed and opening not in after:
            thoughts = before.replace(opening, "", 1).strip()
            return Speech(after.lstrip(), thoughts, marks=(opening, closing))
        if opening in text:
            thoughts = text.replace(opening, "", 1).strip()
            return Speech("", thoughts, finished=False, marks=(opening, closing))
    if opened is not None:
        return Speech("", text.strip(), finished=False, marks=opened)
    return Speech(text, None)


def split_channels(text: str) -> Speech:
    """Tell thoughts from the answer in the harmony format, where each message names its channel.

    A tool call becomes a ``<tool_call>`` block of JSON, as other models write it.
    """
    if CHANNEL not in text:
        return Speech(text, None)
    thoughts: list[str] = []
    answers: list[str] = []
    calls: list[tuple[str, str]] = []
    for message in _CHANNELS.finditer(text):
        header, body = message["header"], message["body"]
        if recipient := _RECIPIENT.search(header):
            calls.append((recipient[1], body))
            call = f'{{"name": "{recipient[1]}", "arguments": {body}}}'
            answers.append(f"<tool_call>\n{call}\n</tool_call>")
        elif header.rpartition(CHANNEL)[2].strip().startswith("final"):
            answers.append(body)
        else:
            thoughts.append(body.strip())
    return Speech(
        "\n".join(answers), "\n".join(thoughts) or None, bool(answers), calls=tuple(calls)
    )
