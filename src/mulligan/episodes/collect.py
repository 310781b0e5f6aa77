"""Failures are collected first: once, offline, with the model as it is before training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore, failure_id
from mulligan.episodes.rollout import Verify, attempt
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Attempt, Failure, Problem, Sampling


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


def collect(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    *,
    attempts: int,
    at_once: int,
    sampling: Sampling,
    model: str,
    store: FailureStore,
    log: RecordLog[Collected],
    progress: Callable[[int], None],
) -> None:
    """Try every problem and store the attempts that do not pass.

    Problems are tried chunk by chunk; a chunk is done when its line is in the log. One that was
    cut off is generated again, draws the same, and stores nothing twice. The engine forgets what
    came before each, so that no bit depends on where a run was resumed.
    """
    for number, chunk in enumerate(_chunks(problems, at_once)):
        if str(number) not in log:
            engine.reset_cache()
            drawn = Sampling(
                sampling.temperature,
                sampling.max_tokens,
                derive_seed(sampling.seed, "collect", number),
            )
            tries = attempt(engine, conversations, verify, chunk, attempts, drawn)
            for each in tries:
                if each.verdict.status in ("failed", "unparseable"):
                    key = failure_id(each.problem.id, each.sample, model, sampling)
                    store.append(Failure(key, each, model, sampling))
            store.sync()
            log.append(_count(number, tries))
        progress(len(chunk))


def collected_key(record: Collected) -> str:
    """Return a chunk's id in the log."""
    return str(record.chunk)


def _count(number: int, tries: Sequence[Attempt]) -> Collected:
    statuses = [each.verdict.status for each in tries]
    return Collected(
        chunk=number,
        attempts=len(tries),
        passed=statuses.count("passed"),
        failed=statuses.count("failed"),
        unparseable=statuses.count("unparseable"),
        errors=statuses.count("error"),
    )


def _chunks(problems: Sequence[Problem], size: int) -> Iterator[list[Problem]]:
    rest = iter(problems)
    while chunk := list(islice(rest, size)):
        yield chunk
