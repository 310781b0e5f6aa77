"""What several runs forgot, in one file that is small enough to commit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting.records import Forgetting, read_forgetting
from mulligan.report.forgetting import markdown
from mulligan.storage.atomic import write_atomically
from mulligan.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Published:
    """One run: what was trained, and what that made the model forget."""

    task: str
    model: str
    steps: int
    lora_rank: int | None
    """Null where all weights were trained."""
    seed: int
    measured: Forgetting


def publish(run: RunFolder, recipe: Recipe, path: Path) -> None:
    """Add what a run forgot to a file, beside other runs; the same name is replaced.

    Raises:
        MulliganError: nothing was measured, or the file is not of this form.
    """
    measured = read_forgetting(run.forgetting)
    if measured is None:
        raise MulliganError(
            f"What {run.path} forgot was not measured. First run `mulligan forget {run.path}`."
        )
    published = read_published(path)
    published[recipe.name] = Published(
        task=Path(recipe.task).name,
        model=Path(recipe.model).name if Path(recipe.model).is_dir() else recipe.model,
        steps=recipe.train.steps,
        lora_rank=None if recipe.lora is None else recipe.lora.rank,
        seed=recipe.seed,
        measured=measured,
    )
    write_atomically(path, _FILE.dump_json(published, indent=1) + b"\n")


def read_published(path: Path) -> dict[str, Published]:
    """Read what runs forgot, by their names; empty where there is no file.

    Raises:
        MulliganError: the file is not of this form.
    """
    if not path.exists():
        return {}
    try:
        return _FILE.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first_line = str(error).partition("\n")[0]
        raise MulliganError(
            f"{path} does not hold what runs forgot: {first_line}. Name another file."
        ) from error


def published_markdown(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a page that shows such a file."""
    for name, run in read_published(path).items():
        weights = "all weights" if run.lora_rank is None else f"LoRA of rank {run.lora_rank}"
        yield f"### {name}"
        command = _command(name, run.measured)
        what = f"{run.model} on {run.task}: {weights}, {run.steps} steps, seed {run.seed}"
        yield f"{what}, measured by `{command}`."
        yield from markdown(run.measured)


def _command(name: str, measured: Forgetting) -> str:
    asked = measured.made_with
    tasks = f" --tasks {asked['tasks']} --items {asked['items']}" if asked["tasks"] else ""
    return f"mulligan forget runs/{name}{tasks} --prompts {asked['prompts']}"


_FILE = TypeAdapter(dict[str, Published])
