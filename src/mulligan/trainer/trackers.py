"""Experiment trackers: TensorBoard, Weights & Biases, trackio.

A run's own files hold everything; a tracker gets a copy of each step, under the names that users of
TRL's trainers know. A failure of a tracker is logged once, and it gets no more steps: it never ends
a run. A resumed run continues its curve, and steps that are done again are not logged twice.
"""

import importlib.util
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.storage.atomic import write_atomically
from mulligan.storage.episode_log import newest_episodes
from mulligan.storage.lines import lines_backwards
from mulligan.storage.run_folder import RunFolder

PROJECT = "mulligan"
COLUMNS = ("step", "reflection", "retry", "verdict", "reward", "advantage")
"""Of the table of sampled episodes, which TRL calls ``completions``."""

_NAMES = {
    "reward": "train/reward",
    "reflection_tokens": "train/completions/mean_length",
    "truncated": "train/completions/clipped_ratio",
    "loss": "train/loss",
    "kl": "train/kl",
    "gradient_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "logprob_mismatch": "train/sampling/sampling_logp_difference/mean",
    "unjudged": "train/unjudged",
    "rollout": "train/rollout_time",
    "update": "train/update_time",
}
"""A step's field to the name in a tracker; the last three have no counterpart in TRL."""
_SAMPLED = 4
"""Episodes of a step that go into the table."""
_EVERY = 10
"""Steps between tables."""

log = logging.getLogger("mulligan")
Row = Mapping[str, Any]


class Tracker(Protocol):
    """One place that steps are sent to. Every call may fail."""

    def log(self, step: int, values: Mapping[str, float], episodes: Sequence[Row]) -> None:
        """Send a step's numbers, and some of its episodes, each a row of ``COLUMNS``."""
        ...

    def close(self) -> None:
        """Send what has not been sent yet."""
        ...


class TensorBoard:
    """Event files in the run's folder: ``tensorboard --logdir runs``."""

    def __init__(self, run: RunFolder, recipe: Recipe, run_id: str) -> None:
        del run_id  # the folder is the run's own
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.path / "tensorboard"))
        self._writer.add_text("recipe", f"```json\n{recipe.model_dump_json(indent=1)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float], episodes: Sequence[Row]) -> None:
        """Send a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if episodes:
            self._writer.add_text("completions", _markdown(episodes), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Wandb:
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything in the run's folder."""

    def __init__(self, run: RunFolder, recipe: Recipe, run_id: str) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run = wandb.init(
            project=PROJECT,
            name=recipe.name,
            id=run_id,
            resume="allow",
            config=recipe.model_dump(mode="json"),
            dir=str(run.path),
        )

    def log(self, step: int, values: Mapping[str, float], episodes: Sequence[Row]) -> None:
        """Send a step."""
        content: dict[str, Any] = dict(values)
        if episodes:
            rows = [[row[column] for column in COLUMNS] for row in episodes]
            content["completions"] = self._wandb.Table(columns=list(COLUMNS), data=rows)
        self._run.log(content, step=step)

    def close(self) -> None:
        """Send what has not been sent yet."""
        self._run.finish()


class Trackio:
    """trackio, on this machine: ``trackio show``."""

    def __init__(self, run: RunFolder, recipe: Recipe, run_id: str) -> None:
        del run  # trackio has a place of its own
        import trackio

        self._trackio: Any = trackio
        self._run = trackio.init(
            project=PROJECT,
            name=f"{recipe.name}-{run_id}",
            resume="allow",
            config=recipe.model_dump(mode="json"),
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float], episodes: Sequence[Row]) -> None:
        """Send a step."""
        content: dict[str, Any] = dict(values)
        if episodes:
            import pandas  # type: ignore[import-untyped]

            frame = pandas.DataFrame([dict(row) for row in episodes], columns=list(COLUMNS))
            content["completions"] = self._trackio.Table(dataframe=frame)
        self._run.log(content, step=step)

    def close(self) -> None:
        """Send what has not been sent yet."""
        self._run.finish()


