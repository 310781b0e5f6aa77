"""Tiny studies, and what they leave."""

from typing import Any

import yaml

from tiny import write_recipe

STUDY: dict[str, Any] = {
    "name": "tiny_study",
    "recipe": "recipe.yaml",
    "arms": {"base": {}, "hot": {"train.learning_rate": 0.01}},
    "seeds": [1, 2],
}


def write_study(folder, model="unused", in_recipe=None, **changes):
    """Write the tiny study and its recipe, with changes in the study and in the recipe."""
    write_recipe(folder, model, **(in_recipe or {}))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


def kept(runs):
    """Every small file of a study's finished runs, less what the clock made."""
    folder = runs / "tiny_study" / "results"
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name.endswith(".rows.json")
    }
