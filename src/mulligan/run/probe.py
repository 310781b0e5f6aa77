"""A few problems before any long work: what to expect, and what speaks against the recipe.

The probe tries problems of the training split, and has the model reflect on what failed and retry,
once each, with seeds of its own; it keeps nothing but that it was done. So no number of the run
depends on it. It asks the model that training starts from: after the warm-up, where there is one.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.collect import Collected, Tried, as_failure, try_problems
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import reflect_and_retry
from mulligan.interrupt import waiting
from mulligan.models.memory import GIB
from mulligan.objectives.objective import make_objective
from mulligan.randomness import derive_seed
from mulligan.run import advice
from mulligan.run.plan import Plan, make_plan
from mulligan.run.reported import reported_problems
from mulligan.run.session import Session
from mulligan.types import Completion, Failure, Group, Problem, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBLEMS = 32

logger = logging.getLogger("mulligan")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long some completions were, in tokens."""

    n: int
    mean: float
    longest: int
    cut_off: int
    """How many of them the limit cut off."""

    @classmethod
    def of(cls, completions: Sequence[Completion]) -> "Lengths":
        """Measure completions, of which there may be none."""
        lengths = [each.length for each in completions]
        cut_off = sum(each.finish_reason == "length" for each in completions)
        n = len(lengths)
        return cls(n, sum(lengths) / max(n, 1), max(lengths, default=0), cut_off)


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured of the time that things take, in seconds."""

    first_try: float
    second_try: float
    """A reflection and the retry after it."""
    update: float
    """A group's share of an optimiser step."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few problems showed."""

    tried: Collected
    answers: Lengths
    reflections: Lengths
    retries: int
    """Those that could be judged."""
    passed_retries: int
    longest_prompt: int
    """Tokens of the longest problem as it is put to the model."""
    pace: Pace


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds that the stages of a run may take, at the pace of a probe."""

    collect: float
    generating: float
    updating: float
    evaluation: float
    """Each of the two."""


def probe_once(session: Session) -> None:
    """Say what to expect of a run, unless that was said before or the recipe switches it off."""
    recipe = session.recipe
    if not recipe.probe or session.is_done("probe"):
        return
    model, tokenizer = session.load(session.start_model)
    engine = session.engine(model, tokenizer)
    conversations = session.conversations(model, tokenizer, engine)
    problems = _problems(session)
    with waiting(f"trying {len(problems)} problems, to say what to expect"):
        probe, failures = _look(session, model, engine, conversations, problems)
    if probe.tried.attempts:  # else nothing fits the context, which collecting says in numbers
        plan = make_plan(recipe, prompt_tokens=probe.longest_prompt)
        for line in (*describe(probe, recipe), describe_memory(plan)):
            session.console.print(line, markup=False, highlight=False)
        for warning in _warnings(probe, failures, plan, recipe):
            logger.warning("%s", warning)
    session.mark_done("probe")


def _problems(session: Session) -> list[Problem]:
    wanted = min(PROBLEMS, session.recipe.collect.problems)
    return reported_problems(session)[:wanted] or session.problems("train", wanted)


def _look(
    session: Session,
    model: "PreTrainedModel",
    engine: Engine,
    conversations: Conversations,
    problems: Sequence[Problem],
) -> tuple[Probe, list[Failure]]:
    """Try, reflect and retry, and measure how long that takes."""
    recipe, verify = session.recipe, session.verifier.verify_many
    generate = recipe.generate

    def sampling(purpose: str, tokens: int) -> Sampling:
        return Sampling(generate.temperature, tokens, derive_seed(recipe.seed, "probe", purpose))

    writing = sampling("answer", generate.answer_tokens)
    began = time.perf_counter()
    tried = try_problems(
        engine, conversations, verify, problems, 1, writing, generate.reflection_tokens
    )
    tries_took = time.perf_counter() - began
    failures = [as_failure(each, recipe.model, writing) for each in tried.failed]
    began = time.perf_counter()
    groups = reflect_and_retry(
        engine,
        conversations,
        verify,
        failures,
        1,
        sampling("reflect", generate.reflection_tokens),
        sampling("retry", generate.answer_tokens),
    )
    retries_took = time.perf_counter() - began
    engine.reset_cache()
    pace = Pace(
        tries_took / max(len(tried.attempts), 1),
        retries_took / max(len(failures), 1),
        _seconds_of_an_update(model, recipe, groups),
    )
    return _probe(tried, groups, pace), failures


def _probe(tried: Tried, groups: Sequence[Group], pace: Pace) -> Probe:
    episodes = [episode for group in groups for episode in group.episodes]
    return Probe(
        tried=Collected(0, **tried.summary),
        answers=Lengths.of([each.completion for each in tried.attempts]),
        reflections=Lengths.of([each.reflection for each in episodes if each.reflection]),
        retries=len(episodes),
        passed_retries=sum(each.verdict is not None and each.verdict.passed for each in episodes),
        longest_prompt=max((len(each.prompt_ids) for each in tried.attempts), default=0),
        pace=pace,
    )


def _seconds_of_an_update(
    model: "PreTrainedModel", recipe: Recipe, groups: Sequence[Group]
) -> float:
    """Return how long a group's share of an update may take; 0 where no group was sampled.

    A forward pass over a group is measured. A backward pass takes about as long as two, another one
    recomputes activations where they are not kept, and another scores under the reference.
    """
    import torch

    from mulligan.logprobs.shared_prompt import GroupScorer

    said = [each.reflection.token_ids for g in groups for each in g.episodes if each.reflection]
    completions = [ids for ids in said if ids][: recipe.train.group_size]
    if not completions:
        return 0.0
    scorer = GroupScorer(model, max_tokens=recipe.train.tokens_at_once)
    took = 0.0
    for _ in range(2):  # the first time, the scorer checks itself
        began = time.perf_counter()
        with torch.no_grad():
            for part in scorer.parts(groups[0].prompt_ids, completions):
                scorer(groups[0].prompt_ids, completions[part])[0].sum().item()
        took = time.perf_counter() - began
    passes = 3 + recipe.train.gradient_checkpointing + (recipe.train.kl_beta > 0)
    return took * passes * recipe.train.group_size / len(completions)


def expect(probe: Probe, recipe: Recipe) -> Expected:
    """Reckon how long the stages take at the pace of a probe.

    Larger batches are faster, and a group shares its prompt, so this is rather too much than too
    little.
    """
    train, evaluate, pace = recipe.train, recipe.evaluate, probe.pace
    collects = recipe.collect.store is None and recipe.collect.failures != "online"
    tries = recipe.collect.problems * recipe.collect.attempts if collects else 0
    groups = recipe.rounds * train.steps * train.failures_per_step
    afresh = make_objective(recipe).samples == "first try"
    failing = (probe.tried.failed + probe.tried.unparseable) / max(probe.tried.attempts, 1)
    trials = evaluate.problems * evaluate.samples
    second_tries = trials * failing * (1 + len(evaluate.controls))
    first_tries = trials + evaluate.problems * evaluate.greedy
    return Expected(
        collect=tries * pace.first_try,
        generating=groups * train.group_size * (pace.first_try if afresh else pace.second_try),
        updating=groups * train.rollout_epochs * pace.update,
        evaluation=first_tries * pace.first_try + second_tries * pace.second_try,
    )


def describe(probe: Probe, recipe: Recipe) -> Iterator[str]:
    """Yield lines that say what a probe showed, and how long the stages may take."""
    tried, generate, expected = probe.tried, recipe.generate, expect(probe, recipe)
    yield (
        f"Probe of {tried.attempts} problems: {tried.passed} first tries pass "
        f"({tried.passed / tried.attempts:.0%}), {tried.unparseable} cannot be read "
        f"({tried.unparseable / tried.attempts:.0%}); {probe.passed_retries} of {probe.retries} "
        "retries pass."
    )
    yield (
        f"Tokens: {_describe_lengths('answers', probe.answers, generate.answer_tokens)}; "
        f"{_describe_lengths('reflections', probe.reflections, generate.reflection_tokens)}."
    )
    yield (
        f"Time at this pace, larger batches being faster: collect {_duration(expected.collect)}, "
        f"train {_duration(expected.generating + expected.updating)} "
        f"(generating {_duration(expected.generating)}, updating {_duration(expected.updating)}), "
        f"each evaluation {_duration(expected.evaluation)}."
    )


def describe_memory(plan: Plan) -> str:
    """Return a line that says what memory the stages need."""
    needs = ", ".join(f"{stage.stage} {stage.total / GIB:.1f}" for stage in plan.stages)
    there = "" if plan.available is None else f"; there are {plan.available / GIB:.1f}"
    return f"Memory in GiB: {needs}{there}."


def _describe_lengths(what: str, lengths: Lengths, limit: int) -> str:
    if not lengths.n:
        return f"no {what}"
    return (
        f"{what} {lengths.mean:.0f} on average, {lengths.longest} at most, "
        f"{lengths.cut_off} of {lengths.n} cut off at {limit}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _warnings(
    probe: Probe, failures: Sequence[Failure], plan: Plan, recipe: Recipe
) -> Iterator[str]:
    yield from advice.on_collected([probe.tried], failures)
    reflections = probe.reflections
    if reflections.n and (
        says := advice.on_reflections(reflections.cut_off / reflections.n, "the probe")
    ):
        yield says
    if says := advice.on_learning_rate(recipe, plan.parameters):
        yield says
    if not plan.fits:
        yield (
            f"By the plan this device has too little memory: {plan.peak / GIB:.1f} GiB are needed. "
            f"Set {', or '.join(plan.advice)}."
        )
