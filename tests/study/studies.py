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


def write_study(folder, model="unused", recipe=None, **changes):
    """Write the tiny study and its recipe; a change to None leaves a name out."""
    write_recipe(folder, model, **(recipe or {}))
    study = {name: value for name, value in (STUDY | changes).items() if value is not None}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def kept(runs):
    """Every small file of a study's finished runs, less what the clock made."""
    folder = runs / "tiny_study" / "results"
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name.endswith(".rows.json")
    }
