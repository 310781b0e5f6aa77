"""Try, verify, reflect, retry: what training taught a model, put to use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import Verify, answer, generate
from mulligan.randomness import derive_seed
from mulligan.types import Completion, Problem, Sampling, TokenIds, Verdict

Kind = Literal["attempt", "reflection", "retry"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while a problem was answered."""

    kind: Kind
    completion: Completion
    verdict: Verdict | None = None
    """The verifier's word on an attempt or a retry; a reflection has none."""
    prompt_tokens: int = 0
    """Length of what the model was asked with; 0 where a server alone knows, and does not say."""


@dataclass(frozen=True, slots=True)
class Solution:
    """How a problem was answered, whether or not any answer passed."""

    problem: Problem
    events: tuple[Event, ...]
    """In the order in which they happened; the first is the attempt."""

    @property
    def last_try(self) -> Event:
        """The last attempt or retry: its answer is the one to use."""
        return next(event for event in reversed(self.events) if event.kind != "reflection")

    @property
    def answer(self) -> str:
        """The text of the last try."""
        return self.last_try.completion.text

    @property
    def verdict(self) -> Verdict:
        """The verifier's word on the answer; ``error`` where it could not judge it."""
        assert self.last_try.verdict is not None
        return self.last_try.verdict

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.verdict.passed

    @property
    def tries(self) -> int:
        """How often the problem was tried."""
        return sum(event.kind != "reflection" for event in self.events)

    @property
    def tokens(self) -> int:
        """How many tokens were generated in all, reflections included."""
        return sum(event.completion.length for event in self.events)

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the model was asked with in all."""
        return sum(event.prompt_tokens for event in self.events)


@dataclass(frozen=True, slots=True)
class Method:
    """What answering needs, besides problems."""

    engine: Engine
    conversations: Conversations
    verify: Verify
    writing: Sampling
    """How answers are drawn."""
    thinking: Sampling
    """How reflections are drawn."""
    tries: int = 2
    """Most tries at a problem, the first included; 1 never reflects."""


def solve(method: Method, problems: Sequence[Problem]) -> list[Solution]:
    """Answer problems together; solutions come in the order of the problems."""
    events: list[list[Event]] = [[] for _ in problems]
    for happened in steps(method, problems):
        for place, event in happened.items():
            events[place].append(event)
    return [Solution(p, tuple(each)) for p, each in zip(problems, events, strict=True)]


def steps(method: Method, problems: Sequence[Problem]) -> Iterator[Mapping[int, Event]]:
    """Answer problems together, step by step: attempts, reflections, retries, reflections, ...

    A problem is reflected on and retried while its answer is wrong or unreadable and tries are
    left. An answer that could not be verified ends it: nobody knows whether it is wrong. So does a
    conversation that outgrows the model's context.

    Yields:
        What happened to the problems that are still open, by their place.
    """
    said: list[list[Completion]] = [[] for _ in problems]
    verdicts: list[list[Verdict]] = [[] for _ in problems]
    going = list(range(len(problems)))
    for number in range(method.tries):
        if number:
            reflections = _reflections(method, problems, said, verdicts, going, number)
            yield reflections
            for place, reflection in reflections.items():
                said[place].append(reflection.completion)
            going = [place for place in going if reflections[place].completion.asked]
            if not going:
                return
        answered = _answers(method, problems, said, verdicts, going, number)
        yield answered
        for place, event in answered.items():
            assert event.verdict is not None
            said[place].append(event.completion)
            verdicts[place].append(event.verdict)
        going = [p for p in going if verdicts[p][-1].status in ("failed", "unparseable")]
        if not going:
            return


def _reflections(
    method: Method,
    problems: Sequence[Problem],
    said: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[Verdict]],
    going: Sequence[int],
    number: int,
) -> dict[int, Event]:
    prompts = [
        method.conversations.about(*verdicts[place]).reflection(problems[place], *said[place])
        for place in going
    ]
    drawn = _seeded(method.thinking, "reflection", number)
    rows = generate(method.engine, method.conversations, prompts, 1, drawn)
    return {
        place: Event("reflection", row[0], None, _length(prompt, row[0]))
        for place, row, prompt in zip(going, rows, prompts, strict=True)
    }


def _answers(
    method: Method,
    problems: Sequence[Problem],
    said: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[Verdict]],
    going: Sequence[int],
    number: int,
) -> dict[int, Event]:
    def prompt(place: int) -> TokenIds:
        if not number:
            return method.conversations.attempt(problems[place])
        return method.conversations.about(*verdicts[place]).retry(problems[place], *said[place])

    prompts = [prompt(place) for place in going]
    answered = answer(
        method.engine,
        method.conversations,
        method.verify,
        [problems[place] for place in going],
        prompts,
        _seeded(method.writing, "answer", number),
    )
    kind: Kind = "retry" if number else "attempt"
    return {
        place: Event(kind, completion, verdict, _length(prompt, completion))
        for place, (completion, verdict), prompt in zip(going, answered, prompts, strict=True)
    }


def _length(prompt: TokenIds, completion: Completion) -> int:
    """Return a prompt's tokens; one that went as messages was counted by the server."""
    counted = completion.counted_prompt
    return len(prompt) if counted is None else counted


def _seeded(sampling: Sampling, what: str, number: int) -> Sampling:
    return replace(sampling, seed=derive_seed(sampling.seed, what, number))
