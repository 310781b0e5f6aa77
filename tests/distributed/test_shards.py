import json

import pytest
import torch
from launching import passes_of_two, what_two_left
from safetensors.torch import load_file
from shards import CASES, LORA, updates
from shares import difference

from mulligan.interrupt import StoppedEarly
from mulligan.trainer.distributed import ALONE
from training_bench import Bench


@pytest.fixture(scope="module")
def bench(tiny_llama, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("shards"), tiny_llama)


@pytest.fixture(scope="module")
def one(bench):
    """What one process computes, by names."""
    bench.train("one")
    bench.train("one-lora", *LORA)
    with pytest.raises(StoppedEarly):
        bench.train("one-then-two", "train.stop_after=2")
    with passes_of_two():
        return updates(ALONE)


@pytest.fixture(scope="module")
def two(bench, one):
    """What each of two processes with a shard computed and said."""
    return what_two_left("shards.py", bench)


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_weights_of_two_shards_are_those_of_one_process(one, two, case):
    for tensors, _ in two:
        assert difference(one[0], tensors, f"{case}: ") < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_what_an_update_says_is_the_same_in_each_process_and_for_one(one, two, case):
    first, second = (numbers[case] for _, numbers in two)
    assert repr(first) == repr(second)
    alone = one[1][case]
    for name in ("loss", "gradient_norm"):
        assert first[name] == pytest.approx(alone[name], abs=1e-6, nan_ok=True)
    assert first == pytest.approx(alone, rel=1e-5, abs=1e-6, nan_ok=True)
    assert first["applied"] == ("finite" not in case)


def test_the_gathered_shards_are_equal_bit_for_bit_in_each_process(two):
    (first, _), (second, _) = two
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mistake", ["averaged", "local normaliser"])
def test_an_average_or_a_normaliser_of_its_own_in_each_process_would_be_found_out(
    one, two, mistake
):
    wrong = {
        name.removeprefix(f"{mistake}: "): tensor
        for name, tensor in two[0][0].items()
        if name.startswith(f"{mistake}: gradient 1")
    }
    right = {name: one[0][f"all weights: {name}"] for name in wrong}
    assert difference(right, wrong, "gradient 1") > 1e-3


def sampled(bench, name):
    kept = ("step", "failure_id", "sample", "reward", "advantage", "reflection", "retry")
    return [{key: each[key] for key in each if key in kept} for each in bench.episodes(name)]


@pytest.mark.parametrize(("shards", "whole"), [("two", "one"), ("two-lora", "one-lora")])
def test_an_engine_with_gathered_weights_samples_what_one_process_does_token_by_token(
    bench, two, shards, whole
):
    assert sampled(bench, shards) == sampled(bench, whole)
    assert [each["step"] for each in bench.metrics(shards)] == [1, 2, 3, 4]
    for pair in zip(bench.metrics(shards), bench.metrics(whole), strict=True):
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)


def checkpoint(bench, name):
    return bench.folder / name / "checkpoints" / "step-4"


def final(bench, name, file="model.safetensors"):
    return load_file(checkpoint(bench, name) / file)


@pytest.mark.parametrize(("shards", "whole"), [("two", "one"), ("two-lora", "one-lora")])
def test_a_checkpoint_of_shards_has_the_one_format_there_is(bench, two, shards, whole):
    ours, theirs = checkpoint(bench, shards), checkpoint(bench, whole)
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    for file in theirs.glob("*.safetensors"):
        found, expected = load_file(ours / file.name), load_file(file)
        assert found.keys() == expected.keys()
        assert all(found[name].dtype == expected[name].dtype for name in found)
        same = {name for name in found if not name.startswith("random.")}
        assert max((found[name] - expected[name]).abs().max() for name in same) < 1e-5
    for name in ("config.json", "tokenizer.json", "adapter_config.json"):
        if (theirs / name).exists():
            assert settings(ours / name) == settings(theirs / name)


def settings(file):
    """What a file of settings says; peft writes a set in any order."""
    read = json.loads(file.read_text())
    return read | {"target_modules": sorted(read.get("target_modules", []))}


def test_what_one_process_saved_two_shards_go_on_with(bench, two):
    assert difference(final(bench, "one"), final(bench, "one-then-two"), "") < 1e-5


@pytest.mark.parametrize(
    ("file", "kind", "overrides"),
    [("model.safetensors", "", ()), ("adapter_model.safetensors", "-lora", LORA)],
)
def test_what_two_shards_saved_one_process_goes_on_with(bench, two, file, kind, overrides):
    name = f"two-then-one{kind}"
    assert len(bench.metrics(name)) == 2
    bench.train(name, *overrides)
    assert difference(final(bench, f"one{kind}", file), final(bench, name, file), "") < 1e-5


def test_two_shards_that_stopped_go_on_bit_for_bit(bench, two):
    assert bench.written("two-then-two") == bench.written("two")
