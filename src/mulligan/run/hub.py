"""A trained model as a folder for the Hub: weights, tokenizer, model card; and its upload.

Nothing that may be private goes along: only the files that are named here, and the failures, which
hold a task's problems, only where they are asked for.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydantic_core

from mulligan.config import Recipe, as_yaml
from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting.records import read_forgetting
from mulligan.evaluation.results import compute
from mulligan.evaluation.trials import plan_of, read_trials
from mulligan.models.load import ADAPTER_CONFIG, DEFAULT_MODEL
from mulligan.report.table import table_as_json
from mulligan.run.export_model import name_base, write_merged
from mulligan.run.model_card import Base, base_of, model_card
from mulligan.run.session import first_model
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
_OF_THIS_MACHINE: Mapping[str, Any] = {
    "url": "http://localhost:8000/v1",
    "python": "python",
    "arguments": (),
    "api_key_env": None,
    "options": {},
}
"""What stands in a shown recipe for an engine's settings that say where and how it is reached."""


def export(run: RunFolder, recipe: Recipe, folder: Path, with_failures: bool = False) -> list[Path]:
    """Write what the Hub gets into a folder, and return its files.

    Args:
        run: a run whose training has ended.
        recipe: its recipe.
        folder: made here; it must not exist.
        with_failures: whether the stored failures are included, problems and answers in full.

    Raises:
        MulliganError: the run is in training, the folder exists, or the run stored no failures.
    """
    checkpoint = trained_model(run, recipe)
    shown, base = shown_recipe(recipe), base_of(recipe.model)
    failures = run.newest_round.failures
    if folder.exists():
        raise MulliganError(f"{folder} exists already. Delete it, or name another folder.")
    if with_failures and not failures.is_file():
        raise MulliganError(f"{run.path} has stored no failures: leave out --with-failures.")
    with whole_folder(folder) as building:
        _write_model(checkpoint, run, recipe, base, building)
        is_adapter = (building / ADAPTER_CONFIG).is_file()
        card = model_card(run, shown, base, is_adapter=is_adapter)
        (building / "README.md").write_text(card, encoding="utf-8")
        (building / "recipe.yaml").write_text(as_yaml(shown), encoding="utf-8")
        results = pydantic_core.to_json(_results(run, recipe), indent=1)
        (building / "results.json").write_bytes(results + b"\n")
        if with_failures:
            shutil.copyfile(failures, building / "failures.jsonl")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def push(folder: Path, name: str, *, private: bool, overwrite: bool) -> str:
    """Upload a folder to the Hub, and return the address of the model.

    Raises:
        MulliganError: the name exists and may not be overwritten, or is public where ``private``
            is asked for; or the Hub refuses.
    """
    from huggingface_hub import HfApi, ModelCard

    api = HfApi()
    try:
        exists = api.repo_exists(name)
        if exists and not overwrite:
            raise MulliganError(
                f"{name} exists on the Hub. Give another name, or --overwrite to add to it."
            )
        if exists and private and not api.repo_info(name).private:
            raise MulliganError(
                f"{name} exists on the Hub and is public: an upload with --private does not change "
                "that. Give another name, or make it private in its settings first."
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


def _write_model(
    checkpoint: Path, run: RunFolder, recipe: Recipe, base: Base, folder: Path
) -> None:
    """Write weights and tokenizer; an adapter goes alone where the Hub has the base it belongs to.

    After a warm-up, or from a folder of this machine, nobody else has that base: it is merged.
    """
    is_adapter = (checkpoint / ADAPTER_CONFIG).is_file()
    if is_adapter and (recipe.sft or base.hub_id is None or recipe.model == DEFAULT_MODEL):
        write_merged(checkpoint, first_model(run, recipe), recipe.dtype, folder)
        return
    for path in _model_files(checkpoint):
        shutil.copyfile(path, folder / path.name)
    if is_adapter and base.hub_id is not None:
        name_base(folder, base.hub_id)


def _model_files(checkpoint: Path) -> list[Path]:
    found = {path for pattern in MODEL_FILES for path in checkpoint.glob(pattern)}
    return sorted(path for path in found if not path.name.startswith(_NOT_FOR_THE_HUB))


def _results(run: RunFolder, recipe: Recipe) -> dict[str, Any]:
    trials = read_trials(run.path)
    forgotten = read_forgetting(run.forgetting)
    made = compute(trials, plan_of(recipe.evaluate.model_dump()))
    return table_as_json(made) | ({"forgetting": asdict(forgotten)} if forgotten else {})


def shown_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe without what is this machine's own: folders, and how to reach a server."""
    shown = {
        "model": _name_of_path(recipe.model),
        "task": _name_of_path(recipe.task),
        "task_options": _without_folders(recipe.task_options),
        "engine": recipe.engine.model_copy(
            update={
                name: value
                for name, value in _OF_THIS_MACHINE.items()
                if getattr(recipe.engine, name, None)
            }
        ),
        "collect": recipe.collect.model_copy(
            update={"store": _without_folders(recipe.collect.store)}
        ),
        "train": recipe.train.model_copy(
            update={
                "reward": _name_of_path(recipe.train.reward),
                "reward_options": _without_folders(recipe.train.reward_options),
            }
        ),
    }
    return recipe.model_copy(update=shown)


def _without_folders(value: Any) -> Any:
    """Return plain values with the name alone of every path in them."""
    if isinstance(value, str):
        return _name_of_path(value)
    if isinstance(value, Mapping):
        return {name: _without_folders(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_without_folders(each) for each in value]
    return value


def _name_of_path(text: str) -> str:
    """Return the last part of a text that is a path of this machine, and other texts as they are.

    A Hub id has a slash too, and is no path unless there is such a folder.
    """
    begins_as_path = text.startswith(("/", "~/", "./", "../"))
    exists = "/" in text and os.path.exists(text)  # noqa: PTH110  # Path's raises for long texts
    return Path(text).name if begins_as_path or exists else text
