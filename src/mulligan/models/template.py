"""A tokenizer's chat template: what it renders, how it ends a turn, what it has a place for.

Whatever is said of a template here was found by rendering it, never by reading its text.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from mulligan.errors import MulliganError
from mulligan.models.thoughts import CHANNEL, KNOWN_MARKS, Marks
from mulligan.types import Message, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARK = "\u2418mulligan-{}\u2418"
"""Stands for someone's words when a template is rendered; no template writes it itself."""
FIXED_DATE = "2026-01-01"
_ASK: Message = {"role": "user", "content": MARK.format("ask")}
_DATE_FORMAT = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_FIXED_CLOCK = "{%- macro strftime_now(format) -%}{{ mulligan_dates[format] }}{%- endmacro %}"
"""Stands in front of a template that asks for the date; transformers passes it no functions."""
_PROBE_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


class ChatTemplate:
    """Renders conversations.

    Args:
        tokenizer: has a chat template.
        today: the date told to templates that state one (Llama 3.1, gpt-oss), so that a run that
            is resumed another day asks the same.
        marks: what opens and closes a thought, where the model has marks of its own.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        today: str = FIXED_DATE,
        marks: Marks | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.marks: tuple[Marks, ...] = KNOWN_MARKS if marks is None else (marks,)
        self._text, self._dates = _with_fixed_date(tokenizer, date.fromisoformat(today))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        speaks_next: bool = True,
    ) -> str:
        """Return a conversation's text; ``speaks_next`` ends it where the assistant begins.

        Raises:
            MulliganError: the template refuses the conversation.
        """
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=speaks_next,
                tokenize=False,
                chat_template=self._text,
                mulligan_dates=self._dates,
            )
        except TemplateError as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise MulliganError(
                f"The model's chat template refuses a conversation of {roles}: {error}. "
                "Put the problem in roles that it knows, or use another model."
            ) from error
        assert isinstance(rendered, str)
        return rendered

    def encode(self, text: str) -> TokenIds:
        """Return the ids of rendered text; the template has written every special token itself."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template has a place for tool descriptions."""
        return self.render([_ASK], [_PROBE_TOOL]) != self.render([_ASK])

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template knows system messages."""
        words = MARK.format("system")
        try:
            return words in self.render([{"role": "system", "content": words}, _ASK])
        except MulliganError:
            return False

    @cached_property
    def has_channels(self) -> bool:
        """Whether the model speaks in the channels of gpt-oss."""
        return CHANNEL in self.special_tokens.values()

    @cached_property
    def special_tokens(self) -> dict[int, str]:
        """The tokens that decoding leaves out, by id."""
        added = self.tokenizer.added_tokens_decoder
        return {number: token.content for number, token in added.items() if token.special}

    @cached_property
    def opened_thought(self) -> Marks | None:
        """The marks of a thought that the template itself opens where the assistant begins."""
        end = self.render([_ASK]).rstrip()
        return next((marks for marks in self.marks if end.endswith(marks[0])), None)

    def spoken(self, text: str) -> TokenIds:
        """Return a text as the model would have sampled it: with the marks around it, and ended.

        The end is the template's own: the first token that it writes behind a last answer, where
        that is a token added for the purpose, else the tokenizer's end-of-sequence token.
        """
        before, after = self._around_last_answer
        ids = list(self.encode(before + text + after))
        end = self.end_of_turn
        behind = len(self.encode(after))
        if behind and end in ids[-behind:]:
            return tuple(ids[: len(ids) - behind + ids[-behind:].index(end) + 1])
        return (*self.encode(before + text), end)

    @cached_property
    def end_of_turn(self) -> int:
        """The token that ends the model's turn."""
        closing = self.encode(self._around_last_answer[1])
        if closing and closing[0] in self.tokenizer.added_tokens_decoder:
            return closing[0]
        end = self.tokenizer.eos_token_id
        if end is None:
            raise MulliganError(
                "Neither the chat template nor the tokenizer says which token ends a turn. "
                "Give the tokenizer an eos_token."
            )
        return int(end)

    @cached_property
    def _around_last_answer(self) -> tuple[str, str]:
        """What stands between a prompt's end and the last answer's words, and what follows them."""
        words = MARK.format("answer")
        start = self.render([_ASK])
        whole = self.render([_ASK, {"role": "assistant", "content": words}], speaks_next=False)
        before, _, after = whole.partition(words)
        if before.startswith(start):
            return before.removeprefix(start), after
        if self.opened_thought is not None:  # an answer comes after an empty thought
            return f"\n{self.opened_thought[1]}\n\n", after
        return "", after


def _with_fixed_date(
    tokenizer: "PreTrainedTokenizerBase", today: date
) -> tuple[str | None, dict[str, str]]:
    """Return a template's text in which the date is always the same, and that date as it asks it.

    ``None`` stands for the template as it is, where it does not ask for the date.
    """
    text = tokenizer.chat_template
    if not isinstance(text, str) or "strftime_now" not in text:
        return None, {}
    formats = {found[2] for found in _DATE_FORMAT.finditer(text)}
    return _FIXED_CLOCK + text, {each: today.strftime(each) for each in formats}


def stop_ids(
    model: "PreTrainedModel | None", tokenizer: "PreTrainedTokenizerBase"
) -> frozenset[int]:
    """Return the tokens that end a turn: by the chat template, the tokenizer and the model."""
    settings = getattr(model, "generation_config", None)
    stops = getattr(settings, "eos_token_id", None)
    ids = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    if tokenizer.eos_token_id is not None:
        ids.append(int(tokenizer.eos_token_id))
    if getattr(tokenizer, "chat_template", None):
        ids.append(ChatTemplate(tokenizer).end_of_turn)
    return frozenset(ids)
