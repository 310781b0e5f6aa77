"""Failures are collected by letting the model try problems: before training, or step by step."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore, failure_id
from mulligan.episodes.rollout import Verify, attempt
from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Attempt, Failure, Problem, Sampling

logger = logging.getLogger("mulligan")


@dataclass(frozen=True, slots=True)
class Collected:
    """A line of ``collected.jsonl``: what became of the attempts at some problems."""

    chunk: int
    attempts: int
    passed: int
    failed: int
    unparseable: int
    errors: int
    """Attempts whose verifier broke; they are neither passes nor failures and are not stored."""
    too_long: int = 0
    """Problems, and failures on others, whose conversation does not fit the model's context; they
    are left out."""
    tokens: int = 0
    """Tokens of all attempts; 0 in runs of earlier versions."""


def collect(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    *,
    attempts: int,
    at_once: int,
    sampling: Sampling,
    reflection_tokens: int,
    model: str,
    store: FailureStore,
    log: RecordLog[Collected],
    progress: Callable[[int], None],
) -> None:
    """Try every problem and store the attempts that do not pass.

    Problems are tried chunk by chunk; a chunk is done when its line is in the log. One that was
    cut off is generated again, draws the same, and stores nothing twice. The engine forgets what
    came before each, so that no bit depends on where a run was resumed.

    A failure is stored only if a retry after the longest reflection on it (``reflection_tokens``)
    fits the model's context; what does not fit is counted.

    Raises:
        MulliganError: not even a first try fits the context.
    """
    for number, chunk in enumerate(chunks(problems, at_once)):
        if str(number) not in log:
            engine.reset_cache()
            drawn = Sampling(
                sampling.temperature,
                sampling.max_tokens,
                derive_seed(sampling.seed, "collect", number),
            )
            tried = try_problems(
                engine, conversations, verify, chunk, attempts, drawn, reflection_tokens
            )
            for each in tried.failed:
                store.append(as_failure(each, model, sampling))
            store.sync()
            log.append(Collected(number, **tried.summary))
        progress(len(chunk))

    def longest(problem: Problem) -> int:
        return conversations.longest(problem, reflection_tokens, sampling.max_tokens)

    _say_what_is_left_out(log, problems, longest, conversations.context)


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of some problems that were tried."""

    attempts: tuple[Attempt, ...]
    failed: tuple[Attempt, ...]
    """Those that did not pass, and that a reflection and a retry can follow."""
    too_long: int
    """Problems, and failures on others, whose conversation does not fit the model's context."""

    @property
    def summary(self) -> dict[str, int]:
        """What a line of ``collected.jsonl`` says: how many attempts of each verdict, and so on."""
        statuses = Counter(each.verdict.status for each in self.attempts)
        return {
            "attempts": len(self.attempts),
            "passed": statuses["passed"],
            "failed": statuses["failed"],
            "unparseable": statuses["unparseable"],
            "errors": statuses["error"],
            "too_long": self.too_long,
            "tokens": sum(each.completion.length for each in self.attempts),
        }


def try_problems(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    attempts: int,
    sampling: Sampling,
    reflection_tokens: int,
) -> Tried:
    """Try each problem some times; leave out and count what does not fit the model's context."""
    asked = [
        problem
        for problem in problems
        if conversations.fits(conversations.attempt(problem), sampling.max_tokens)
    ]
    tries = attempt(engine, conversations, verify, asked, attempts, sampling)
    failed = [each for each in tries if each.verdict.status in ("failed", "unparseable")]
    kept = [
        each
        for each in failed
        if conversations.about(each.verdict).failure_fits(
            each.problem, each.completion, reflection_tokens, sampling.max_tokens
        )
    ]
    left_out = len(problems) - len(asked) + len(failed) - len(kept)
    return Tried(tuple(tries), tuple(kept), left_out)


def as_failure(tried: Attempt, model: str, sampling: Sampling) -> Failure:
    """Return a failed attempt as it is stored, with the model and the settings it came from."""
    key = failure_id(tried.problem.id, tried.sample, model, sampling)
    return Failure(key, without_logprobs(tried), model, sampling)


def _say_what_is_left_out(
    log: RecordLog[Collected],
    problems: Sequence[Problem],
    longest: Callable[[Problem], int],
    context: int | None,
) -> None:
    left_out = sum(line.too_long for line in log)
    if not left_out:
        return
    advice = (
        "Lower generate.answer_tokens or generate.reflection_tokens, or use a model with a longer "
        "context."
    )
    if not any(line.attempts for line in log):
        raise MulliganError(
            f"The model's context of {context} tokens is shorter than one conversation: with a "
            "reflection and a retry of the longest allowed, the shortest takes "
            f"{min(map(longest, problems))}. {advice}"
        )
    logger.warning(
        "%d problems or failures are left out: with a reflection and a retry they do not fit the "
        "model's context. %s",
        left_out,
        advice,
    )


def without_logprobs(tried: Attempt) -> Attempt:
    """Leave out the engine's log-probabilities: nothing reads those of a failure again."""
    return replace(tried, completion=replace(tried.completion, logprobs=None))


def collected_key(record: Collected) -> str:
    """Return a chunk's id in the log."""
    return str(record.chunk)


def chunks(problems: Sequence[Problem], size: int) -> Iterator[list[Problem]]:
    """Cut problems into chunks; the last may be smaller."""
    rest = iter(problems)
    while chunk := list(islice(rest, size)):
        yield chunk
