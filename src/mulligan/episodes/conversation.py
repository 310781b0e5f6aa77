"""The three prompts and their token ids: attempt, reflect, retry.

Token ids travel: what the engine sampled is continued as it was sampled. A prompt is the ids of
the prompt before, the ids of the completion, and the ids of what comes next in the chat template,
so that an engine can go on with its cache and the loss scores what was drawn.
"""

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from mulligan.errors import MulliganError
from mulligan.types import Completion, Demonstration, Message, Problem, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("mulligan")

_MARK = "\u2418mulligan-{}\u2418"
"""Stands for an assistant's words when a template is rendered; no template writes it itself."""


class Conversations:
    """Turns problems, answers and reflections into prompts of token ids."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        reflect: str,
        retry: str = "{question}",
    ) -> None:
        """Take the tokenizer, the reflection request, and the retry request."""
        self._tokenizer = tokenizer
        self._reflect = reflect
        self._retry = retry
        self._said_rewriting = False

    def attempt(self, problem: Problem) -> TokenIds:
        """Return the prompt of a first try."""
        return self._encode(self._render(problem, ()))

    def reflection(self, problem: Problem, answer: Completion) -> TokenIds:
        """Return the prompt of a reflection on a failed answer."""
        return self._converse(problem, [(answer, self._reflect)])

    def retry(self, problem: Problem, answer: Completion, reflection: Completion) -> TokenIds:
        """Return the prompt of a retry after a reflection."""
        turns = [(answer, self._reflect), (reflection, self._question_again(problem))]
        return self._converse(problem, turns)

    def retry_without_reflection(self, problem: Problem, answer: Completion) -> TokenIds:
        """Return the prompt of the control: the problem again, right after the failed answer."""
        return self._converse(problem, [(answer, self._question_again(problem))])

    def demonstration(self, demo: Demonstration) -> list[tuple[TokenIds, TokenIds]]:
        """Return a demonstration as (prompt, completion) pairs, each prompt continuing the last."""
        answer = self._written(demo.attempt)
        pairs = [(self.attempt(demo.problem), answer.token_ids)]
        if demo.reflection is not None and demo.retry is not None:
            reflection = self._written(demo.reflection)
            pairs.append((self.reflection(demo.problem, answer), reflection.token_ids))
            again = self.retry(demo.problem, answer, reflection)
            pairs.append((again, self._written(demo.retry).token_ids))
        return pairs

    def _written(self, text: str) -> Completion:
        """Return a text as a completion that ends its turn, as the model would have sampled it."""
        ids = (*self._encode(text), self._tokenizer.eos_token_id)
        return Completion(ids, text, "stop")

    def _question_again(self, problem: Problem) -> str:
        return self._retry.replace("{question}", question(problem))

    def _converse(self, problem: Problem, turns: Sequence[tuple[Completion, str]]) -> TokenIds:
        """Return the ids of a problem followed by (assistant completion, user request) turns."""
        start = self._render(problem, ())
        marks = [_MARK.format(i) for i in range(len(turns))]
        marked = self._render(problem, list(zip(marks, (t for _, t in turns), strict=True)))
        closings = self._split(marked, start, marks)
        if closings is None:
            self._say_rewriting()
            texts = [(completion.text, request) for completion, request in turns]
            return self._encode(self._render(problem, texts))
        ids = list(self._encode(start))
        for (completion, _), closing in zip(turns, closings, strict=True):
            ids += completion.token_ids
            closing_ids = self._encode(closing)
            ended = completion.token_ids[-1:] == closing_ids[:1]
            ids += closing_ids[1:] if ended else closing_ids
        return tuple(ids)

    def _split(self, marked: str, start: str, marks: Sequence[str]) -> list[str] | None:
        """Return the text after each mark, or None if the template rewrites its own history."""
        parts = []
        rest = marked
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                return None
            parts.append(before)
        if parts[0] != start or any(mark in rest for mark in marks):
            return None
        return [*parts[1:], rest]

    def _say_rewriting(self) -> None:
        if not self._said_rewriting:
            self._said_rewriting = True
            logger.warning(
                "This chat template rewrites earlier turns, so a retry cannot continue the "
                "tokens before it: prompts are rendered anew and caches are not reused."
            )

    def _render(self, problem: Problem, turns: Sequence[tuple[str, str]]) -> str:
        """Render the problem and later turns, ending where the assistant speaks next."""
        messages: list[Message] = list(problem.messages)
        for assistant, user in turns:
            messages.append({"role": "assistant", "content": assistant})
            messages.append({"role": "user", "content": user})
        if problem.tools and not self._template_takes_tools(problem):
            messages = _with_tools_in_system(messages, problem)
            return self._template(messages, None)
        return self._template(messages, problem.tools)

    def _template_takes_tools(self, problem: Problem) -> bool:
        messages = list(problem.messages)
        return self._template(messages, problem.tools) != self._template(messages, None)

    def _template(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except TemplateError as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise MulliganError(
                f"The model's chat template refuses a conversation of {roles}: {error}. "
                "Put the problem in roles that it knows, or use another model."
            ) from error
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, text: str) -> TokenIds:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def question(problem: Problem) -> str:
    """Return a problem's question: the words of its last user message."""
    asked = [message["content"] for message in problem.messages if message["role"] == "user"]
    return str(asked[-1])


def _with_tools_in_system(messages: Sequence[Message], problem: Problem) -> list[Message]:
    """Describe the tools in a system message, for templates that have no place for them."""
    lines = "\n".join(
        json.dumps(tool, separators=(",", ":"), ensure_ascii=False) for tool in problem.tools
    )
    description = f"Tools:\n{lines}"
    first, *rest = messages
    if first["role"] == "system":
        return [{"role": "system", "content": f"{first['content']}\n{description}"}, *rest]
    return [{"role": "system", "content": description}, *messages]
