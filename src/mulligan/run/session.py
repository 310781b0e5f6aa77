"""A run folder that this process holds: opened, checked, and with what its stages share."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mulligan import __version__
from mulligan.config import (
    FORMAT,
    MADE_WITH,
    Generate,
    Prompts,
    Recipe,
    as_yaml,
    check_recipe,
    read_yaml,
)
from mulligan.engines.base import Engine
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.episodes.chat import ChatConversations
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.interrupt import StopRequest
from mulligan.models.load import context_length, load_model
from mulligan.models.policies import FullPolicy, LoraPolicy, Policy
from mulligan.objectives.objective import make_objective
from mulligan.randomness import derive_seed
from mulligan.run.extend import changes_refused, extend
from mulligan.storage.atomic import write_atomically
from mulligan.storage.checkpoint import Checkpoints
from mulligan.storage.lock import hold
from mulligan.storage.run_folder import RunFolder
from mulligan.tasks.base import Split, Task, refuse_older_rules
from mulligan.tasks.registry import load_task
from mulligan.tasks.splits import first_problems
from mulligan.types import Problem, Sampling, Verdict
from mulligan.verifiers.judging import ErrorShare
from mulligan.verifiers.limits import limits_of
from mulligan.verifiers.pool import Verifier, verifier_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


LINE_EVERY = 30.0
"""Seconds between lines about progress where no bar can be shown."""


class Session:
    """A run folder that this process holds, with what its stages share."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        console: Console,
        stop: StopRequest,
        stack: ExitStack,
        start: str | None = None,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.console = console
        self.stop = stop
        self._stack = stack
        self._engine = stack.enter_context(ExitStack())
        self.round = 1
        self.start = start
        """The model to start from, where it is not the recipe's or the warm-up's."""
        self._errors = ErrorShare(recipe.verify.max_error_share)

    @cached_property
    def task(self) -> Task:
        """The recipe's task; refused where it judges by other rules than the run began with."""
        task = load_task(self.recipe.task, self.recipe.task_options)
        refuse_older_rules(task, self.recipe.format)
        return task

    @cached_property
    def verifier(self) -> Verifier:
        """Judges answers: in process where that is safe, else in workers that can be killed."""
        settings = self.recipe.verify
        return self._stack.enter_context(
            verifier_for(self.task, settings.workers, limits_of(settings))
        )

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.run.checkpoints, self.recipe.train.keep_checkpoints)

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Judge answers; stop the run when too many verdicts are errors."""
        verdicts = self.verifier.verify_many(pairs)
        self._errors.add(verdicts)
        return verdicts

    def problems(self, split: Split, count: int) -> list[Problem]:
        """Return the first problems of a split.

        Raises:
            MulliganError: there are fewer, or the task has no such split.
        """
        return first_problems(self.task, split, count)

    def training_problems(self) -> list[Problem]:
        """Return the problems that are tried: in each round others, unless failures are stored.

        Raises:
            MulliganError: the training split has too few.
        """
        count, failures = self.recipe.collect.problems, self.recipe.collect.failures
        before = 0 if failures == "stored" else count * (self.round - 1)
        return self.problems("train", before + count)[before:]

    def load(
        self, model: str | Path, *, to_train: bool = False, to_shard: bool = False
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Load a model on the recipe's device: in its dtype, or in float32 where it is trained.

        LoRA trains weights of its own, so the model under it has the recipe's dtype too. What is
        still to be sharded does not fit the device, and stays in main memory.
        """
        whole = to_train and self.recipe.lora is None
        dtype = "float32" if whole else self.recipe.dtype
        device = "cpu" if to_shard else self.recipe.device
        return load_model(str(model), dtype, device, base=self.start_model)

    def policy(self, model: "PreTrainedModel") -> Policy:
        """Return what training changes of a model, as the recipe says."""
        if self.recipe.lora is None:
            return FullPolicy(model)
        return LoraPolicy(
            model,
            **self.recipe.lora.model_dump(),
            base=self.start_model,
            seed=derive_seed(self.recipe.seed_of("train"), "lora"),
        )

    @property
    def start_model(self) -> str:
        """The model that training starts from: what the round before left, or the warm-up."""
        if self.start is not None:
            return self.start
        return first_model(self.run, self.recipe)

    def engine(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        beside: bool = False,
    ) -> Engine:
        """Return the engine that generates with a model.

        An engine that is still open is closed, unless the new one is to run ``beside`` it.
        """
        if not beside:
            self.release_engine()
        settings = self.recipe.engine
        engine = find_engine(settings.kind).make(
            settings.model_dump(),
            Surroundings(model, tokenizer, self.recipe.dtype, self.run.path / "engine"),
        )
        self._engine.callback(engine.close)
        return engine

    def release_engine(self) -> None:
        """Close the open engines, and let go of their models, before others are loaded."""
        self._engine.close()  # it can be used again after that

    def conversations(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        engine: Engine | None = None,
    ) -> Conversations:
        """Return the prompts in the recipe's words, in the form that the engine takes."""
        return conversations_of(self.recipe.prompts, model, tokenizer, engine)

    def those_that_fit(
        self, problems: Sequence[Problem], conversations: Conversations
    ) -> list[Problem]:
        """Leave out problems whose longest conversation does not fit the context, and say so.

        Raises:
            MulliganError: none fits.
        """
        context, generate = conversations.context, self.recipe.generate
        if context is None:
            return list(problems)
        limits = generate.reflection_tokens, generate.answer_tokens
        lengths = [conversations.longest(each, *limits) for each in problems]
        kept = [each for each, size in zip(problems, lengths, strict=True) if size <= context]
        if not kept:
            raise MulliganError(_none_fits(generate, context, min(lengths)))
        if left_out := len(problems) - len(kept):
            self.console.print(f"{left_out} of {len(problems)} problems do not fit: left out")
        return kept

    def sampling(self, max_tokens: int) -> Sampling:
        """Return the recipe's sampling with the run's seed."""
        return Sampling(self.recipe.generate.temperature, max_tokens, self.recipe.seed)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """Show a bar; call what it yields with the number of things done.

        Where there is no terminal, a bar is shown when it is full, and a line now and then before.
        """
        bar = _progress_bar(self.console)
        with bar:
            row = bar.add_task(title, total=total, note="")
            said = time.monotonic()

            def advance(done: int, note: str = "") -> None:
                nonlocal said
                bar.update(row, advance=done, note=note)
                if not self.console.is_terminal and time.monotonic() - said >= LINE_EVERY:
                    said = time.monotonic()
                    count = bar.tasks[row].completed
                    self.console.print(f"{title}: {count:.0f} of {total} {note}", highlight=False)

            yield advance

    def is_done(self, stage: str) -> bool:
        """Whether a stage has ended in this run folder."""
        return stage in stages_done(self.run)

    def mark_done(self, stage: str) -> None:
        """Remember that a stage has ended."""
        write_atomically(self.run.stages, json.dumps([*stages_done(self.run), stage]) + "\n")


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _none_fits(generate: Generate, context: int, shortest: int) -> str:
    return (
        f"No problem fits the model's context of {context} tokens: with two answers and a "
        f"reflection of the lengths asked for ({generate.answer_tokens} and "
        f"{generate.reflection_tokens} tokens) the shortest takes {shortest}. Lower "
        "generate.answer_tokens or generate.reflection_tokens, or use a model with a longer "
        "context."
    )


