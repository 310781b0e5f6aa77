from pathlib import Path

import pytest

import mulligan
from mulligan.config import load_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
SHIPPED = Path(mulligan.__file__).parent / "recipes"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    assert load_recipe(path).train.steps > 0


def test_every_recipe_is_shipped_with_the_package():
    assert sorted(path.name for path in SHIPPED.glob("*.yaml")) == [p.name for p in RECIPES]
    assert "demo.yaml" in {path.name for path in RECIPES}


def test_recipes_write_to_folders_of_their_own():
    names = [load_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names)