TRACKERS: Mapping[str, Callable[[RunFolder, Recipe, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        MulliganError: one is not, with the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MulliganError(
                f"track: {name} needs a package that is not installed: pip install {name}. "
                "Or leave it out of `track`."
            )


class Trackers:
    """A sink for steps that passes each on to every tracker that still works."""

    def __init__(self, run: RunFolder, recipe: Recipe) -> None:
        require_trackers(recipe.track)
        self._run = run
        self._id, self._sent = _read_tracked(run.tracked)
        self._open: dict[str, Tracker] = {}
        for name in recipe.track:
            with self._failures_of(name):
                self._open[name] = TRACKERS[name](run, recipe, self._id)

    def append(self, metrics: Row) -> None:
        """Pass a step on, given as a line of ``metrics.jsonl``, once its episodes are stored."""
        step = int(metrics["step"])
        due = [name for name in self._open if step > self._sent.get(name, 0)]
        if not due:
            return
        content = None
        for name in due:
            with self._failures_of(name):
                content = content or self._content(step, metrics)
                self._open[name].log(step, *content)
                self._sent[name] = step
        write_atomically(self._run.tracked, json.dumps({"id": self._id, "sent": self._sent}) + "\n")

    def _content(self, step: int, metrics: Row) -> tuple[dict[str, float], list[Row]]:
        """Return the numbers of a step, and now and then some of its episodes."""
        timing = next(_newest(self._run.timings), {})
        values = _values({**metrics, **(timing if timing.get("step") == step else {})})
        with_table = step == 1 or step % _EVERY == 0
        return values, _sampled(self._run.episodes, step) if with_table else []

    def close(self) -> None:
        """Let every tracker send what is left."""
        for name in list(self._open):
            with self._failures_of(name):
                self._open[name].close()
        self._open.clear()

    @contextmanager
    def _failures_of(self, name: str) -> Iterator[None]:
        """Log what a tracker failed with, and send it nothing more."""
        try:
            yield
        except (Exception, SystemExit) as error:  # whatever a tracker does, the run goes on
            self._open.pop(name, None)
            first_line = str(error).partition("\n")[0] or type(error).__name__
            log.warning(
                "The tracker %s failed and gets no more steps; the run goes on: %s",
                name,
                first_line,
            )


@contextmanager
def open_trackers(run: RunFolder, recipe: Recipe) -> Iterator[Trackers]:
    """Open the recipe's trackers; they are closed however training ends."""
    trackers = Trackers(run, recipe)
    try:
        yield trackers
    finally:
        trackers.close()


def _values(metrics: Row) -> dict[str, float]:
    values = {_NAMES[key]: float(value) for key, value in _numbers(metrics) if key in _NAMES}
    groups = metrics.get("live_groups", 0) + metrics.get("dead_groups", 0)
    if groups:
        values["train/frac_reward_zero_std"] = metrics["dead_groups"] / groups
    if "rollout" in metrics:
        values["train/step_time"] = float(metrics["rollout"] + metrics["update"])
    return values


def _numbers(metrics: Row) -> Iterator[tuple[str, float]]:
    return ((key, value) for key, value in metrics.items() if isinstance(value, int | float))


def _sampled(path: Path, step: int) -> list[Row]:
    """Return the last episodes of a step."""
    return [
        {
            "step": step,
            "reflection": each.reflection.text if each.reflection else "",
            "retry": each.retry.text if each.retry else "",
            "verdict": each.verdict.reason if each.verdict else "",
            "reward": each.reward,
            "advantage": each.advantage,
        }
        for each in newest_episodes(path, _SAMPLED)
        if each.step == step
    ]


def _newest(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for _, line in lines_backwards(path, block=2**16))


def _markdown(rows: Sequence[Row]) -> str:
    """Return a table as TensorBoard shows it; texts stay on their line and in their cell."""
    lines = ["|".join(["", *COLUMNS, ""]), "|".join(["", *["---"] * len(COLUMNS), ""])]
    lines += ["|".join(["", *(_cell(row[column]) for column in COLUMNS), ""]) for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "¦").replace("\n", " ")


def _read_tracked(path: Path) -> tuple[str, dict[str, int]]:
    """Return the run's name among a tracker's runs, and the last step that each tracker got."""
    try:
        found = json.loads(path.read_bytes())
        return str(found["id"]), {str(name): int(step) for name, step in found["sent"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return secrets.token_hex(4), {}  # a run that no tracker knows yet
