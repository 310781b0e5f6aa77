"""The demo's own recipe, from which the evaluation and the warm-up benchmark take their work."""

from collections.abc import Sequence
from pathlib import Path

from mulligan.config import Recipe, load_recipe

_RECIPE = Path(__file__).parents[1] / "src" / "mulligan" / "recipes" / "demo.yaml"


def demo_recipe(overrides: Sequence[str] = ()) -> Recipe:
    """Return the demo's recipe, changed in some settings."""
    return load_recipe(_RECIPE, overrides)
