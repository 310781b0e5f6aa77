"""What a policy finds by itself: answers that pass, at the first try or at a second one.

Every problem is tried once. Where that fails, it is tried some more times: after a reflection, as
the policy was trained to, or otherwise, to compare. Token ids are kept, so that what is trained on
later is what was sampled.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mulligan.engines.base import Engine
from mulligan.episodes.collect import as_failure, chunks, try_problems
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import Verify, ask_again, reflect_and_retry, try_afresh
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Attempt, Failure, Group, Problem, Sampling, TokenIds


@dataclass(frozen=True, slots=True)
class Found:
    """A line of ``found.jsonl``: an answer that passed."""

    problem_id: str
    at: Literal["first_try", "retry"]
    sample: int
    """Which of the problem's second tries it is; 0 for a first try."""
    prompt_ids: TokenIds
    """The bare question."""
    context_ids: TokenIds
    """What the answer followed: the bare question, or the conversation up to a retry, with the
    failed answer and any reflection."""
    answer_ids: TokenIds

    @property
    def id(self) -> str:
        """Unique within a file."""
        return f"{self.problem_id}-{self.at}-{self.sample}"


@dataclass(frozen=True, slots=True)
class Searched:
    """A line of ``searched.jsonl``: what became of a chunk of problems."""

    chunk: int
    problems: int
    solved: int
    """At the first try."""
    failed: int
    """Problems that were tried again."""
    retries: int
    """Second tries that could be judged."""
    passed: int
    """Of those."""
    tokens: int
    """Generated for all of it, second tries that could not be judged left out."""


@dataclass(frozen=True, slots=True)
class Search:
    """How problems are tried."""

    second: Literal["reflection", "nothing", "fresh"]
    """What stands before a second try: see ``consolidate.search``."""
    tries: int
    """Second tries at each failed problem."""
    at_once: int
    """Problems in a chunk."""
    temperature: float
    answer_tokens: int
    reflection_tokens: int
    model: str
    """Its name, for what is said of failures."""
    seed: int

    def sampling(self, purpose: str, chunk: int) -> Sampling:
        """Return sampling with a seed of its own for one purpose in one chunk."""
        tokens = self.reflection_tokens if purpose == "reflect" else self.answer_tokens
        return Sampling(self.temperature, tokens, derive_seed(self.seed, purpose, chunk))


def open_found(path: Path) -> RecordLog[Found]:
    """Open the file of answers that passed.

    Raises:
        MulliganError: a line is not such an answer, or an answer occurs twice.
    """
    return RecordLog(path, Found, lambda line: line.id)


def open_searched(path: Path) -> RecordLog[Searched]:
    """Open the file of chunks that were searched.

    Raises:
        MulliganError: a line is not such a chunk, or a chunk occurs twice.
    """
    return RecordLog(path, Searched, lambda line: str(line.chunk))


def search(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    how: Search,
    *,
    found: RecordLog[Found],
    searched: RecordLog[Searched],
    progress: Callable[[int], None],
) -> None:
    """Try every problem, and reflect on what fails; write down each answer that passes.

    A chunk is done when its line is in ``searched``. One that was cut off is generated again, draws
    the same, and writes nothing twice.
    """
    for number, chunk in enumerate(chunks(problems, how.at_once)):
        if str(number) not in searched:
            engine.reset_cache()
            trying = how.sampling("try", number)
            tried = try_problems(
                engine, conversations, verify, chunk, 1, trying, how.reflection_tokens
            )
            failures = [as_failure(each, how.model, trying) for each in tried.failed]
            groups = (
                _second_tries(engine, conversations, verify, failures, how, number)
                if failures
                else []
            )
            for each in (*_first_tries(tried.attempts), *_retries(groups)):
                found.append(each)
            found.sync()
            searched.append(_counts(number, len(chunk), tried.attempts, groups))
        progress(len(chunk))


def _second_tries(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    failures: Sequence[Failure],
    how: Search,
    chunk: int,
) -> list[Group]:
    """Try again what failed in a chunk."""
    writing = how.sampling("retry", chunk)
    if how.second == "reflection":
        thinking = how.sampling("reflect", chunk)
        return reflect_and_retry(
            engine, conversations, verify, failures, how.tries, thinking, writing
        )
    again = ask_again if how.second == "nothing" else try_afresh
    return again(engine, conversations, verify, failures, how.tries, writing)


def _first_tries(attempts: Sequence[Attempt]) -> Iterator[Found]:
    for each in attempts:
        if each.verdict.passed:
            prompt, answer = each.prompt_ids, each.completion.token_ids
            yield Found(each.problem.id, "first_try", 0, prompt, prompt, answer)


def _retries(groups: Sequence[Group]) -> Iterator[Found]:
    for group in groups:
        tried = group.failure.attempt
        contexts = group.retry_prompts_G or [group.prompt_ids] * len(group.episodes)
        for episode, context in zip(group.episodes, contexts, strict=True):
            if episode.retry is not None and episode.verdict and episode.verdict.passed:
                answer = episode.retry.token_ids
                yield Found(
                    tried.problem.id, "retry", episode.sample, tried.prompt_ids, context, answer
                )


def _counts(
    number: int, problems: int, attempts: Sequence[Attempt], groups: Sequence[Group]
) -> Searched:
    episodes = [episode for group in groups for episode in group.episodes]
    written = [each.completion for each in attempts]
    written += [each for e in episodes for each in (e.reflection, e.retry) if each is not None]
    return Searched(
        chunk=number,
        problems=problems,
        solved=sum(each.verdict.passed for each in attempts),
        failed=len(groups),
        retries=len(episodes),
        passed=sum(e.verdict is not None and e.verdict.passed for e in episodes),
        tokens=sum(each.length for each in written),
    )
