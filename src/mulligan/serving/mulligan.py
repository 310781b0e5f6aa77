"""A model with a second chance: loaded once, asked from Python."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from mulligan.config import Generate, LocalEngine, Prompts, Recipe, ServerEngine, Verify
from mulligan.engines.base import Engine
from mulligan.engines.registry import Surroundings, find_engine
from mulligan.episodes.chat import ChatConversations
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.run.session import conversations_of, first_model, recipe_of, stages_done
from mulligan.serving.second_chance import Event, Method, Solution, solve, steps
from mulligan.storage.run_folder import RunFolder
from mulligan.tasks.base import Task
from mulligan.tasks.registry import load_task
from mulligan.types import Problem, Sampling
from mulligan.verifiers.limits import limits_of
from mulligan.verifiers.pool import Verifier, verifier_for

logger = logging.getLogger("mulligan")

GENERATE = Generate(answer_tokens=512, reflection_tokens=256)
"""How a model writes that no run says otherwise of."""


class Mulligan:
    """Answers problems of a task: try, verify, reflect, retry.

    Made by ``Mulligan.load``. May be used from several threads, and as a context manager, which
    ends the verifier's processes and the engine.

    Args:
        task: says what is asked, and verifies answers.
        method: how problems are answered.
        verifier: of the task; the method's ``verify`` is its.
        model: what the model is called, in records.
        prompts: the words of the requests.
        stack: what to release at the end.
        weights: what answers: the folder of the weights, or a server's address and its model.
    """

    def __init__(
        self,
        task: Task,
        method: Method,
        verifier: Verifier,
        model: str,
        prompts: Prompts,
        stack: ExitStack,
        weights: str = "",
    ) -> None:
        self.task = task
        self.method = method
        self.verifier = verifier
        self.model = model
        self.prompts = prompts
        self.weights = weights
        self._stack = stack
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        task: str | None = None,
        task_options: Mapping[str, Any] | None = None,
        tries: int = 2,
        seed: int | None = None,
        generate: Generate | None = None,
        prompts: Prompts | None = None,
        server: ServerEngine | None = None,
    ) -> Self:
        """Load a trained run, or any model.

        Args:
            source: a run folder, whose best or newest checkpoint is used with the words and
                lengths of its recipe, or its warmed-up model before training has begun; or a model:
                Hub id, folder, or ``smollm2-135m``.
            task: what a recipe calls a task; a run's own by default.
            task_options: of that task.
            tries: most tries at a problem, the first included.
            seed: what answers are drawn from; a run's own by default, else 0.
            generate: lengths and temperature, in place of the run's.
            prompts: the words of the requests, in place of the run's.
            server: a server that generates in place of the model; a run then gives its words and
                lengths only.

        Raises:
            MulliganError: there is no such run, model or task; or a model is given without a task.
        """
        if tries < 1:
            raise MulliganError(f"A problem needs at least one try, not tries={tries}.")
        run = RunFolder(Path(source))
        recipe = recipe_of(run) if run.config.exists() else None
        if recipe is None and task is None:
            raise MulliganError(
                f"{str(source)!r} is not a run, so it has no task of its own: give one by task=..."
            )
        loaded = _task(recipe, task, task_options)
        words = prompts or (recipe.prompts if recipe else Prompts())
        lengths = generate or (recipe.generate if recipe else GENERATE)
        drawn = seed if seed is not None else recipe.seed if recipe else 0
        with ExitStack() as stack:
            settings = recipe.verify if recipe else Verify()
            verifier = verifier_for(loaded, settings.workers, limits_of(settings))
            stack.enter_context(verifier)
            if server is not None:
                weights = f"{server.url} {server.model}"
                engine, conversations = _asked(server, words)
            else:
                weights = str(source) if recipe is None else str(_newest_weights(run, recipe))
                engine, conversations = _local(weights, run, recipe, words, stack)
            stack.callback(engine.close)
            method = Method(
                engine,
                conversations,
                verifier.verify_many,
                Sampling(lengths.temperature, lengths.answer_tokens, drawn),
                Sampling(lengths.temperature, lengths.reflection_tokens, drawn),
                tries,
            )
            kept = stack.pop_all()
            return cls(loaded, method, verifier, str(source), words, kept, weights)

    def answer(self, problem: Problem) -> Solution:
        """Answer a problem, and return all that happened on the way."""
        return self.answer_all([problem])[0]

    def answer_all(self, problems: Sequence[Problem], *, seed: int | None = None) -> list[Solution]:
        """Answer problems together, which is faster than one by one.

        Args:
            problems: in any number.
            seed: what their answers are drawn from, in place of the one given to ``load``.
        """
        with self._lock:
            return solve(self.seeded(seed), problems)

    async def stream(self, problem: Problem) -> AsyncIterator[Event]:
        """Answer a problem, and yield each attempt, reflection and retry when it is there."""
        happens = steps(self.method, [problem])
        while (event := await asyncio.to_thread(self._next, happens)) is not None:
            yield event

    def seeded(self, seed: int | None) -> Method:
        """Return the method with another seed, or as it is for None."""
        if seed is None:
            return self.method
        writing, thinking = self.method.writing, self.method.thinking
        return replace(
            self.method,
            writing=replace(writing, seed=seed),
            thinking=replace(thinking, seed=seed),
        )

    def close(self) -> None:
        """Release the engine and the verifier's processes; closing twice is harmless."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _next(self, happens: Iterator[Mapping[int, Event]]) -> Event | None:
        """Take one step; the engine and the verifier serve one caller at a time."""
        with self._lock:
            happened = next(happens, {})
        return happened.get(0)


