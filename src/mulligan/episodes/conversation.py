"""The three prompts and their token ids: attempt, reflect, retry.

Token ids travel: what the engine sampled is continued as it was sampled. A prompt is the ids of
the prompt before, the ids of the completion, and the ids of what comes next in the chat template,
so that an engine can go on with its cache and the loss scores what was drawn. Where the template
rewrites earlier turns (drops their thoughts, say), it is rendered anew, and that is said.
"""

import json
import logging
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from mulligan.errors import MulliganError
from mulligan.models.template import FIXED_DATE, MARK, ChatTemplate
from mulligan.models.thoughts import Marks, Speech, split_channels, split_thoughts
from mulligan.types import Completion, Demonstration, Message, Problem, TokenIds, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("mulligan")

_REMEMBERED = 512
"""Renderings that are kept: the retries of a group differ in their completions only."""

_TOLD = re.compile(r"\{(reason|detail)\}")

Turn = tuple[Completion, str]
"""What the assistant said, and what the user asks next."""


class Conversations:
    """Turns problems, answers and reflections into prompts of token ids.

    Args:
        tokenizer: has a chat template.
        reflect: the reflection request.
        retry: the retry request; ``{question}`` stands for the problem's own words.
        today: the date told to templates that state one.
        marks: what opens and closes a thought; the field's usual marks by default.
        context: tokens that the model can attend to; ``None`` where it has no limit.
    """

    _verdicts: tuple[Verdict, ...] = ()

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        reflect: str,
        retry: str = "{question}",
        *,
        today: str = FIXED_DATE,
        marks: Marks | None = None,
        context: int | None = None,
    ) -> None:
        self._template = ChatTemplate(tokenizer, today, marks)
        self._reflect = reflect
        self._retry = retry
        self._context = context
        self._said: set[str] = set()
        self._pieces: dict[tuple[object, ...], tuple[TokenIds, ...] | None] = {}

    def about(self, *verdicts: Verdict) -> Self:
        """Return these conversations about answers with some verdicts, in the order of the answers.

        That matters where the reflection request holds ``{reason}`` or ``{detail}``, which are then
        those of the verdict on the answer before it, and empty where it has none.
        """
        if not tells_verdict(self._reflect):
            return self
        told = copy(self)
        told._verdicts = verdicts
        return told

    def attempt(self, problem: Problem) -> TokenIds:
        """Return the prompt of a first try."""
        return self._converse(problem, ())

    def reflection(self, problem: Problem, *said: Completion) -> TokenIds:
        """Return the prompt of a reflection on the last of what was said.

        ``said`` is a failed answer, followed by any number of (reflection, failed retry) pairs.
        """
        return self._converse(problem, self._in_turn(problem, said))

    def retry(self, problem: Problem, *said: Completion) -> TokenIds:
        """Return the prompt of a retry; ``said`` is (failed answer, reflection) pairs in order."""
        return self._converse(problem, self._in_turn(problem, said))

    def retry_without_reflection(self, problem: Problem, answer: Completion) -> TokenIds:
        """Return the prompt of a control: the problem again, right after the failed answer."""
        return self._converse(problem, [(answer, self._question_again(problem))])

    def thought(self, problem: Problem, request: str) -> TokenIds:
        """Return the prompt of a fresh conversation: the problem, and a request to think first."""
        return self.attempt(_with_request(problem, request))

    def answer_after_thought(self, problem: Problem, request: str, thought: Completion) -> TokenIds:
        """Return the prompt that follows a thought: the problem's own words again."""
        turns = [(thought, self._question_again(problem))]
        return self._converse(_with_request(problem, request), turns)

    def filler(self, like: Completion) -> Completion:
        """Return as many meaningless tokens (dots) as a completion has, which end as it does."""
        length = len(like.token_ids)
        ids = self._template.encode(" ." * length)[:length]
        if like.finish_reason == "stop":
            ids = (*ids[:-1], *like.token_ids[-1:])
        filler = Completion(ids, "", like.finish_reason)
        return replace(filler, text=self._decode(filler))

    def fits(self, prompt: TokenIds, max_tokens: int) -> bool:
        """Whether a prompt and so many more tokens fit the model's context."""
        return self._context is None or len(prompt) + max_tokens <= self._context

    def failure_fits(
        self, problem: Problem, answer: Completion, reflection_tokens: int, answer_tokens: int
    ) -> bool:
        """Whether a retry after the longest reflection on a failed answer fits the context."""
        shortest = self.retry(problem, answer, Completion((), "", "length"))
        return self.fits(shortest, reflection_tokens + answer_tokens)

    def problem_fits(self, problem: Problem, reflection_tokens: int, answer_tokens: int) -> bool:
        """Whether the longest conversation about a problem fits the context."""
        nothing = Completion((), "", "length")
        return self.failure_fits(problem, nothing, reflection_tokens, 2 * answer_tokens)

    def demonstration(self, demo: Demonstration) -> list[tuple[TokenIds, TokenIds]]:
        """Return a demonstration as (prompt, completion) pairs, one for each turn of the model."""
        answer = self.written(demo.attempt)
        pairs = [(self.attempt(demo.problem), answer.token_ids)]
        if demo.reflection is not None and demo.retry is not None:
            reflection = self.written(demo.reflection)
            pairs.append((self.reflection(demo.problem, answer), reflection.token_ids))
            again = self.retry(demo.problem, answer, reflection)
            pairs.append((again, self.written(demo.retry).token_ids))
        return pairs

    def understand(self, completion: Completion) -> Completion:
        """Return a completion whose text is the answer alone, its thoughts beside it."""
        speech = self._speech(completion)
        if speech.thoughts is None and speech.finished and speech.answer == completion.text:
            return completion
        return replace(
            completion,
            text=speech.answer,
            thoughts=speech.thoughts,
            unfinished_thought=not speech.finished,
        )

    def written(self, text: str) -> Completion:
        """Return a text as a completion that ends its turn, as the model would have sampled it."""
        written = Completion(self._template.spoken(text), text, "stop")
        return replace(written, text=self._decode(written))

    def _in_turn(
        self, problem: Problem, said: Sequence[Completion]
    ) -> list[tuple[Completion, str]]:
        """Return what was said with the request after each: to reflect, to retry, to reflect."""
        again = self._question_again(problem)
        return [
            (completion, again if place % 2 else self._request_to_reflect(place // 2))
            for place, completion in enumerate(said)
        ]

    def _request_to_reflect(self, number: int) -> str:
        """Return the request after the answer of some number, in the words of its verdict."""
        verdict = self._verdicts[number] if number < len(self._verdicts) else None
        words = {"reason": verdict.reason, "detail": verdict.detail} if verdict else {}
        return _TOLD.sub(lambda found: words.get(found.group(1), ""), self._reflect)

    def _question_again(self, problem: Problem) -> str:
        return self._retry.replace("{question}", question(problem))

    def _speech(self, completion: Completion) -> Speech:
        """Tell a completion's thoughts from its answer; its ids decide, where its marks are ids."""
        template = self._template
        special = {*template.special_tokens.values()}
        if template.has_channels:
            return split_channels(self._decode(completion, special=True))
        if special & {mark for pair in template.marks for mark in pair}:
            text = self._decode(completion, special=True)
            speech = split_thoughts(text, template.marks, template.opened_thought)
            return replace(speech, answer=self._without_special(speech.answer))
        text = completion.text
        if completion.thoughts is not None:  # understood before: its text is the answer alone
            text = self._decode(completion)
        return split_thoughts(text, template.marks, template.opened_thought)

    def _decode(self, completion: Completion, *, special: bool = False) -> str:
        ids = list(completion.token_ids)
        text = self._template.tokenizer.decode(ids, skip_special_tokens=not special)
        assert isinstance(text, str)
        return text

    def _without_special(self, text: str) -> str:
        for token in self._template.special_tokens.values():
            text = text.replace(token, "")
        return text

    def _converse(self, problem: Problem, turns: Sequence[Turn]) -> TokenIds:
        """Return the ids of a problem followed by (assistant completion, user request) turns."""
        speeches = [self._speech(completion) for completion, _ in turns]
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
            messages = [self._message(speech) for speech in speeches]
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

    def _message(self, speech: Speech) -> Message:
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


def tells_verdict(reflect: str) -> bool:
    """Whether a reflection request tells the model what the verifier said."""
    return _TOLD.search(reflect) is not None


def question(problem: Problem) -> str:
    """Return a problem's question: the words of its last user message."""
    asked = [message["content"] for message in problem.messages if message["role"] == "user"]
    return str(asked[-1])


def _as_json(arguments: str) -> object:
    """Return a call's arguments as JSON, or as the text that is none."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _with_request(problem: Problem, request: str) -> Problem:
    """Return the problem with a request added to its last user message."""
    messages = list(problem.messages)
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    messages[last] = {**messages[last], "content": f"{messages[last]['content']}\n\n{request}"}
    return replace(problem, id=f"{problem.id}: {request}", messages=tuple(messages))
