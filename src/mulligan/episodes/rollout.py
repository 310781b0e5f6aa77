"""Problems become attempts; failures become groups of episodes.

Plain functions: values in, values out. The engine generates, the verifier judges, and nothing
here knows which engine or task it is.
"""

from collections.abc import Callable, Sequence

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.objectives.advantages import group_advantages
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
    there = [(problem, c.text) for problem, c in tries if c.token_ids and not c.unfinished_thought]
    verdicts = iter(verify(there))
    return [_without_answer(completion) or next(verdicts) for _, completion in tries]


def _without_answer(completion: Completion) -> Verdict | None:
    if not completion.token_ids:
        detail = "the conversation does not fit the model's context"
        return Verdict.error(detail, reason="too_long")
    return Verdict.unparseable("unfinished_thought") if completion.unfinished_thought else None


def reflect_and_retry(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    failures: Sequence[Failure],
    group_size: int,
    reflect: Sampling,
    retry: Sampling,
    *,
    scale_advantages: bool = True,
) -> list[Group]:
    """Give every failure G reflections, each followed by one retry, and reward what passes.

    An episode whose verifier broke is left out: an unverifiable answer is not a wrong one. So a
    group can be smaller than ``group_size``, even empty.

    Raises:
        MulliganError: the engine gave fewer or more reflections than it was asked for.
    """
    tried = [(failure.attempt.problem, failure.attempt.completion) for failure in failures]
    prompts = [conversations.reflection(*each) for each in tried]
    reflections_FG = generate(engine, conversations, prompts, group_size, reflect)
    if any(len(reflections) != group_size for reflections in reflections_FG):
        raise MulliganError(
            f"The engine gave {min(map(len, reflections_FG))} of {group_size} reflections on a "
            "failure. No part of a group is trained on: mend the engine, then use --resume."
        )

    rows = [
        (problem, conversations.retry(problem, failed, reflection))
        for (problem, failed), reflections in zip(tried, reflections_FG, strict=True)
        for reflection in reflections
    ]
    problems, retry_prompts = [row[0] for row in rows], [row[1] for row in rows]
    answers = iter(answer(engine, conversations, verify, problems, retry_prompts, retry))

    groups = []
    for failure, prompt, reflections in zip(failures, prompts, reflections_FG, strict=True):
        episodes = [
            Episode(failure.id, sample, reflection, *next(answers))
            for sample, reflection in enumerate(reflections)
        ]
        groups.append(_group(failure, prompt, episodes, scale_advantages))
    return groups


def _group(
    failure: Failure, prompt: TokenIds, episodes: Sequence[Episode], scale_advantages: bool
) -> Group:
    """Reward each judged episode: 1 for a passing retry, 0 for a failed one."""
    judged = tuple(episode for episode in episodes if episode.verdict.status != "error")
    rewards = tuple(float(episode.verdict.passed) for episode in judged)
    advantages = group_advantages(rewards, scale=scale_advantages) if rewards else ()
    return Group(failure, prompt, judged, rewards, advantages)
