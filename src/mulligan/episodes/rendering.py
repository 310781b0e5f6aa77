"""A conversation as token ids: what was sampled stays as it was, the template fills in the rest.

A chat template is rendered with marks in place of the model's words and cut at the marks. Where
the template rewrites earlier turns (drops their thoughts, say), it is rendered anew, and that is
said.
"""

import json
import logging
from collections.abc import Sequence

from mulligan.episodes.speech import Listener
from mulligan.errors import MulliganError
from mulligan.models.template import MARK, ChatTemplate
from mulligan.models.thoughts import Marks
from mulligan.types import Completion, Message, Problem, TokenIds

logger = logging.getLogger("mulligan")

_REMEMBERED = 512
"""Renderings that are kept: the retries of a group differ in their completions only."""

Turn = tuple[Completion, str]
"""What the assistant said, and what the user asks next."""


class Renderer:
    """Turns a problem and the turns after it into token ids.

    Args:
        template: of the model.
        listener: tells thoughts from answers.
    """

    def __init__(self, template: ChatTemplate, listener: Listener) -> None:
        self._template = template
        self._listener = listener
        self._said: set[str] = set()
        self._pieces: dict[tuple[object, ...], tuple[TokenIds, ...] | None] = {}

    def ids(self, problem: Problem, turns: Sequence[Turn]) -> TokenIds:
        """Return the ids of a problem followed by (assistant completion, user request) turns."""
        speeches = [self._listener.speech(completion) for completion, _ in turns]
        thought = tuple(speech.marks for speech in speeches)
        requests = tuple(request for _, request in turns)
        key = (problem.id, thought, requests)
        if key not in self._pieces:
            if len(self._pieces) >= _REMEMBERED:
                self._pieces.clear()
            self._pieces[key] = self._continued(problem, requests, thought)
        pieces = self._pieces[key]
        if pieces is None:
            self._say_rewriting(any(speech.thoughts is not None for speech in speeches))
            messages = [self._listener.message(speech) for speech in speeches]
            return self._template.encode(self._render(problem, messages, requests))
        start, *closings = pieces
        ids = list(start)
        for (completion, _), closing in zip(turns, closings, strict=True):
            ids += completion.token_ids
            ended = completion.token_ids[-1:] == closing[:1]
            ids += closing[1:] if ended else closing
        return tuple(ids)

    def _continued(
        self, problem: Problem, requests: Sequence[str], thought: Sequence[Marks | None]
    ) -> tuple[TokenIds, ...] | None:
        """Return the ids of the beginning and those that follow each of the assistant's turns.

        ``None`` says that the template does not keep earlier turns as they were sampled.
        """
        start = self._render(problem, (), ())
        if not requests:
            return (self._template.encode(start),)
        marks = [self._mark(i, around) for i, around in enumerate(thought)]
        messages = [{"role": "assistant", "content": mark} for mark in marks]
        try:
            rest = self._render(problem, messages, requests)
        except MulliganError:
            if not any(thought):
                raise
            return None
        parts = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                return None
            parts.append(before)
        if parts[0] != start or any(mark in rest for mark in marks):
            return None
        return tuple(self._template.encode(part) for part in (start, *parts[1:], rest))

    def _mark(self, number: int, around: Marks | None) -> str:
        """Stand for a turn of the assistant, thoughts included where the real one has them."""
        words = MARK.format(number)
        if around is None:
            return words
        thoughts = MARK.format(f"thought-{number}")
        begin = "" if self._template.opened_thought == around else f"{around[0]}\n"
        return f"{begin}{thoughts}\n{around[1]}\n\n{words}"

    def _say_rewriting(self, thought: bool) -> None:
        what = "drops or rewrites the thoughts of" if thought else "rewrites"
        if what not in self._said:
            self._said.add(what)
            logger.warning(
                "This chat template %s earlier turns, so a retry cannot continue the tokens "
                "before it: prompts are rendered anew and caches are not reused.",
                what,
            )

    def _render(self, problem: Problem, said: Sequence[Message], requests: Sequence[str]) -> str:
        """Render the problem and later turns, ending where the assistant speaks next."""
        messages: list[Message] = list(problem.messages)
        for message, request in zip(said, requests, strict=True):
            messages += [message, {"role": "user", "content": request}]
        if problem.tools and not self._template.takes_tools:
            return self._template.render(self._with_tools_told(messages, problem))
        return self._template.render(messages, problem.tools)

    def _with_tools_told(self, messages: Sequence[Message], problem: Problem) -> list[Message]:
        """Describe the tools in a message, for templates that have no place for them."""
        lines = "\n".join(
            json.dumps(tool, separators=(",", ":"), ensure_ascii=False) for tool in problem.tools
        )
        description = f"Tools:\n{lines}"
        first, *rest = messages
        if first["role"] == "system":
            return [{"role": "system", "content": f"{first['content']}\n{description}"}, *rest]
        if self._template.takes_system:
            return [{"role": "system", "content": description}, *messages]
        return [{"role": first["role"], "content": f"{description}\n\n{first['content']}"}, *rest]
