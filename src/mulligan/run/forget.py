"""What a run cost: the original model, the one after the warm-up and the trained one, compared.

The warm-up is not part of the method, so what it makes a model forget is kept apart from what
training does.
"""

import importlib.metadata
import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from mulligan import __version__
from mulligan.config import LocalEngine
from mulligan.engines.base import Engine
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting import drift, harness, outcomes
from mulligan.evaluation.forgetting.choices import choose, elsewhere, fitting, items_of
from mulligan.evaluation.forgetting.records import TITLES, Checkpoint, Forgetting, Outcome
from mulligan.interrupt import waiting
from mulligan.models.load import context_length, load_model
from mulligan.randomness import derive_seed
from mulligan.run.session import Session
from mulligan.run.trained import trained_model
from mulligan.storage.atomic import remove_folder, write_atomically
from mulligan.storage.records import RecordLog, encode
from mulligan.tasks.base import Task
from mulligan.tasks.registry import list_tasks, load_task
from mulligan.verifiers.limits import limits_of
from mulligan.verifiers.pool import verifier_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mulligan.logprobs.divergence import Compared

ELSEWHERE = "elsewhere"
"""Stands for the tasks that are asked where none is named."""

log = logging.getLogger("mulligan")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure."""

    tasks: tuple[str, ...] = ()
    """Tasks of this package, tasks of lm-eval, or ``elsewhere``; none: drift only."""
    items: int = 300
    """Items of each task."""
    prompts: int = 48
    """Problems of the run's own task that each checkpoint answers."""
    tokens: int = 8192
    """Tokens of English."""
    margin: float = 0.02
    """Differences within it count as none."""
    include_path: Path | None = None
    """A folder of lm-eval task files."""


def forget(session: Session, asked: Asked) -> Forgetting:
    """Measure a trained run's forgetting, and write ``forgetting.json`` into its folder.

    Items of this package's tasks are kept as they are answered: asked for again after a stop or a
    kill, the rest is measured.

    Raises:
        MulliganError: the run is not trained yet, or a task is unknown or not installed.
        StoppedEarly: the user asked for it.
    """
    trained = trained_model(session.run, session.recipe)
    own, foreign = _split_names(session, asked)
    with tempfile.TemporaryDirectory() as folder:
        # Unknown names are refused before anything is loaded.
        with waiting("looking for the tasks"):
            prepared = (
                harness.prepare(foreign, Path(folder), asked.include_path) if foreign else None
            )
        models, tokenizer = _load(session, trained)
        checkpoints = tuple(models)
        english, task = _drifts(session, asked, models, tokenizer)
        found = [*_choices(session, asked, own, models, tokenizer, trained.name)]
        if prepared is not None:
            names, manager = prepared
            limit = asked.items
            session.console.print(f"lm-eval: {', '.join(names)}, up to {limit} items of each")
            answers = {
                checkpoint: harness.ask(model, tokenizer, names, manager, limit)
                for checkpoint, model in models.items()
            }
            found += harness.outcomes(answers)
    tasks = outcomes.by_task(found)
    made = Forgetting(
        checkpoints=checkpoints,
        drifts=(*drift.task_drifts(checkpoints, task), *drift.english_drifts(checkpoints, english)),
        perplexities=tuple(drift.perplexities(checkpoints, english)),
        scores=tuple(outcomes.scores(tasks, checkpoints)),
        changes=tuple(outcomes.changes(tasks, checkpoints)),
        pooled=tuple(outcomes.pooled(tasks, checkpoints, asked.margin)),
        made_with=_made_with(asked),
    )
    write_atomically(session.run.forgetting_items, b"".join(map(encode, found)))
    write_atomically(session.run.forgetting, to_json(made, indent=1) + b"\n")
    remove_folder(session.run.forgetting_begun)
    return made


def _split_names(session: Session, asked: Asked) -> tuple[dict[str, Task], list[str]]:
    """Return this package's tasks, loaded, and the names that are lm-eval's."""
    installed = {entry.name for entry in list_tasks()}
    own: dict[str, Task] = {}
    foreign = []
    for name in asked.tasks:
        if name == ELSEWHERE:
            own |= _available(elsewhere(session.recipe.task))
        elif Path(name).suffix:
            file = Path(name).name  # the rest of the path means nothing to a reader of the results
            if file in own:
                raise MulliganError(f"Two files of tasks are called {file}. Rename one of them.")
            own[file] = load_task(name)
        elif name in installed or name.startswith("reasoning_gym:"):
            own[name] = load_task(name)
        else:
            foreign.append(name)
    return own, foreign


def _available(names: Sequence[str]) -> Iterator[tuple[str, Task]]:
    """Yield the tasks that are installed, and log the others."""
    for name in names:
        try:
            task = load_task(name)
            next(iter(task.problems("test")))
        except MulliganError as error:
            log.warning("%s is left out: %s", name, error)
        else:
            yield name, task


