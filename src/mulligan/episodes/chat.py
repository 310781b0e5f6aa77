"""The same conversations as messages, for a server that applies a chat template of its own."""

from collections.abc import Sequence
from dataclasses import replace

from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rendering import Turn
from mulligan.models.thoughts import KNOWN_MARKS, Marks, split_thoughts
from mulligan.types import ChatPrompt, Completion, Message, Problem, TokenIds


class ChatConversations(Conversations):
    """Turns problems, answers and reflections into prompts of messages; it needs no tokenizer.

    Earlier turns of the assistant are told without their thoughts, as most templates tell them.

    Args:
        reflect: the reflection request.
        retry: the retry request; ``{question}`` stands for the problem's own words.
        marks: what opens and closes a thought; the field's usual marks by default.
    """

    def __init__(
        self, reflect: str, retry: str = "{question}", *, marks: Marks | None = None
    ) -> None:
        self._reflect = reflect
        self._retry = retry
        self._marks = KNOWN_MARKS if marks is None else (marks,)
        self._context = None  # the server knows, and says so

    def understand(self, completion: Completion) -> Completion:
        """Return a completion whose text is the answer alone; a server may have cut it already."""
        if completion.thoughts is not None:
            return completion
        speech = split_thoughts(completion.text, self._marks)
        if speech.thoughts is None and speech.finished:
            return completion
        return replace(
            completion,
            text=speech.answer,
            thoughts=speech.thoughts,
            unfinished_thought=not speech.finished,
        )

    def written(self, text: str) -> Completion:
        """Return a text as a completion; how many tokens it has, only the server could say."""
        return Completion((), text, "stop")

    def filler(self, like: Completion) -> Completion:
        """Return as many dots as a completion has tokens; most tokenizers read each as one."""
        return Completion((), " ." * like.length, like.finish_reason, counted_tokens=like.length)

    def _converse(self, problem: Problem, turns: Sequence[Turn]) -> TokenIds:
        """Return a problem followed by (assistant completion, user request) turns, as messages."""
        messages: list[Message] = list(problem.messages)
        for completion, request in turns:
            answer = self.understand(completion).text
            messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": request})
        return ChatPrompt(messages, problem.tools)
