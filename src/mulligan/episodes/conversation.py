"""The three prompts and their token ids: attempt, reflect, retry.

Token ids travel: what the engine sampled is continued as it was sampled. A prompt is the ids of
the prompt before, the ids of the completion, and the ids of what comes next in the chat template,
so that an engine can go on with its cache and the loss scores what was drawn.
"""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from mulligan.episodes.rendering import Renderer, Turn
from mulligan.episodes.speech import Listener
from mulligan.models.template import FIXED_DATE, ChatTemplate
from mulligan.models.thoughts import Marks
from mulligan.types import Completion, Demonstration, Problem, TokenIds, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NOTHING = Completion((), "", "length")
_TOLD = re.compile(r"\{(reason|detail)\}")


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
        self._listener = Listener(self._template)
        self._renderer = Renderer(self._template, self._listener)

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

    def retry_without_reflection(self, problem: Problem, *answers: Completion) -> TokenIds:
        """Return the prompt of a control: the problem again, right after each failed answer."""
        again = self._question_again(problem)
        return self._converse(problem, [(answer, again) for answer in answers])

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
        return replace(filler, text=self._listener.decode(filler))

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its completion may have together; ``None``: any number."""
        return self._context

    def fits(self, prompt: TokenIds, max_tokens: int) -> bool:
        """Whether a prompt and so many more tokens fit the model's context."""
        return self._context is None or len(prompt) + max_tokens <= self._context

    def failure_fits(
        self, problem: Problem, answer: Completion, reflection_tokens: int, answer_tokens: int
    ) -> bool:
        """Whether a retry after the longest reflection on a failed answer fits the context."""
        shortest = self.retry(problem, answer, _NOTHING)
        return self.fits(shortest, reflection_tokens + answer_tokens)

    def longest(self, problem: Problem, reflection_tokens: int, answer_tokens: int) -> int:
        """Return how many tokens the longest conversation about a problem has.

        It is an answer, a reflection on it and a retry, each as long as it may be.
        """
        shortest = self.retry(problem, _NOTHING, _NOTHING)
        return len(shortest) + reflection_tokens + 2 * answer_tokens

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
        speech = self._listener.speech(completion)
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
        return replace(written, text=self._listener.decode(written))

    def _converse(self, problem: Problem, turns: Sequence[Turn]) -> TokenIds:
        """Return the ids of a problem followed by (assistant completion, user request) turns."""
        return self._renderer.ids(problem, turns)

    def _in_turn(self, problem: Problem, said: Sequence[Completion]) -> list[Turn]:
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


def tells_verdict(reflect: str) -> bool:
    """Whether a reflection request tells the model what the verifier said."""
    return _TOLD.search(reflect) is not None


def question(problem: Problem) -> str:
    """Return a problem's question: the words of its last user message."""
    asked = [message["content"] for message in problem.messages if message["role"] == "user"]
    return str(asked[-1])


def _with_request(problem: Problem, request: str) -> Problem:
    """Return the problem with a request added to its last user message."""
    messages = list(problem.messages)
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    messages[last] = {**messages[last], "content": f"{messages[last]['content']}\n\n{request}"}
    return replace(problem, id=f"{problem.id}: {request}", messages=tuple(messages))
