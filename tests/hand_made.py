"""Losses, spans and episodes made by hand."""

from dataclasses import dataclass

from mulligan.config import Train
from mulligan.objectives.base import Loss, Reward
from mulligan.objectives.registry import find
from mulligan.types import (
    Attempt,
    Completion,
    Episode,
    Failure,
    Group,
    Problem,
    Sampling,
    Span,
    Verdict,
)

PROBLEM = Problem.create("question", {})


def make_loss(kind="dapo", longest=8, **settings):
    """A loss by name, without a KL term unless asked for, of rewards from 0 to 1."""
    return find(Loss, kind)(Train(steps=1, **({"kl_beta": 0.0} | settings)), longest, (0.0, 1.0))


def make_span(length, advantage=0.0, prompt=(1,), learns=None):
    """A span of some tokens, all of which learn unless said otherwise."""
    learns = (True,) * length if learns is None else tuple(learns)
    return Span(prompt, tuple(range(length)), learns, advantage, None)


def completion(*ids, text="", cut=False, logprobs=None):
    """A completion of some tokens."""
    return Completion(tuple(ids), text, "length" if cut else "stop", logprobs)


def make_failure(problem=PROBLEM, name="f"):
    """A failed attempt at a problem."""
    tried = Attempt(problem, (1, 2), completion(3, text="no"), Verdict.wrong())
    return Failure(name, tried, "tiny", Sampling(1.0, 8))


def make_group(verdicts, failure=None, prompt_ids=(1, 2, 3, 4), reflections=None, retries=None):
    """A group with a verdict for each episode: ``True``, ``False``, or a verdict."""
    failure = failure or make_failure()
    reflections = reflections or [completion(5, 6) for _ in verdicts]
    retries = retries or [completion(7) for _ in verdicts]
    prompts = [(*prompt_ids, *each.token_ids, 9) for each in reflections]
    episodes = [
        Episode(failure.id, number, thought, again, as_verdict(verdict))
        for number, (thought, again, verdict) in enumerate(
            zip(reflections, retries, verdicts, strict=True)
        )
    ]
    return Group(failure, prompt_ids, tuple(episodes), tuple(prompts))


def as_verdict(verdict):
    """A verdict from a plain yes or no."""
    return (
        verdict if isinstance(verdict, Verdict) else Verdict.right() if verdict else Verdict.wrong()
    )


@dataclass
class Prescribed(Reward):
    """Gives the rewards it was made with, group after group."""

    rewards: list

    def score(self, groups, evidence):
        """Return them."""
        del groups, evidence
        return self.rewards
