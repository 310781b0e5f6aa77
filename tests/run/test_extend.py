import json

import pytest
import yaml

from tiny import lines, run_cli, write_recipe

CONSTANT = {"train__schedule": "constant", "train__warmup_ratio": 0.0, "sft": None}


def run(folder, model, *overrides, code=0, **changes):
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, model, **(CONSTANT | changes))
    outcome = run_cli("run", recipe, *overrides, "--runs", folder, "--resume")
    assert outcome.code == code, outcome.err + outcome.out
    return folder / "tiny", outcome


@pytest.fixture(scope="module")
def four_steps(tiny_llama, tmp_path_factory):
    return run(tmp_path_factory.mktemp("four"), tiny_llama)[0]


def test_a_finished_run_with_more_steps_ends_as_one_that_had_them_from_the_start(
    four_steps, tiny_llama, tmp_path
):
    two, _ = run(tmp_path, tiny_llama, train__steps=2)
    after_two = (two / "evaluation" / "after.jsonl").read_bytes()
    extended, outcome = run(tmp_path, tiny_llama, train__steps=4)
    for name in (
        "metrics.jsonl",
        "episodes.jsonl",
        "evaluation/after.jsonl",
        "checkpoints/step-4/model.safetensors",
        "checkpoints/step-4/training_state.safetensors",
        "checkpoints/best.json",
        "stages.json",
    ):
        assert (extended / name).read_bytes() == (four_steps / name).read_bytes(), name
    assert (extended / "evaluation" / "after-2-steps.jsonl").read_bytes() == after_two
    config = yaml.safe_load((extended / "config.yaml").read_text())
    assert config["train"]["steps"] == 4
    assert config["made_with"]["format"]
    assert outcome.out.count("already done") == 3  # warm-up, collecting, evaluating before
    _, outcome = run(tmp_path, tiny_llama, train__steps=4)
    assert outcome.out.count("already done") == 5


def test_a_kill_in_the_middle_of_extending_leaves_a_run_that_is_extended_again(
    four_steps, tiny_llama, tmp_path
):
    two, _ = run(tmp_path, tiny_llama, train__steps=2)
    (two / "evaluation" / "after.jsonl").rename(two / "evaluation" / "after-2-steps.jsonl")
    (two / "stages.json").write_text(json.dumps(["warmup", "collect", "evaluate-before"]))
    run(tmp_path, tiny_llama, train__steps=4)
    assert lines(two / "metrics.jsonl") == lines(four_steps / "metrics.jsonl")


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"train__schedule": "cosine"}, [], "train.steps: 4 -> 8 (the cosine schedule spans all"),
        ({"train__average_from": 0.5}, [], "the mean of its weights"),
        (
            {"train__warmup_ratio": 0.25},
            [],
            "take 2 steps instead of 1; add train.warmup_ratio=0.0625 to keep",
        ),
        ({}, ["seed=1"], "seed: 0 -> 1"),
    ],
)
def test_more_steps_are_refused_with_the_reason_where_earlier_ones_would_change(
    tiny_llama, tmp_path, changes, more, says
):
    assert (
        run_cli(
            "collect",
            write_recipe(tmp_path, tiny_llama, **(CONSTANT | changes)),
            "--runs",
            tmp_path,
        ).code
        == 0
    )
    outcome = run_cli("train", tmp_path / "tiny", "train.steps=8", *more)
    assert outcome.code == 1
    assert says in " ".join(outcome.err.split())
    assert yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["train"]["steps"] == 4


def test_a_warm_up_kept_by_its_ratio_lets_a_run_be_longer(tiny_llama, tmp_path):
    changes = CONSTANT | {"train__warmup_ratio": 0.25}
    run_cli("collect", write_recipe(tmp_path, tiny_llama, **changes), "--runs", tmp_path)
    longer = ["train.steps=8", "train.warmup_ratio=0.0625", "train.stop_after=1"]
    outcome = run_cli("train", tmp_path / "tiny", *longer)
    assert outcome.code == 130, outcome.err
    train = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["train"]
    assert (train["steps"], train["warmup_ratio"], train["stop_after"]) == (8, 0.0625, None)


def test_fewer_steps_are_refused(tiny_llama, tmp_path):
    run_cli("collect", write_recipe(tmp_path, tiny_llama, **CONSTANT), "--runs", tmp_path)
    outcome = run_cli("train", tmp_path / "tiny", "train.steps=3")
    assert outcome.code == 1
    assert "train.steps: 4 -> 3" in outcome.err
