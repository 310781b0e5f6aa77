"""Another, bigger model beside the run's own, on the same problems, given its best chance.

A comparison with a model that was asked badly says nothing. So a stated sweep of instructions and
temperatures is tried first, on problems that are not the ones reported on, and the best of it is
what is evaluated; the whole sweep is kept beside the result.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from mulligan.config import ServerEngine
from mulligan.engines.base import Engine
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import attempt
from mulligan.errors import MulliganError
from mulligan.evaluation.evaluate import Protocol
from mulligan.evaluation.trials import TIMES, read_trials
from mulligan.randomness import derive_seed
from mulligan.run.session import Session
from mulligan.run.trials import run_trials
from mulligan.storage.atomic import write_atomically
from mulligan.tasks.base import Split
from mulligan.types import Problem, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTIONS = (
    "",
    "Answer directly, in exactly the form asked for, with nothing else.",
    "Think step by step first. Then end with the final answer in exactly the form asked for.",
)
"""What the sweep adds to a question; the first asks as the run's own model is asked."""
TEMPERATURES = (0.0, 0.7)
"""What the sweep tries besides the recipe's own temperature."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One way to ask, and how many first tries passed."""

    instruction: str
    temperature: float
    passed: int
    n: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every way that was tried; the best is the first with the highest share."""

    model: str
    split: Split
    answer_tokens: int
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The way that passed most."""
        return max(self.tried, key=lambda each: each.passed / each.n)


@dataclass(frozen=True, slots=True)
class OtherModel:
    """What is compared with the run's own model, and how much it may write."""

    server: ServerEngine
    answer_tokens: int
    """The longest answer: such a model may need more room than the run's own."""
    sweep_problems: int

    @property
    def label(self) -> str:
        """Its name in files and tables."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.server.model).strip("-.") or "other"


def evaluate_other_model(session: Session, other: OtherModel) -> Sweep:
    """Append the other model's trials to ``evaluation/<label>.jsonl``; return the sweep before it.

    Raises:
        MulliganError: the server cannot be used, or its label is one of the run's own.
    """
    if other.label in TIMES:
        raise MulliganError(f"A model cannot be called {other.label!r} beside the run's own.")
    recipe = session.recipe
    model, tokenizer = session.load(recipe.model)
    engine = _connect(session, other, tokenizer)
    conversations = session.conversations(model, tokenizer, engine)
    sweep = _kept_sweep(session, other) or _swept(session, other, engine, conversations)
    best = sweep.best
    problems = [asked(each, best.instruction) for each in _evaluated(session)]
    protocol = replace(
        Protocol.of(recipe, problems),
        temperature=best.temperature,
        answer_tokens=other.answer_tokens,
    )
    run_trials(session, engine, conversations, protocol, other.label, f"of {other.label}")
    return sweep


def asked(problem: Problem, instruction: str) -> Problem:
    """Return a problem with an instruction after its question, under the same id."""
    if not instruction:
        return problem
    messages = list(problem.messages)
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    content = f"{messages[last]['content']}\n\n{instruction}"
    messages[last] = {**messages[last], "content": content}
    return replace(problem, messages=tuple(messages))


def _connect(session: Session, other: OtherModel, tokenizer: "PreTrainedTokenizerBase") -> Engine:
    surroundings = Surroundings(None, tokenizer, session.recipe.dtype, session.run.path / "engine")
    return find_engine("server").make(other.server.model_dump(), surroundings)


def _evaluated(session: Session) -> list[Problem]:
    """Return the problems of the run's own evaluation, without those that it left out."""
    settings = session.recipe.evaluate
    problems = session.problems(settings.split, settings.problems)
    own = {trial.problem_id for trial in read_trials(session.run.path)["before"]}
    return [problem for problem in problems if not own or problem.id in own]


def _swept(
    session: Session, other: OtherModel, engine: Engine, conversations: Conversations
) -> Sweep:
    """Try every instruction at every temperature, once for each problem of the sweep."""
    split: Split = "train"
    if "dev" in session.task.splits and session.recipe.evaluate.split != "dev":
        split = "dev"
    problems = session.problems(split, other.sweep_problems)
    temperatures = sorted({*TEMPERATURES, session.recipe.generate.temperature})
    ways = list(product(INSTRUCTIONS, temperatures))
    seed = derive_seed(session.recipe.seed, "sweep")
    tried = []
    with session.progress(f"sweep on {split}", len(ways)) as advance:
        for instruction, temperature in ways:
            attempts = attempt(
                engine,
                conversations,
                session.verify,
                [asked(problem, instruction) for problem in problems],
                1,
                Sampling(temperature, other.answer_tokens, seed),
            )
            passed = sum(each.verdict.passed for each in attempts)
            tried.append(Tried(instruction, temperature, passed, len(attempts)))
            advance(1)
            session.stop.check(f"{len(tried)} of {len(ways)} ways to ask {other.label}")
    sweep = Sweep(other.server.model, split, other.answer_tokens, tuple(tried))
    write_atomically(_path(session, other), json.dumps(asdict(sweep), indent=1) + "\n")
    return sweep


def _kept_sweep(session: Session, other: OtherModel) -> Sweep | None:
    """Return the sweep of an evaluation that was cut off, or None where there is none.

    Raises:
        MulliganError: it cannot be read, or was made with other settings.
    """
    path = _path(session, other)
    if not path.exists():
        return None
    try:
        sweep = TypeAdapter(Sweep).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise MulliganError(f"Cannot read {path}: {error}. Delete it to sweep again.") from error
    settings = other.server.model, other.answer_tokens, other.sweep_problems
    if settings != (sweep.model, sweep.answer_tokens, sweep.tried[0].n):
        raise MulliganError(
            f"{path} was made with other settings: model {sweep.model!r}, {sweep.answer_tokens} "
            f"answer tokens, {sweep.tried[0].n} problems. Use those, or delete it and "
            f"{session.run.evaluation(other.label)}."
        )
    return sweep


def _path(session: Session, other: OtherModel) -> Path:
    return session.run.evaluation(other.label).with_suffix(".sweep.json")
