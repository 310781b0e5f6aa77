"""The stages of a run, in order, over one run folder.

Each stage takes what the ones before it left in the folder, and is done once; a stage that was cut
off goes on where it was.
"""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import islice
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
from mulligan.atomic import remove_folder, whole_folder, write_atomically
from mulligan.collect import Collected, collect, collected_key
from mulligan.config import Recipe, as_yaml, changed_settings, check_recipe, read_yaml
from mulligan.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.evaluate import Protocol, When, evaluate
from mulligan.failures import FailureStore
from mulligan.interrupt import StopRequest
from mulligan.lock import hold
from mulligan.memory import memory_errors
from mulligan.models import load_model
from mulligan.randomness import derive_seed
from mulligan.records import RecordLog
from mulligan.run_folder import RunFolder
from mulligan.tasks.base import Split, Task
from mulligan.tasks.isolation import Verifier, verifier_for
from mulligan.tasks.judging import ErrorShare
from mulligan.tasks.registry import load_task
from mulligan.types import Problem, Sampling, Trial, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mulligan.engines.local import LocalEngine

FORMAT = 1
"""Version of the run folder's format; raised whenever older code would misread a run."""


@dataclass(frozen=True)
class Stage:
    """One step on the way from a recipe to a report."""

    name: str
    says: str
    """What it does, in the method's words."""
    run: Callable[["Session"], None]
    needs: tuple[str, ...] = ()
    """Stages that must be done before."""