def _load(
    session: Session, trained: Path
) -> "tuple[dict[Checkpoint, PreTrainedModel], PreTrainedTokenizerBase]":
    recipe, run = session.recipe, session.run
    places: dict[Checkpoint, str | Path] = {"original": recipe.model}
    if recipe.sft is not None:
        places["warmed_up"] = run.warmed_up
    places["trained"] = trained
    # In float32 whatever the recipe says: the differences are small beside bfloat16's rounding.
    loaded = {
        checkpoint: load_model(str(place), "float32", recipe.device, base=session.start_model)
        for checkpoint, place in places.items()
    }
    models = {checkpoint: model for checkpoint, (model, _) in loaded.items()}
    return models, loaded["trained"][1]


def _drifts(
    session: Session,
    asked: Asked,
    models: "Mapping[Checkpoint, PreTrainedModel]",
    tokenizer: "PreTrainedTokenizerBase",
) -> "tuple[list[Compared], dict[Checkpoint, list[Compared]]]":
    """Compare the checkpoints on English, and on the answers of each to the task's problems."""
    recipe = session.recipe
    conversations = session.conversations(models["trained"], tokenizer)
    count = min(asked.prompts, recipe.evaluate.problems)
    problems = session.those_that_fit(session.problems("test", count), conversations)
    prompts = [conversations.attempt(each) for each in problems]
    texts = drift.english(tokenizer, asked.tokens, context_length(models["trained"].config))
    with session.progress("English text", sum(len(after) for _, after in texts)) as advance:
        english = drift.compare(models, texts, advance)
    task = {}
    for checkpoint, model in models.items():
        session.stop.check("the divergence, which is measured again")
        seed = derive_seed(recipe.seed, "forgetting", checkpoint)
        engine, title = _engine(session, model, tokenizer), TITLES[checkpoint]
        with waiting(f"{len(prompts)} answers of the model {title}"):
            written = drift.answers(engine, prompts, recipe.generate.answer_tokens, seed)
        engine.close()
        total = sum(len(after) for _, after in written)
        with session.progress(f"answers of the model {title}", total) as advance:
            task[checkpoint] = drift.compare(models, written, advance)
    return english, task


def _engine(
    session: Session, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> Engine:
    """Return an engine of this process, whoever generated in the run.

    The models are here anyway to be compared, and a server would answer with one of its own.
    """
    settings = session.recipe.engine
    local = settings if isinstance(settings, LocalEngine) else LocalEngine()
    surroundings = Surroundings(model, tokenizer, session.recipe.dtype, session.run.path / "engine")
    return find_engine("local").make(local.model_dump(), surroundings)


def _choices(
    session: Session,
    asked: Asked,
    tasks: Mapping[str, Task],
    models: "Mapping[Checkpoint, PreTrainedModel]",
    tokenizer: "PreTrainedTokenizerBase",
    trained: str,
) -> Iterator[Outcome]:
    """Yield the outcome of every item of this package's tasks; what does not fit is logged.

    Those answered before are read; ``trained``, a checkpoint's name, tells which model answered.
    """
    settings = session.recipe.verify
    conversations = session.conversations(models["trained"], tokenizer)
    for name, task in tasks.items():
        with (
            waiting(f"{name}: looking for wrong answers"),
            verifier_for(task, settings.workers, limits_of(settings)) as verifier,
        ):
            made = items_of(task, verifier.verify_many, asked.items, session.recipe.seed)
            items = fitting(made, conversations)
        if left_out := len(made) - len(items):
            log.warning(
                "%s: %d of %d items do not fit the model's context of %d tokens and are left out",
                *(name, left_out, len(made), conversations.context),
            )
        options = str([(item.problem.id, *item.options) for item in items])
        asked_of = derive_seed(session.recipe.seed, __version__, trained, name, options)
        path = session.run.forgetting_begun / f"{asked_of:016x}.jsonl"
        with (
            RecordLog(path, Outcome, lambda outcome: outcome.id) as answered,
            session.progress(name, len(items)) as advance,
        ):
            yield from answered
            advance(len(answered))
            for outcome in choose(models, conversations, name, items, len(answered)):
                answered.append(outcome)
                advance(1)
                yield outcome
                session.stop.check(f"item {len(answered)} of {name}")


def _made_with(asked: Asked) -> dict[str, str | int | float]:
    packages = ("torch", "transformers", "lm-eval", "reasoning-gym")
    versions = {"mulligan": __version__}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    settings: dict[str, str | int | float] = {
        "tasks": ",".join(Path(n).name if Path(n).suffix else n for n in asked.tasks),
        "items": asked.items,
        "prompts": asked.prompts,
        "tokens": asked.tokens,
        "margin": asked.margin,
    }
    return {**settings, "python": platform.python_version(), **versions}