def _task(recipe: Recipe | None, name: str | None, options: Mapping[str, Any] | None) -> Task:
    if name is not None:
        return load_task(name, options)
    assert recipe is not None
    return load_task(recipe.task, recipe.task_options if options is None else options)


def _asked(server: ServerEngine, prompts: Prompts) -> tuple[Engine, Conversations]:
    """Return an engine that asks a server through its own chat template."""
    from mulligan.engines.server import connect

    engine = connect(
        server.url,
        server.model,
        None,
        api_key_env=server.api_key_env,
        timeout_s=server.timeout_seconds,
        parallel=server.parallel,
    )
    return engine, ChatConversations(prompts.reflect, prompts.retry, marks=prompts.thoughts)


def _local(
    weights: str, run: RunFolder, recipe: Recipe | None, prompts: Prompts, stack: ExitStack
) -> tuple[Engine, Conversations]:
    """Return the engine of weights that are loaded here, those of a run or of any model."""
    from mulligan.models.load import load_model

    dtype = recipe.dtype if recipe else "bfloat16"
    settings = recipe.engine if recipe else LocalEngine()
    if recipe is None:
        model, tokenizer = load_model(weights, dtype)
    else:
        base = first_model(run, recipe)
        model, tokenizer = load_model(weights, dtype, recipe.device, base=base)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mulligan-"))
    surroundings = Surroundings(model, tokenizer, dtype, Path(folder))
    engine = find_engine(settings.kind).make(settings.model_dump(), surroundings)
    return engine, conversations_of(prompts, model, tokenizer, engine)


def _newest_weights(run: RunFolder, recipe: Recipe) -> Path:
    """Return a run's trained model; before its training has begun, what training starts from.

    Raises:
        MulliganError: it has neither.
    """
    from mulligan.run.export_model import trained_checkpoint

    begun = any(each.checkpoints.exists() for each in run.rounds_begun)
    if recipe.sft is not None and not begun and "warmup" in stages_done(run):
        logger.warning("%s is not trained yet: its warmed-up model answers.", run.path)
        return run.warmed_up
    return trained_checkpoint(run, recipe)
