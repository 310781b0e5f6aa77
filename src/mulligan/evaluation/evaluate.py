"""First try, second try after reflection, and the controls that tell reflection from luck.

Every sample of every problem becomes one `Trial`, a line of ``evaluation/<when>.jsonl``; the table
is computed from those lines. A problem solved at the first try has no second tries: nothing was
left to mend.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations, question
from mulligan.episodes.rollout import Verify, answer, attempt, generate
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Answer, Attempt, Completion, Problem, Sampling, TokenIds, Trial, Verdict

When = Literal["before", "after"]
Judged = tuple[Completion, Verdict]
Leaks = Callable[[Sequence[tuple[Problem, str]]], list[bool | None]]
"""Whether each (problem, reflection) contains a passing answer; None where that is unknown."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is the same before and after training: problems, samples, seeds, sampling."""

    problems: Sequence[Problem]
    samples: int
    seed: int
    temperature: float
    answer_tokens: int
    reflection_tokens: int
    problems_at_once: int
    controls: bool

    def chunks(self) -> Iterator[tuple[int, int, Sequence[Problem]]]:
        """Yield (chunk number, sample, problems): the work in the order in which it is done."""
        number = 0
        for sample in range(self.samples):
            rest = iter(self.problems)
            while chunk := list(islice(rest, self.problems_at_once)):
                yield number, sample, chunk
                number += 1

    def sampling(self, purpose: str, chunk: int, max_tokens: int) -> Sampling:
        """Return sampling with a seed of its own for one purpose in one chunk."""
        seed = derive_seed(self.seed, "evaluate", purpose, chunk)
        return Sampling(self.temperature, max_tokens, seed)


def evaluate(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    leaks: Leaks,
    protocol: Protocol,
    when: When,
    log: RecordLog[Trial],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Append every trial of the protocol to the log; trials that it holds are not run again.

    Args:
        engine: who answers.
        conversations: how the model is asked.
        verify: judges answers.
        leaks: tells which reflections contain a passing answer.
        protocol: what is evaluated.
        when: before or after training.
        log: where the trials go.
        progress: called with the number of trials done by each chunk.
    """
    for number, sample, problems in protocol.chunks():
        ids = [f"{when}-{problem.id}-{sample}" for problem in problems]
        if not all(each in log for each in ids):
            # A chunk that was cut off is generated whole again: what is drawn depends on the
            # chunk, and the lines that are there already come out the same and are not doubled.
            engine.reset_cache()
            chunk = _Chunk(engine, conversations, verify, leaks, protocol, when, number, sample)
            for trial in chunk.trials(problems):
                log.append(trial)
            log.sync()
        progress(len(problems))


@dataclass(frozen=True)
class _Chunk:
    """The problems of one chunk, tried together."""

    engine: Engine
    conversations: Conversations
    verify: Verify
    leaks: Leaks
    protocol: Protocol
    when: When
    number: int
    sample: int

    def trials(self, problems: Sequence[Problem]) -> list[Trial]:
        """Try every problem; try the failed ones again in every way."""
        sampling = self._sampling("first_try", self.protocol.answer_tokens)
        attempts = attempt(self.engine, self.conversations, self.verify, problems, 1, sampling)
        failed = [a for a in attempts if a.verdict.status in ("failed", "unparseable")]
        second_tries = self._second_tries(failed) if failed else {}
        return [self._trial(a, **second_tries.get(a.problem.id, {})) for a in attempts]

    def _second_tries(self, failed: Sequence[Attempt]) -> dict[str, dict[str, object]]:
        """Return the fields of a trial that follow a failed first try, by problem."""
        asked = [(a.problem, a.completion) for a in failed]
        speak = self.conversations
        prompts = [speak.reflection(*each) for each in asked]
        sampling = self._sampling("reflection", self.protocol.reflection_tokens)
        reflections = [row[0] for row in generate(self.engine, speak, prompts, 1, sampling)]

        leaks = self.leaks([(a.problem, z.text) for a, z in zip(failed, reflections, strict=True)])
        after = self._retry(
            "after_reflection",
            failed,
            [speak.retry(*each, z) for each, z in zip(asked, reflections, strict=True)],
        )
        nothing: list[Answer | None] = [None] * len(failed)
        other: list[Answer | None] = [None] * len(failed)
        if self.protocol.controls:
            plain = [speak.retry_without_reflection(*each) for each in asked]
            nothing = self._retry("after_nothing", failed, plain)
            # Everybody gets the next one's reflection: always another problem's.
            others = [*reflections[1:], *reflections[:1]]
            swapped = [speak.retry(*each, z) for each, z in zip(asked, others, strict=True)]
            if len(failed) > 1:
                other = self._retry("after_other_reflection", failed, swapped)
        return {
            a.problem.id: {
                "reflection": z.text,
                "reflection_tokens": len(z.token_ids),
                "leaked": leaked,
                "after_reflection": first,
                "after_nothing": second,
                "after_other_reflection": third,
            }
            for a, z, leaked, first, second, third in zip(
                failed, reflections, leaks, after, nothing, other, strict=True
            )
        }

    def _retry(
        self, column: str, failed: Sequence[Attempt], prompts: Sequence[TokenIds]
    ) -> list[Answer | None]:
        sampling = self._sampling(column, self.protocol.answer_tokens)
        problems = [a.problem for a in failed]
        judged = answer(self.engine, self.conversations, self.verify, problems, prompts, sampling)
        return [_answer(each) for each in judged]

    def _trial(self, first: Attempt, **second_tries: object) -> Trial:
        return Trial(
            problem_id=first.problem.id,
            sample=self.sample,
            when=self.when,
            question=question(first.problem),
            first_try=_answer((first.completion, first.verdict)),
            **second_tries,  # type: ignore[arg-type]
        )

    def _sampling(self, purpose: str, max_tokens: int) -> Sampling:
        return self.protocol.sampling(purpose, self.number, max_tokens)


def _answer(judged: Judged) -> Answer:
    completion, verdict = judged
    tokens = len(completion.token_ids)
    return Answer(completion.text, verdict, tokens, completion.finish_reason, completion.thoughts)
