"""Where commands print: results to standard output, errors and the log to standard error."""

import json
import logging
import sys
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

STOPPED = 130
"""Exit status of a run that was asked to stop, as shells have it for Ctrl-C."""

console = Console(width=None if sys.stdout.isatty() else 110)  # in a log, no table is cut short
error_console = Console(stderr=True)


def set_up_log() -> None:
    """Send the log of the package to standard error."""
    logging.basicConfig(
        level="WARNING",
        format="%(message)s",
        handlers=[RichHandler(console=error_console, show_path=False, show_time=False)],
    )
    logging.getLogger("mulligan").setLevel("INFO")


def print_error(error: Exception) -> None:
    """Print an error as one message; terminal escapes in it are shown as text."""
    from mulligan.report.markup import visible

    error_console.print("[bold red]error[/]", end=" ")
    error_console.print(visible(str(error)), markup=False, highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print JSON for programs, whatever the width of the terminal."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
