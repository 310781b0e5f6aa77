"""The demo's recipe on the real model in two processes: minutes, and 8 GB of memory."""

import shutil
from pathlib import Path

import pytest
from demo_step import GRADIENT, note_gradient, read_rollout
from launching import ends, start
from safetensors.torch import load_file

import mulligan
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy
from mulligan.objectives.objective import make_objective
from mulligan.run.session import recipe_of
from mulligan.storage.run_folder import RunFolder
from mulligan.trainer.update import make_updater
from tiny import lines, run_cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FEW = ["collect.problems=64", "train.steps=2", "device=cpu", "probe=false"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The demo's run, warmed up, with failures to learn from."""
    folder = tmp_path_factory.mktemp("demo")
    recipe = Path(mulligan.__file__).parent / "recipes" / "demo.yaml"
    outcome = run_cli("collect", recipe, *FEW, "--runs", folder)
    assert outcome.code == 0, outcome.err
    return folder / "demo"


@pytest.mark.parametrize("shard", ["false", "true"])
def test_gradients_of_two_processes_are_those_of_one_on_the_same_rollouts(begun, tmp_path, shard):
    run = RunFolder(tmp_path / "demo")
    shutil.copytree(begun, run.path)
    command = ["train", run.path, f"train.shard={shard}"]
    done = ends(start("demo_step.py", tmp_path, *command), seconds=3000)
    assert [status for status, _ in done] == [0, 0], "\n".join(text for _, text in done)
    assert [line["step"] for line in lines(run.metrics)] == [1, 2]

    recipe = recipe_of(run)
    policy = FullPolicy(load_model(str(run.warmed_up), "float32", "cpu")[0])
    updater = make_updater(policy, make_objective(recipe).loss, recipe)
    gradient = note_gradient(updater)
    cut = GroupScorer.streams
    with pytest.MonkeyPatch.context() as patch:  # into the passes that two processes make
        patch.setattr(GroupScorer, "streams", lambda own, groups, shares: cut(own, groups, 2))
        updater.update(read_rollout(tmp_path))

    found = load_file(tmp_path / GRADIENT)
    assert found.keys() == gradient.keys()
    norm = sum(each.double().square().sum() for each in gradient.values()).sqrt()
    apart = sum((found[name] - each).double().square().sum() for name, each in gradient.items())
    print(f"train.shard={shard}: gradients differ by {apart.sqrt() / norm:.1e} of their norm")  # noqa: T201
    assert norm > 0
    assert apart.sqrt() < 1e-5 * norm
