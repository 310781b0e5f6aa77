"""The command that lists what can be rewarded, what can learn, and how."""

import json
import sys
from typing import Annotated

import typer

from mulligan.cli.console import console


def objectives(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the rewards, the tokens that can learn, and the losses that a recipe can name."""
    from mulligan.objectives.registry import list_objectives

    entries = list_objectives()
    if as_json:
        listed = [
            {"kind": e.kind, "name": e.name, "summary": e.summary, "options": list(e.options)}
            for e in entries
        ]
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
        return
    for kind in ("reward", "learn", "loss"):
        console.print(f"train.{kind}", style="bold")
        for entry in (each for each in entries if each.kind == kind):
            options = f" [options: {', '.join(entry.options)}]" if entry.options else ""
            line = f"  {entry.name}: {entry.summary}{options}"
            console.print(line, markup=False, highlight=False)
    console.print("or, as a reward, any function of your own: my_reward.py:name", highlight=False)
