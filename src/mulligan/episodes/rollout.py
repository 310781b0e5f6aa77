"""Problems become attempts; failures become groups of episodes.

Plain functions: values in, values out. The engine generates, the verifier judges, and nothing
here knows which engine or task it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.types import (
    Attempt,
    Completion,
    Episode,
    Failure,
    Group,
    Problem,
    Sampling,
    TokenIds,
    Verdict,
)

Verify = Callable[[Sequence[tuple[Problem, str]]], list[Verdict]]
"""Judges (problem, answer) pairs, in order."""


def attempt(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    n: int,
    sampling: Sampling,
) -> list[Attempt]:
    """Try every problem n times; the attempts at a problem stand together, in order."""
    prompts = [conversations.attempt(problem) for problem in problems]
    completions = generate(engine, conversations, prompts, n, sampling)
    tries = [
        (problem, prompt, sample, completion)
        for problem, prompt, row in zip(problems, prompts, completions, strict=True)
        for sample, completion in enumerate(row)
    ]
    verdicts = judge_completions(verify, [(each[0], each[3]) for each in tries])
    return [
        Attempt(problem, prompt, completion, verdict, sample)
        for (problem, prompt, sample, completion), verdict in zip(tries, verdicts, strict=True)
    ]


def answer(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    problems: Sequence[Problem],
    prompts: Sequence[TokenIds],
    sampling: Sampling,
) -> list[tuple[Completion, Verdict]]:
    """Answer each prompt once and judge the answer against its problem."""
    completions = [row[0] for row in generate(engine, conversations, prompts, 1, sampling)]
    verdicts = judge_completions(verify, list(zip(problems, completions, strict=True)))
    return list(zip(completions, verdicts, strict=True))


def generate(
    engine: Engine,
    conversations: Conversations,
    prompts: Sequence[TokenIds],
    n: int,
    sampling: Sampling,
) -> list[list[Completion]]:
    """Return n completions for each prompt, each with its thoughts apart from its answer.

    A prompt that does not fit the model's context gets completions of no token at all.
    """
    fits = [conversations.fits(prompt, sampling.max_tokens) for prompt in prompts]
    asked = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    rows = iter(engine.generate(asked, n, sampling))
    nothing = Completion((), "", "length")
    return [
        [conversations.understand(each) for each in next(rows)] if fit else [nothing] * n
        for fit in fits
    ]


def judge_completions(verify: Verify, tries: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
    """Judge each answer; there is none where a thought never ended, or where nothing was asked."""
    there = [(problem, c.text) for problem, c in tries if c.asked and not c.unfinished_thought]
    verdicts = iter(verify(there))
    return [_without_answer(completion) or next(verdicts) for _, completion in tries]


def _without_answer(completion: Completion) -> Verdict | None:
    if not completion.asked:
        detail = "the conversation does not fit the model's context"
        return Verdict.error(detail, reason="too_long")
    return Verdict.unparseable("unfinished_thought") if completion.unfinished_thought else None


def reflect(
    engine: Engine,
    conversations: Conversations,
    failures: Sequence[Failure],
    group_size: int,
    sampling: Sampling,
) -> list[Group]:
    """Give every failure G reflections, without retries.

    Raises:
        MulliganError: the engine gave fewer or more reflections than it was asked for.
    """
    tries = [failure.attempt for failure in failures]
    prompts = [
        conversations.about(tried.verdict).reflection(tried.problem, tried.completion)
        for tried in tries
    ]
    reflections_FG = generate(engine, conversations, prompts, group_size, sampling)
    _require_whole_groups(reflections_FG, group_size, "reflections on a failure")
    return [
        Group(failure, prompt, tuple(_reflected(failure, reflections_G)))
        for failure, prompt, reflections_G in zip(failures, prompts, reflections_FG, strict=True)
    ]


def _reflected(failure: Failure, reflections_G: Sequence[Completion]) -> Iterator[Episode]:
    for sample, reflection in enumerate(reflections_G):
        yield Episode(failure.id, sample, reflection, None, None)


def reflect_and_retry(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    failures: Sequence[Failure],
    group_size: int,
    thinking: Sampling,
    writing: Sampling,
) -> list[Group]:
    """Give every failure G reflections, each followed by one retry.

    An episode whose verifier broke is left out: an unverifiable answer is not a wrong one. So a
    group can be smaller than ``group_size``, even empty.

    Raises:
        MulliganError: the engine gave fewer or more reflections than it was asked for.
    """
    groups = reflect(engine, conversations, failures, group_size, thinking)
    rows = [
        (failure.attempt, episode.reflection)
        for failure, group in zip(failures, groups, strict=True)
        for episode in group.episodes
        if episode.reflection is not None
    ]
    problems = [tried.problem for tried, _ in rows]
    prompts = [
        conversations.about(tried.verdict).retry(tried.problem, tried.completion, reflection)
        for tried, reflection in rows
    ]
    retries = answer(engine, conversations, verify, problems, prompts, writing)
    answered = iter(zip(prompts, retries, strict=True))
    return [_judged(group, [next(answered) for _ in group.episodes]) for group in groups]


def _judged(group: Group, answered: Sequence[tuple[TokenIds, tuple[Completion, Verdict]]]) -> Group:
    """Add the retries to a group, and leave out those whose verifier broke."""
    kept = [
        (replace(episode, retry=retry, verdict=verdict), prompt)
        for episode, (prompt, (retry, verdict)) in zip(group.episodes, answered, strict=True)
        if verdict.status != "error"
    ]
    return replace(
        group,
        episodes=tuple(episode for episode, _ in kept),
        retry_prompts_G=tuple(prompt for _, prompt in kept),
    )


def try_afresh(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    failures: Sequence[Failure],
    group_size: int,
    sampling: Sampling,
) -> list[Group]:
    """Try the problem of every failure G times, as if it had never been tried.

    Attempts whose verifier broke are left out.

    Raises:
        MulliganError: the engine gave fewer or more attempts than it was asked for.
    """
    prompts = [conversations.attempt(failure.attempt.problem) for failure in failures]
    return _tries(engine, conversations, verify, failures, prompts, group_size, sampling)


def ask_again(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    failures: Sequence[Failure],
    group_size: int,
    sampling: Sampling,
) -> list[Group]:
    """Ask for every failure G times once more after its answer, with nothing in between.

    Answers whose verifier broke are left out.

    Raises:
        MulliganError: the engine gave fewer or more answers than it was asked for.
    """
    tries = [failure.attempt for failure in failures]
    prompts = [conversations.retry_without_reflection(t.problem, t.completion) for t in tries]
    return _tries(engine, conversations, verify, failures, prompts, group_size, sampling)


def _tries(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    failures: Sequence[Failure],
    prompts: Sequence[TokenIds],
    group_size: int,
    sampling: Sampling,
) -> list[Group]:
    """Answer each failure's prompt G times; the groups have no reflections."""
    problems = [failure.attempt.problem for failure in failures]
    completions_FG = generate(engine, conversations, prompts, group_size, sampling)
    _require_whole_groups(completions_FG, group_size, "attempts at a problem")
    tries = [
        (problem, completion)
        for problem, completions_G in zip(problems, completions_FG, strict=True)
        for completion in completions_G
    ]
    judged = iter(zip(tries, judge_completions(verify, tries), strict=True))
    groups = []
    for failure, prompt in zip(failures, prompts, strict=True):
        episodes = [
            Episode(failure.id, sample, None, completion, verdict)
            for sample, ((_, completion), verdict) in enumerate(islice(judged, group_size))
            if verdict.status != "error"
        ]
        groups.append(Group(failure, prompt, tuple(episodes)))
    return groups


def _require_whole_groups(
    completions_FG: Sequence[Sequence[Completion]], group_size: int, what: str
) -> None:
    """Check that the engine gave what it was asked for: no part of a group is trained on."""
    if any(len(completions_G) != group_size for completions_G in completions_FG):
        raise MulliganError(
            f"The engine gave {min(map(len, completions_FG))} of {group_size} {what}. "
            "No part of a group is trained on: fix the engine, then use --resume."
        )
