"""A trained model as a folder for the Hub: weights, tokenizer, model card; and its upload.

Nothing that may be private goes along: only the files that are named here, and the failures, which
hold a task's problems, only where they are asked for.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydantic_core

from mulligan.config import Recipe, as_yaml
from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting.records import read_forgetting
from mulligan.evaluation.results import compute
from mulligan.evaluation.trials import plan_of, read_trials
from mulligan.report.table import table_as_json
from mulligan.run.model_card import model_card
from mulligan.run.trained import trained_model
from mulligan.storage.atomic import whole_folder
from mulligan.storage.run_folder import RunFolder

MODEL_FILES = (
    "*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Of a checkpoint's files; the state of the optimizer stays here."""
_NOT_FOR_THE_HUB = ("training_state",)


def export(run: RunFolder, recipe: Recipe, folder: Path, with_failures: bool = False) -> list[Path]:
    """Write what the Hub gets into a folder, and return its files.

    Args:
        run: a run whose training has ended.
        recipe: its recipe.
        folder: made here; it must not exist.
        with_failures: whether the stored failures are included, problems and answers in full.

    Raises:
        MulliganError: the run is in training, or the folder exists.
    """
    checkpoint, shown = trained_model(run, recipe), _shown(recipe)
    if folder.exists():
        raise MulliganError(f"{folder} exists already. Delete it, or name another folder.")
    with whole_folder(folder) as building:
        for path in _model_files(checkpoint):
            shutil.copyfile(path, building / path.name)
        (building / "README.md").write_text(model_card(run, shown), encoding="utf-8")
        (building / "recipe.yaml").write_text(as_yaml(shown), encoding="utf-8")
        results = pydantic_core.to_json(_results(run, recipe), indent=1)
        (building / "results.json").write_bytes(results + b"\n")
        if with_failures:
            shutil.copyfile(run.newest_round.failures, building / "failures.jsonl")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def push(folder: Path, name: str, *, private: bool, overwrite: bool) -> str:
    """Upload a folder to the Hub, and return the address of the model.

    Raises:
        MulliganError: the name exists and may not be overwritten, or the Hub refuses.
    """
    from huggingface_hub import HfApi, ModelCard

    api = HfApi()
    try:
        if not overwrite and api.repo_exists(name):
            raise MulliganError(
                f"{name} exists on the Hub. Give another name, or --overwrite to add to it."
            )
        ModelCard((folder / "README.md").read_text(encoding="utf-8")).validate()
        api.create_repo(name, private=private, exist_ok=overwrite)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a trained model")
    except MulliganError:
        raise
    except Exception as error:  # whatever the client raises: no network, no key, a refusal
        first_line = str(error).strip().partition("\n")[0]
        raise MulliganError(
            f"The Hub did not take {name}: {first_line} "
            "Log in with `hf auth login`, and check the name and the network."
        ) from error
    return f"{api.endpoint}/{name}"


def check_name(name: str) -> None:
    """Check that a name is one that the Hub takes.

    Raises:
        MulliganError: it is not of the form owner/name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise MulliganError(
            f"{name!r} is not a valid name of a model on the Hub: {error}"
        ) from error
    if name.count("/") != 1:
        raise MulliganError(f"{name!r} should be of the form USER/NAME.")


def _model_files(checkpoint: Path) -> list[Path]:
    found = {path for pattern in MODEL_FILES for path in checkpoint.glob(pattern)}
    return sorted(path for path in found if not path.name.startswith(_NOT_FOR_THE_HUB))


def _results(run: RunFolder, recipe: Recipe) -> dict[str, Any]:
    trials = read_trials(run.path)
    forgotten = read_forgetting(run.forgetting)
    made = compute(trials, plan_of(recipe.evaluate.model_dump()))
    return table_as_json(made) | ({"forgetting": asdict(forgotten)} if forgotten else {})


def _shown(recipe: Recipe) -> Recipe:
    """Return the recipe without paths of this machine."""
    changes = {
        name: Path(value).name
        for name in ("model", "task")
        if Path(value := str(getattr(recipe, name))).is_absolute()
    }
    return recipe.model_copy(update=changes)
