"""The model card of a trained model: what it is, what was measured, where its limits are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mulligan import __version__
from mulligan.config import Recipe, as_yaml
from mulligan.evaluation.forgetting.records import Forgetting, read_forgetting
from mulligan.evaluation.results import compute
from mulligan.evaluation.tables import Table
from mulligan.evaluation.trials import TIMES, plan_of, read_trials
from mulligan.models.load import DEFAULT_MODEL
from mulligan.report.forgetting import markdown, markdown_table
from mulligan.report.sheets import solved_sheet
from mulligan.storage.run_folder import RunFolder

METHOD = "https://arxiv.org/abs/2505.24726"
_UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a run started from, as the Hub knows it."""

    hub_id: str | None
    """None where it is a folder of this machine."""
    licence: str | None
    """None where it could not be read."""


_PACKAGED = Base("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


def model_card(run: RunFolder, recipe: Recipe, base: Base, *, is_adapter: bool) -> str:
    """Return the card of a run's trained model, its metadata checked by huggingface_hub.

    Args:
        run: a trained run.
        recipe: its recipe, without paths of this machine.
        base: the model that it was trained from.
        is_adapter: whether the weights are an adapter alone.
    """
    from huggingface_hub import ModelCard

    trials = read_trials(run.path)
    table = compute(trials, plan_of(recipe.evaluate.model_dump()))
    question = next((trial.question for when in TIMES for trial in trials.get(when, ())), None)
    body = "\n\n".join(_paragraphs(recipe, base, table, read_forgetting(run.forgetting)))
    library = "peft" if is_adapter else "transformers"
    metadata = _metadata(recipe, base, library, table, question)
    return str(ModelCard(f"---\n{metadata}\n---\n\n{body}\n"))


def _metadata(recipe: Recipe, base: Base, library: str, table: Table, question: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    cell = table.cell("after_reflection", "after")
    results = (
        None
        if cell is None
        else [
            EvalResult(
                task_type="text-generation",
                dataset_type=recipe.task,
                dataset_name=recipe.task,
                metric_type="accuracy",
                metric_name="Solved, with one retry after a reflection",
                metric_value=round(cell.rate, 4),
            )
        ]
    )
    message = [{"role": "user", "content": question}]
    data = ModelCardData(
        base_model=base.hub_id,
        license=base.licence or _UNKNOWN_LICENCE,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["reflect-retry-reward", "self-reflection", "grpo"],
        model_name=recipe.name if cell else None,
        eval_results=results,
        widget=[{"messages": message}] if question else None,
    )
    return data.to_yaml()


def base_of(model: str) -> Base:
    """Return what is known of a recipe's model: its Hub id, and the licence that its card names."""
    from huggingface_hub import ModelCard

    if model == DEFAULT_MODEL:
        return _PACKAGED
    folder = Path(model).expanduser()
    is_local = folder.is_dir() or model.count("/") != 1
    hub_id = None if is_local else model
    try:
        card = ModelCard.load(folder / "README.md" if is_local else model)
    except Exception:  # no card, no network: the licence stays open, and the card says so
        return Base(hub_id, None)
    return Base(hub_id, card.data.license)


def _paragraphs(
    recipe: Recipe, base: Base, table: Table, forgotten: Forgetting | None
) -> Iterator[str]:
    name = base.hub_id or recipe.model
    yield f"# {recipe.name}"
    yield (
        f"{name}, trained to reflect on its own failures at the task `{recipe.task}`: it fails, "
        "writes in its own words what went wrong, and tries once more; where the retry passed, "
        f"the reflection was rewarded ([Reflect, Retry, Reward]({METHOD})). "
        f"Made with Mulligan {__version__}."
    )
    if recipe.sft is not None:
        yield (
            "It was first warmed up by supervised training on generated conversations; before "
            "training means after that warm-up."
        )
    yield "## What was measured"
    solved = solved_sheet(table)
    rows = [[row.title, *(value.line for value in row.values)] for row in solved.rows]
    yield markdown_table(["", *solved.headings], rows) if rows else "It was not evaluated."
    yield (
        "Brackets hold 95% intervals over problems, for this one trained model. Another seed may "
        "give results outside them."
    )
    if forgotten is not None:
        yield "## What was forgotten"
        yield from markdown(forgotten)
    yield "## Data"
    yield (
        f"Problems of the task `{recipe.task}`, with options `{dict(recipe.task_options)}`; no "
        "labelled reflections, no teacher. The model's own failures are the training data."
    )
    yield "## Limits"
    yield (
        "Trained and measured on one task; what it does elsewhere is what its base model does, "
        "less what was forgotten. Its reflections may state the answer rather than advice. A "
        "retry helps only where something tells that the first answer was wrong."
    )
    yield "## Licence"
    yield (
        f"That of the base model: {base.licence}."
        if base.licence
        else "The base model's licence could not be read on the machine that made this card: "
        "look it up before use."
    )
    yield "## Recipe"
    yield f"```yaml\n{as_yaml(recipe).rstrip()}\n```"
