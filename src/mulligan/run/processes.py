"""A command that torchrun or ``accelerate launch`` started several times over.

The first process does what it is asked; the others wait until it trains, and train with it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mulligan.config import Recipe, check_recipe
from mulligan.engines.registry import find_engine
from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly, StopRequest
from mulligan.objectives.objective import make_objective
from mulligan.run.out_of_memory import memory_errors
from mulligan.run.session import Session
from mulligan.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from mulligan.trainer.distributed import Processes


@dataclass(frozen=True, slots=True)
class Training:
    """What the first process asks the others to train with it."""

    recipe: dict[str, Any]
    run: str
    start: str | None
    """The model to start from, where it is not the recipe's or the warm-up's."""


def share_out(command: Callable[[], None], train: Callable[[Session], None]) -> None:
    """Run a command, in the first of several processes; the others train when it does.

    Args:
        command: what the user asked for.
        train: the stage that all processes take part in.
    """
    from mulligan.trainer.distributed import Processes
    from mulligan.trainer.launch import launched

    launch = launched()
    if launch is None:
        command()
        return
    processes = Processes(launch)
    if not processes.leads:
        _follow(processes, train)
        launch.part()
        return
    try:
        command()
    finally:
        if not launch.busy:  # else the others are amid a step, and end because this one does
            processes.first(_nothing_more, Training | None)
            launch.part()


def _follow(processes: "Processes", train: Callable[[Session], None]) -> None:
    """Train whenever the first process does, until its command ends."""
    logging.getLogger("mulligan").setLevel("ERROR")  # the first process says everything once
    quiet, stop = Console(quiet=True), StopRequest()
    with stop.listening(quiet):  # all along: a launcher passes a stop on to every process
        while (asked := processes.first(_nothing_more, Training | None)) is not None:
            recipe = check_recipe(asked.recipe, "The first process's recipe")
            with ExitStack() as stack:
                run = RunFolder(Path(asked.run))
                session = Session(recipe, run, quiet, stop, stack, asked.start)
                with suppress(StoppedEarly), memory_errors("train"):
                    train(session)


def require_divisible(recipe: Recipe) -> None:
    """Check that the processes of this launch, where there are several, can train a recipe.

    Raises:
        MulliganError: the recipe's engine cannot be divided among processes, or its reward asks a
            policy that would be sharded.
    """
    from mulligan.trainer.launch import launched

    launch = launched()
    if launch is None:
        return
    kind = recipe.engine.kind
    if not find_engine(kind).abilities.divisible:
        raise MulliganError(
            f"{launch.count} processes were launched, and the work of the engine {kind!r} "
            "cannot be divided among them. Use engine.kind=local, or start one process."
        )
    if recipe.train.shard and make_objective(recipe).reward.asks_policy:
        raise MulliganError(
            f"The reward {recipe.train.reward!r} asks the policy itself, which no process "
            "has whole with train.shard. Leave out train.shard, or use another reward."
        )


def _absolute(model: str | None) -> str | None:
    """Return a model's folder as every process finds it; a name stays as it is."""
    return str(Path(model).absolute()) if model is not None and Path(model).is_dir() else model


def _nothing_more() -> Training | None:
    return None


@contextmanager
def together(session: Session) -> "Iterator[Processes]":
    """Let the other processes of a launch, where there are any, train what this one trains.

    Raises:
        MulliganError: several processes cannot train this recipe.
    """
    from mulligan.trainer.distributed import Processes
    from mulligan.trainer.launch import launched

    launch = launched()
    processes = Processes(launch)
    if launch is None or not processes.leads:
        yield processes
        return
    require_divisible(session.recipe)
    recipe = session.recipe.model_dump(mode="json") | {"track": []}
    asked = Training(recipe, str(session.run.path.absolute()), _absolute(session.start))
    processes.first(lambda: asked, Training | None)
    launch.busy = True
    try:
        yield processes
    except StoppedEarly:
        launch.busy = False
        raise
    launch.busy = False
