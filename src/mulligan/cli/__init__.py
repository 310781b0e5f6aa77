"""The command line, in the words of the method: each command a thin function."""

import os
import sys

import typer

from mulligan.cli import (
    chat,
    examine,
    forget,
    hub,
    import_logs,
    objectives,
    overview,
    results,
    serve,
    solve,
    stages,
    study,
    tasks,
)
from mulligan.cli.console import print_error, set_up_log
from mulligan.errors import MulliganError

COMMANDS = (
    stages.demo,
    stages.run,
    stages.warmup,
    stages.collect,
    stages.train,
    stages.evaluate,
    results.report,
    results.show,
    results.export,
    solve.solve,
    import_logs.import_,
    serve.serve,
    chat.chat,
    study.study,
    study.seeds,
    examine.examine,
    overview.plan,
    overview.runs,
    overview.compare,
    overview.watch,
    forget.forget,
    hub.push,
    tasks.tasks,
    tasks.validate,
    tasks.new_task,
    objectives.objectives,
    overview.doctor,
)
"""In the order in which ``--help`` lists them; ``new_task`` is typed as ``new-task``, and
``import_`` as ``import``."""

app = typer.Typer(
    help="A second chance for small language models, and learning from it: "
    "fail, reflect, retry, and when the retry passes, reward the reflection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command(command.__name__.strip("_").replace("_", "-"))(command)


def main() -> None:
    """Run the command line; errors that a user can fix come as one message."""
    set_up_log()
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _among_processes()
        else:
            app()
    except MulliganError as error:
        print_error(error)
        sys.exit(1)


def _among_processes() -> None:
    """Run the command line as one of the processes that torchrun or accelerate launched."""
    from mulligan.run.learning import train_policy
    from mulligan.run.processes import share_out

    share_out(app, train_policy)
