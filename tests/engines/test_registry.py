from importlib.metadata import EntryPoint

import pytest
import torch

from mulligan.engines import registry
from mulligan.engines.base import Abilities
from mulligan.engines.local.engine import LocalEngine
from mulligan.engines.registry import EngineMaker, Surroundings, find_engine
from mulligan.errors import MulliganError
from mulligan.models.load import load_model
from mulligan.types import Sampling


class EchoMaker(EngineMaker):
    abilities = Abilities(token_ids=True, logprobs=False, weights=False, exact=False)

    @staticmethod
    def make(settings, surroundings):
        return settings["options"]


@pytest.fixture
def installed(monkeypatch):
    """Engines that another package would bring."""
    points = [
        EntryPoint("echo", f"{__name__}:EchoMaker", registry.ENTRY_POINT_GROUP),
        EntryPoint("broken", "no_such_module:Maker", registry.ENTRY_POINT_GROUP),
        EntryPoint("function", f"{__name__}:installed", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def test_the_local_engine_generates_in_the_precision_and_memory_that_the_recipe_says(
    tiny_llama, tmp_path
):
    policy, tokenizer = load_model(str(tiny_llama), "float32", "cpu")
    surroundings = Surroundings(policy, tokenizer, "bfloat16", tmp_path)
    engine = find_engine("local").make({"kind": "local", "memory_gib": 1e-7}, surroundings)
    assert isinstance(engine, LocalEngine)
    assert engine.model.dtype == torch.bfloat16
    with pytest.raises(MulliganError, match="Raise memory_gib"):
        engine.generate([(1, 2)], 1, Sampling(0.0, 2))


def test_an_engine_of_another_package_is_found_by_its_entry_point(installed, tmp_path):
    maker = find_engine("echo")
    assert maker.make({"kind": "echo", "options": {"a": 1}}, None) == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("locl", "no engine 'locl'; did you mean 'local'"),
        ("broken", "'broken' .* cannot be imported: ModuleNotFoundError"),
        ("function", "'function' .* should be a class derived from"),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused_by_name(installed, kind, said):
    with pytest.raises(MulliganError, match=said):
        find_engine(kind)
