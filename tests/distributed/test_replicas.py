import signal
import time
from pathlib import Path

import pytest
import torch
from launching import ends, passes_of_two, start, what_two_left
from safetensors.torch import load_file
from shares import BATCHES, difference, updates

from mulligan.interrupt import StoppedEarly
from mulligan.trainer.distributed import ALONE
from tiny import lines
from training_bench import Bench


@pytest.fixture(scope="module")
def bench(tiny_llama, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("replicas"), tiny_llama)


@pytest.fixture(scope="module")
def one(bench):
    """What one process computes, by names."""
    bench.train("one")
    with pytest.raises(StoppedEarly):
        bench.train("one-then-two", "train.stop_after=2")
    with passes_of_two():
        return updates(ALONE)


@pytest.fixture(scope="module")
def two(bench, one):
    """What each of two processes computed and said."""
    return what_two_left("shares.py", bench)


@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_and_weights_of_two_processes_are_those_of_one(one, two, batch):
    for tensors, _ in two:
        assert difference(one[0], tensors, f"{batch}: ") < 1e-6


@pytest.mark.parametrize("batch", BATCHES)
def test_what_an_update_says_is_the_same_in_each_process_and_for_one(one, two, batch):
    first, second = (said["numbers"][batch] for _, said in two)
    assert repr(first) == repr(second)
    alone = one[1][batch]
    for name in ("loss", "gradient_norm"):
        assert first[name] == pytest.approx(alone[name], abs=1e-6, nan_ok=True)
    assert first == pytest.approx(alone, rel=1e-5, abs=1e-6, nan_ok=True)
    assert first["applied"] == ("finite" not in batch)


def test_a_step_that_one_process_cannot_take_is_taken_by_none(two):
    for tensors, _ in two:
        broken = [name for name in tensors if name.startswith("a loss that is not finite: ")]
        assert broken
        assert not any("gradient" in name for name in broken)


def test_the_processes_stay_equal_bit_for_bit(two):
    (first, _), (second, _) = two
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_normaliser_of_its_own_in_each_process_would_be_found_out(one, two):
    tensors = {name.replace("local normaliser", "ragged"): t for name, t in two[0][0].items()}
    wrong = {
        name.replace("local normaliser", "ragged"): tensor
        for name, tensor in two[0][0].items()
        if name.startswith("local normaliser: gradient 1")
    }
    right = {name: one[0][name] for name in wrong}
    assert tensors.keys() >= wrong.keys()
    assert difference(right, wrong, "ragged: ") > 1e-3


def metrics(bench, name):
    return [
        {key: value for key, value in line.items() if isinstance(value, (int, float))}
        for line in bench.metrics(name)
    ]


def test_rollouts_of_two_processes_are_those_of_one_token_by_token(bench, two):
    def sampled(name):
        kept = ("step", "failure_id", "sample", "reward", "advantage")
        return [
            {key: each[key] for key in each if key in kept or key in ("reflection", "retry")}
            for each in bench.episodes(name)
        ]

    assert sampled("two") == sampled("one")
    for pair in zip(metrics(bench, "two"), metrics(bench, "one"), strict=True):
        assert pair[0] == pytest.approx(pair[1], abs=1e-5)


def test_each_record_is_written_once(bench, two):
    assert [line["step"] for line in bench.metrics("two")] == [1, 2, 3, 4]
    keys = [(e["step"], e["failure_id"], e["sample"]) for e in bench.episodes("two")]
    assert len(keys) == len(set(keys)) > 0
    assert len(lines(bench.folder / "two" / "timings.jsonl")) == 4


def final(bench, name):
    return load_file(bench.folder / name / "checkpoints" / "step-4" / "model.safetensors")


def test_what_one_process_saved_two_go_on_with(bench, two):
    assert difference(final(bench, "one"), final(bench, "one-then-two"), "") < 1e-5
    saved = final(bench, "one-then-two")
    for tensors, _ in two:
        assert all(torch.equal(saved[name], tensors[f"one-then-two: {name}"]) for name in saved)


def test_what_two_processes_saved_one_goes_on_with(bench, two):
    assert len(bench.metrics("two-then-one")) == 2
    bench.train("two-then-one")
    assert difference(final(bench, "one"), final(bench, "two-then-one"), "") < 1e-5


def test_two_processes_that_stopped_go_on_bit_for_bit(bench, two):
    assert bench.written("two-then-two") == bench.written("two")


def test_a_stop_asked_of_one_process_stops_all_after_the_same_step(two):
    assert [said["stopped"] for _, said in two] == ["step 1 of 4"] * 2


def test_where_one_process_finds_a_path_wrong_no_process_takes_it(two):
    assert [said["path"] for _, said in two] == ["plain"] * 2


def test_other_weights_in_one_process_are_named_before_anything_is_saved(two):
    for _, said in two:
        assert said["unequal"].startswith("The weights of process 1 of 2 (pid ")


@pytest.mark.parametrize(
    ("killed", "where"), [(1, "in a message"), (1, "in a sharded pass"), (0, "at work")]
)
def test_a_process_that_is_killed_ends_the_others_with_its_name(killed, where):
    begun = time.monotonic()
    done = ends(start("dying.py", killed, where), seconds=60)
    assert done[killed][0] == -signal.SIGKILL
    status, text = done[1 - killed]
    assert status == 1, text
    assert f"Process {killed} of 2 (pid " in text
    assert time.monotonic() - begun < 60


def test_a_process_that_is_held_up_for_longer_is_waited_for():
    started = start("dying.py", 1, "held up")
    stat = Path(f"/proc/{started[1].pid}/stat")
    try:
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.1)
        time.sleep(3)  # twice as long as may pass without a sign of life
        assert started[0].poll() is None
        started[1].send_signal(signal.SIGCONT)
    finally:
        done = ends(started, seconds=60)
    assert [status for status, _ in done] == [0, 0], "\n".join(text for _, text in done)