class Session:
    """A run folder that this process holds, with what its stages share."""

    def __init__(
        self, recipe: Recipe, run: RunFolder, console: Console, stop: StopRequest, stack: ExitStack
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.console = console
        self.stop = stop
        self._stack = stack
        self._errors = ErrorShare(recipe.verify.max_error_share)

    @cached_property
    def task(self) -> Task:
        """The recipe's task."""
        return load_task(self.recipe.task, self.recipe.task_options)

    @cached_property
    def verifier(self) -> Verifier:
        """Judges answers: in process where that is safe, else in workers that can be killed."""
        settings = self.recipe.verify
        return self._stack.enter_context(
            verifier_for(
                self.task, settings.workers, settings.deadline_seconds, settings.memory_mib
            )
        )

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Judge answers; stop the run when too many verdicts are errors."""
        verdicts = self.verifier.verify_many(pairs)
        self._errors.add(verdicts)
        return verdicts

    def problems(self, split: Split, count: int) -> list[Problem]:
        """Return the first problems of a split.

        Raises:
            MulliganError: there are fewer.
        """
        problems = list(islice(self.task.problems(split), count))
        if len(problems) < count:
            raise MulliganError(
                f"Task {self.recipe.task!r} has {len(problems)} {split} problems, and the recipe "
                f"asks for {count}. Ask for fewer, or give the task more."
            )
        return problems

    def load(self, model: str | Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Load a model in float32, on the recipe's device."""
        return load_model(str(model), "float32", self.recipe.device)

    @property
    def start_model(self) -> str:
        """The model that training starts from: warmed up where the recipe has a warm-up."""
        return str(self.run.warmed_up) if self.recipe.warmup else self.recipe.model

    def engine(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
    ) -> "LocalEngine":
        """Return the engine that generates with a model."""
        import torch

        from mulligan.engines.local import LocalEngine

        return LocalEngine(
            model,
            tokenizer,
            dtype=getattr(torch, self.recipe.dtype),
            memory_gib=self.recipe.generate.memory_gib,
        )

    def conversations(self, tokenizer: "PreTrainedTokenizerBase") -> Conversations:
        """Return the three prompts in the recipe's words."""
        return Conversations(tokenizer, self.recipe.prompts.reflect, self.recipe.prompts.retry)

    def sampling(self, max_tokens: int) -> Sampling:
        """Return the recipe's sampling with the run's seed."""
        return Sampling(self.recipe.generate.temperature, max_tokens, self.recipe.seed)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """Show a bar; call what it yields with the number of things done."""
        bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        with bar:
            row = bar.add_task(title, total=total, note="")

            def advance(done: int, note: str = "") -> None:
                bar.update(row, advance=done, note=note)

            yield advance

    def is_done(self, stage: str) -> bool:
        """Whether a stage has ended in this run folder."""
        return stage in stages_done(self.run)

    def mark_done(self, stage: str) -> None:
        """Remember that a stage has ended."""
        write_atomically(self.run.stages, json.dumps([*stages_done(self.run), stage]) + "\n")


def stages_done(run: RunFolder) -> list[str]:
    """Return the names of the stages that have ended in a run folder."""
    if not run.stages.exists():
        return []
    try:
        names = json.loads(run.stages.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise MulliganError(f"Cannot read {run.stages}: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MulliganError(f"{run.stages} should be a list of stages that are done, and is not.")
    return names


def warm_up_stage(session: Session) -> None:
    """Teach the model the form of the task, supervised; only where the recipe has a warm-up."""
    from mulligan.warmup import WarmUpStep, warm_up

    recipe, settings = session.recipe, session.recipe.warmup
    if settings is None:
        return
    policy, tokenizer = session.load(recipe.model)
    seed = derive_seed(recipe.seed, "demonstrations")
    demonstrations = list(session.task.demonstrations(settings.examples, seed))
    with (
        session.progress("warm-up", -(-len(demonstrations) // settings.batch)) as advance,
        RecordLog(session.run.warmup_log, WarmUpStep, lambda line: str(line.step)) as log,
    ):

        def report(line: WarmUpStep) -> None:
            log.append(line)
            advance(1, f"loss {line.loss:.3f}")
            session.stop.check(f"warm-up step {line.step}; a warm-up starts again on resume")

        warm_up(
            policy,
            session.conversations(tokenizer),
            demonstrations,
            settings,
            seed=recipe.seed,
            dtype=recipe.dtype,
            tokens_at_once=recipe.train.tokens_at_once,
            report=report,
        )
    remove_folder(session.run.warmed_up)
    with whole_folder(session.run.warmed_up) as folder:
        policy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def collect_stage(session: Session) -> None:
    """Let the model try the training problems; keep what it fails."""
    recipe, run = session.recipe, session.run
    model, tokenizer = session.load(session.start_model)
    problems = session.problems("train", recipe.collect.problems)
    with (
        session.progress("collect", len(problems)) as advance,
        FailureStore(run.failures) as store,
        RecordLog(run.collected, Collected, collected_key) as log,
    ):

        def progress(done: int) -> None:
            advance(done, f"{len(store)} failures")
            session.stop.check(f"{len(store)} failures collected")

        collect(
            session.engine(model, tokenizer),
            session.conversations(tokenizer),
            session.verify,
            problems,
            attempts=recipe.collect.attempts,
            at_once=recipe.generate.problems_at_once,
            sampling=session.sampling(recipe.generate.answer_tokens),
            model=recipe.model,
            store=store,
            log=log,
            progress=progress,
        )
        store.require(recipe.train.failures)


def train_stage(session: Session) -> None:
    """Reflect, retry, reward: train the model on the reflections that led to a pass."""
    from mulligan.checkpoint import Checkpoints
    from mulligan.train import StepMetrics, Trainer

    recipe, run = session.recipe, session.run
    policy, tokenizer = session.load(session.start_model)
    steps = recipe.train.steps
    newest = Checkpoints(run.checkpoints, recipe.train.keep_checkpoints).newest()
    with session.progress("train", steps) as advance, FailureStore(run.failures) as store:
        advance(int(newest.name.removeprefix("step-")) if newest else 0)

        def progress(line: StepMetrics) -> None:
            note = f"retries that pass {line.reward:.0%}, {line.reflection_tokens:.0f} tokens"
            advance(1, note)

        Trainer(
            policy=policy,
            tokenizer=tokenizer,
            engine=session.engine(policy, tokenizer),
            store=store,
            conversations=session.conversations(tokenizer),
            verify=session.verify,
            recipe=recipe,
            run=run,
            stop=session.stop,
            progress=progress,
        ).train()


def evaluate_before_stage(session: Session) -> None:
    """Measure first try, second try and controls before training."""
    _evaluate(session, "before", session.start_model)


def evaluate_after_stage(session: Session) -> None:
    """Measure the same after training, on the same problems and seeds."""
    from mulligan.checkpoint import Checkpoints

    settings = session.recipe.train
    checkpoints = Checkpoints(session.run.checkpoints, settings.keep_checkpoints)
    trained = checkpoints.path(settings.steps)
    if checkpoints.newest() != trained:
        session.console.print(f"{trained} is missing or damaged: its steps are done again.")
        train_stage(session)
    _evaluate(session, "after", trained)
    checkpoints.mark_best(settings.steps)


def _evaluate(session: Session, when: When, model_name: str | Path) -> None:
    recipe = session.recipe
    model, tokenizer = session.load(model_name)
    protocol = Protocol(
        problems=session.problems("test", recipe.evaluate.problems),
        samples=recipe.evaluate.samples,
        seed=recipe.seed,
        temperature=recipe.generate.temperature,
        answer_tokens=recipe.generate.answer_tokens,
        reflection_tokens=recipe.generate.reflection_tokens,
        problems_at_once=recipe.generate.problems_at_once,
        controls=recipe.evaluate.controls,
    )
    total = len(protocol.problems) * protocol.samples
    with (
        session.progress(f"evaluate {when}", total) as advance,
        RecordLog(session.run.evaluation(when), Trial, lambda trial: trial.id) as log,
    ):

        def progress(done: int) -> None:
            advance(done)
            session.stop.check(f"{len(log)} of {total} trials {when} training")

        evaluate(
            session.engine(model, tokenizer),
            session.conversations(tokenizer),
            session.verify,
            session.verifier.leaks_many,
            protocol,
            when,
            log,
            progress,
        )


def report_stage(session: Session) -> None:
    """Write the page that a person reads."""
    from mulligan.report.page import write_report

    write_report(session.run.path)


STAGES = (
    Stage("warmup", "Show the model the form of the task, where it is below reach.", warm_up_stage),
    Stage("collect", "Let the model try; keep what it fails.", collect_stage, ("warmup",)),
    Stage(
        "evaluate-before",
        "Measure first try, second try and controls before training.",
        evaluate_before_stage,
        ("warmup",),
    ),
    Stage("train", "Reflect, retry, reward.", train_stage, ("collect",)),
    Stage(
        "evaluate-after",
        "Measure the same again after training.",
        evaluate_after_stage,
        ("train",),
    ),
    Stage("report", "Write the page that a person reads.", report_stage, ("evaluate-before",)),
)


def run_stages(session: Session, names: Sequence[str]) -> None:
    """Run some stages in order; those that are done already are passed over.

    The report is written anew each time: it costs little, and shows what is there.

    Raises:
        MulliganError: a stage that one of them needs is not done.
    """
    for stage in (each for each in STAGES if each.name in names):
        missing = [need for need in stage.needs if not session.is_done(need)]
        if missing:
            raise MulliganError(
                f"Stage {stage.name!r} needs {missing[0]!r} first: "
                f"run `mulligan {missing[0].split('-')[0]} {session.run.path}`."
            )
        if stage.name != "report" and session.is_done(stage.name):
            session.console.print(f"{stage.name}: done before")
            continue
        with memory_errors(stage.name):
            stage.run(session)
        if not session.is_done(stage.name):
            session.mark_done(stage.name)


@contextmanager
def open_session(
    recipe: Recipe, run: RunFolder, console: Console, stop: StopRequest
) -> Iterator[Session]:
    """Hold a run folder and what its stages share; the recipe is written into it at the start."""
    with ExitStack() as stack:
        stack.enter_context(hold(run.path))
        if not run.config.exists():
            write_atomically(run.config, as_yaml(recipe) + yaml.safe_dump({"made_with": _made()}))
        yield Session(recipe, run, console, stop, stack)


def recipe_of(run: RunFolder) -> Recipe:
    """Read the recipe of a run.

    Raises:
        MulliganError: it is not a run, or one made by a newer format.
    """
    settings = read_yaml(run.config)
    made: dict[str, Any] = settings.pop("made_with", {})
    written = made.get("format") if isinstance(made, dict) else None
    if not isinstance(written, int):
        raise MulliganError(f"{run.config} does not say which format the run has: it is no run's.")
    if written > FORMAT:
        raise MulliganError(
            f"{run.path} was made by a newer Mulligan (run format {written}; this one reads up to "
            f"{FORMAT}). Install mulligan {made.get('mulligan', 'of that version')} or later."
        )
    return check_recipe(settings, str(run.config))


def refuse_changed_settings(run: RunFolder, recipe: Recipe) -> None:
    """Check that a run is resumed with the settings it was started with.

    Raises:
        MulliganError: naming each setting that changed and may not.
    """
    changed = changed_settings(recipe_of(run), recipe)
    if changed:
        listed = "\n".join(f"  {each}" for each in changed)
        raise MulliganError(
            f"{run.path} was started with other settings, which cannot change on resume:\n"
            f"{listed}\nUse the settings of {run.config}, or start a new run under another name."
        )


def _made() -> dict[str, Any]:
    packages = ("torch", "transformers", "accelerate")
    return {
        "format": FORMAT,
        "mulligan": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
