"""A run goes on for more steps than it was started with, exactly as if it had been from the start.

That holds where the steps that are done keep their learning rates: with a constant schedule, and a
warm-up of as many steps as before.
"""

import json
import math
from typing import Any

import yaml

from mulligan.config import MADE_WITH, Recipe, Train, as_yaml, changed_settings, read_yaml
from mulligan.storage.atomic import write_atomically
from mulligan.storage.run_folder import RunFolder

_TOGETHER = ("train.steps", "train.warmup_ratio")
"""Settings that may change together where no step that is done would have been another."""


def changes_refused(before: Recipe, after: Recipe) -> list[str]:
    """Name the settings that may not change when a run is resumed, with the reason where it helps.

    More steps are no change that is refused where the schedule of the steps so far stays.
    """
    changed = changed_settings(before, after)
    if after.train.steps <= before.train.steps:
        return changed
    why = _why_not_longer(before, after.train)
    if why is None:
        return [each for each in changed if each.partition(":")[0] not in _TOGETHER]
    return [f"{each} ({why})" if each.startswith("train.steps:") else each for each in changed]


def extend(run: RunFolder, before: Recipe, after: Recipe, done: list[str]) -> None:
    """Give a run more steps: what followed its training will be done again.

    The evaluation after the shorter training stays, under a name that says how long it was. A kill
    in the middle leaves a run that is extended by the same command.
    """
    evaluated = run.evaluation("after")
    if evaluated.exists() and "train" in done:
        evaluated.replace(run.evaluation(f"after-{before.train.steps}-steps"))
    kept = [each for each in done if each not in ("train", "evaluate-after", "report")]
    write_atomically(run.stages, json.dumps(kept) + "\n")
    made: dict[str, Any] = read_yaml(run.config)[MADE_WITH]
    longer = before.train.model_copy(
        update={"steps": after.train.steps, "warmup_ratio": after.train.warmup_ratio}
    )
    recipe = before.model_copy(update={"train": longer})
    write_atomically(run.config, as_yaml(recipe) + yaml.safe_dump({MADE_WITH: made}))


def _why_not_longer(recipe: Recipe, after: Train) -> str | None:
    """Say why a training cannot have more steps; None where it can."""
    before = recipe.train
    if recipe.rounds > 1:
        return "each of its rounds goes on from the end of the one before"
    if recipe.consolidate is not None:
        return "it was consolidated after its last step"
    if before.schedule != "constant":
        return (
            f"the {before.schedule} schedule spans all steps, so those that are done would have "
            "had other learning rates; only train.schedule: constant can be extended"
        )
    if before.average_from is not None:
        return "train.average_from ended the training with the mean of its weights"
    warmup = _warmup_steps(before)
    if _warmup_steps(after) != warmup:
        ratio = max(0.0, warmup - 0.5) / after.steps
        return (
            f"its warm-up would take {_warmup_steps(after)} steps instead of {warmup}; "
            f"add train.warmup_ratio={ratio:.6g} to keep it as it was"
        )
    return None


def _warmup_steps(train: Train) -> int:
    return math.ceil(train.warmup_ratio * train.steps)
