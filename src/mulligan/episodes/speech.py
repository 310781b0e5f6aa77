"""What a model said, told apart: its thoughts, its answer, its calls of tools."""

import json
from dataclasses import replace

from mulligan.models.template import ChatTemplate
from mulligan.models.thoughts import Speech, split_channels, split_thoughts
from mulligan.types import Completion, Message


class Listener:
    """Understands completions by the marks of a chat template.

    Args:
        template: of the model that speaks.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    def speech(self, completion: Completion) -> Speech:
        """Tell a completion's thoughts from its answer; its ids decide, where its marks are ids."""
        template = self._template
        special = {*template.special_tokens.values()}
        if template.has_channels:
            return split_channels(self.decode(completion, special=True))
        if special & {mark for pair in template.marks for mark in pair}:
            text = self.decode(completion, special=True)
            speech = split_thoughts(text, template.marks, template.opened_thought)
            return replace(speech, answer=self._without_special(speech.answer))
        text = completion.text
        if completion.thoughts is not None:  # understood before: its text is the answer alone
            text = self.decode(completion)
        return split_thoughts(text, template.marks, template.opened_thought)

    def decode(self, completion: Completion, *, special: bool = False) -> str:
        """Return a completion's tokens as text, with or without special tokens."""
        ids = list(completion.token_ids)
        text = self._template.tokenizer.decode(ids, skip_special_tokens=not special)
        assert isinstance(text, str)
        return text

    def _without_special(self, text: str) -> str:
        for token in self._template.special_tokens.values():
            text = text.replace(token, "")
        return text

    def message(self, speech: Speech) -> Message:
        """Return what was said as a message from which the template drops what it drops."""
        if self._template.has_channels:
            message: dict[str, object] = {"role": "assistant", "content": speech.answer}
            if speech.thoughts is not None:
                message["thinking"] = speech.thoughts
            if speech.calls:
                message["content"] = ""
                message["tool_calls"] = [
                    {"function": {"name": name, "arguments": _as_json(arguments)}}
                    for name, arguments in speech.calls
                ]
            return message
        if speech.marks is None:
            return {"role": "assistant", "content": speech.answer}
        opening, closing = speech.marks
        content = f"{opening}\n{speech.thoughts}\n{closing}\n\n{speech.answer}"
        return {"role": "assistant", "content": content}


def _as_json(arguments: str) -> object:
    """Return a call's arguments as JSON, or as plain text where it is none."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