def first_model(run: RunFolder, recipe: Recipe) -> str:
    """Return the model that a run's training begins with, and that its adapters belong to."""
    return str(run.warmed_up) if recipe.sft else recipe.model


def conversations_of(
    prompts: Prompts,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    engine: Engine | None = None,
) -> Conversations:
    """Return prompts in some words, in the form that the engine takes.

    They keep to the shorter context of the two: one generates, the other is trained.
    """
    if engine is not None and not engine.abilities.token_ids:
        return ChatConversations(prompts.reflect, prompts.retry, marks=prompts.thoughts)
    return Conversations(
        tokenizer,
        prompts.reflect,
        prompts.retry,
        today=prompts.date,
        marks=prompts.thoughts,
        context=_shorter(context_length(model.config), None if engine is None else engine.context),
    )


def _shorter(*contexts: int | None) -> int | None:
    """Return the shortest of the contexts that are known."""
    return min((each for each in contexts if each is not None), default=None)


def stages_done(run: RunFolder) -> list[str]:
    """Return the names of the stages that have ended in a run folder."""
    if not run.stages.exists():
        return []
    try:
        names = json.loads(run.stages.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise MulliganError(f"Cannot read {run.stages}: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MulliganError(
            f"{run.stages} should be a list of the stages that are done, but is not."
        )
    return names


@contextmanager
def open_session(
    recipe: Recipe, run: RunFolder, console: Console, stop: StopRequest
) -> Iterator[Session]:
    """Hold a run folder and what its stages share; the recipe is written into it at the start."""
    make_objective(recipe)  # what cannot be trained is said before anything is done
    with ExitStack() as stack:
        stack.enter_context(hold(run.path))
        if not run.config.exists():
            write_atomically(
                run.config, as_yaml(recipe) + yaml.safe_dump({MADE_WITH: _made(recipe)})
            )
        elif recipe.train.steps > (before := recipe_of(run)).train.steps:
            extend(run, before, recipe, stages_done(run))
        yield Session(recipe, run, console, stop, stack)


def recipe_of(run: RunFolder) -> Recipe:
    """Read the recipe of a run.

    Raises:
        MulliganError: it is not a run, or one made by a newer format.
    """
    settings = read_yaml(run.config)
    made: dict[str, Any] = settings.pop(MADE_WITH, {})
    written = made.get("format") if isinstance(made, dict) else None
    if not isinstance(written, int):
        raise MulliganError(
            f"{run.config} does not say which format the run has, so it was not written by a run."
        )
    if written > FORMAT:
        raise MulliganError(
            f"{run.path} was made by a newer Mulligan (run format {written}; this one reads up to "
            f"{FORMAT}). Install mulligan {made.get('mulligan', 'of that version')} or later."
        )
    return check_recipe(settings | {"format": written}, str(run.config))


def format_of(run: RunFolder) -> int:
    """Return the format of a run; the newest where it is still to be made."""
    return recipe_of(run).format if run.config.exists() else FORMAT


def refuse_changed_settings(run: RunFolder, recipe: Recipe) -> None:
    """Check that a run is resumed with the settings it was started with.

    Raises:
        MulliganError: naming each setting that changed and may not.
    """
    changed = changes_refused(recipe_of(run), recipe)
    if changed:
        listed = "\n".join(f"  {each}" for each in changed)
        raise MulliganError(
            f"{run.path} was started with other settings, which cannot change on resume:\n"
            f"{listed}\nUse the settings of {run.config}, or start a new run under another name."
        )


def _made(recipe: Recipe) -> dict[str, Any]:
    packages = ("torch", "transformers", "accelerate")
    return {
        "format": recipe.format,
        "mulligan": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
