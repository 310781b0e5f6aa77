import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.episodes.failures import (
    FailureStore,
    batch_positions,
    failure_id,
    find_failures,
    permuted,
)
from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.storage.records import encode
from mulligan.types import Attempt, Completion, Failure, Problem, Sampling, Verdict

SAMPLING = Sampling(0.9, 24)
PROBLEM = Problem.create(
    "Make 8 from 13 and 5.", {"numbers": [13, 5], "target": 8}, reference="13 - 5"
)


def failure(number):
    return Failure(
        failure_id(PROBLEM.id, number, "tiny", SAMPLING),
        Attempt(
            PROBLEM,
            prompt_ids=tuple(range(100)),
            completion=Completion((5, 7, 2), f"{number} + 5", "stop", (-0.5, -0.25, -1e-9)),
            verdict=Verdict.wrong("missed_target"),
            sample=number,
        ),
        "tiny",
        SAMPLING,
    )


def write_store(path, count):
    """Write many failures fast: only the id differs from line to line, but for the last."""
    line = encode(failure(0))
    own_id = failure(0).id.encode()
    with path.open("wb") as file:
        for number in range(count - 1):
            file.write(line.replace(own_id, b"%016x" % number, 1))
    with FailureStore(path) as store:
        store.append(failure(1))  # who writes keeps an index
    return len(line)


def bytes_read():
    """All bytes that this process has read from files so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_failures_are_found_by_their_ids(tmp_path):
    with FailureStore(tmp_path / "failures.jsonl") as store:
        for number in range(5):
            store.append(failure(number))
    wanted = {failure(3).id, failure(1).id}
    found = find_failures(tmp_path / "failures.jsonl", wanted)
    assert found == {failure(number).id: failure(number) for number in (1, 3)}


def test_a_stored_failure_comes_back_equal(tmp_path):
    with FailureStore(tmp_path / "failures.jsonl") as store:
        assert store.append(failure(1))
        assert store.append(failure(2))
    with FailureStore(tmp_path / "failures.jsonl") as store:
        assert list(store) == [failure(1), failure(2)]
        assert store[1] == failure(2)
        assert failure(2).id in store
        assert failure(3).id not in store


def test_the_same_failure_is_stored_once(tmp_path):
    with FailureStore(tmp_path / "failures.jsonl") as store:
        assert store.append(failure(1))
        assert not store.append(failure(1))
        assert len(store) == 1


def test_an_id_depends_on_problem_sample_model_and_settings():
    ids = {
        failure_id("p", 0, "m", SAMPLING),
        failure_id("q", 0, "m", SAMPLING),
        failure_id("p", 1, "m", SAMPLING),
        failure_id("p", 0, "n", SAMPLING),
        failure_id("p", 0, "m", Sampling(0.9, 24, seed=1)),
    }
    assert len(ids) == 5
    # Fixed for good: stores of earlier runs must go on being recognised.
    assert failure_id("p", 0, "m", SAMPLING) == "f12a3e8869c88120"


def test_a_store_in_which_nothing_failed_is_refused(tmp_path):
    store = FailureStore(tmp_path / "failures.jsonl")
    with pytest.raises(MulliganError, match=r"Nothing failed: .*Collect from more problems"):
        store.require(8)


def test_fewer_failures_than_a_batch_are_refused_with_both_numbers(tmp_path):
    with FailureStore(tmp_path / "failures.jsonl") as store:
        for number in range(3):
            store.append(failure(number))
        with pytest.raises(MulliganError, match="holds 3, and a batch takes 8"):
            store.batch(seed=0, step=0, size=8)
        store.require(3)


def test_a_batch_is_made_of_the_failures_at_its_positions(tmp_path):
    with FailureStore(tmp_path / "failures.jsonl") as store:
        for number in range(10):
            store.append(failure(number))
        batch = store.batch(seed=7, step=2, size=4)
    assert batch == [failure(int(number)) for number in batch_positions(10, 7, 2, 4)]


def test_batches_are_fixed_for_good():
    # A run that is resumed with a later version must see the same failures.
    assert batch_positions(10, 7, 2, 4).tolist() == FIXED_SMALL
    assert batch_positions(1_000_000, 7, 12_345, 4).tolist() == FIXED_LARGE


FIXED_SMALL = [9, 8, 5, 6]
FIXED_LARGE = [561455, 613961, 742767, 37610]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_epoch_sees_everything_once_and_no_batch_anything_twice(data):
    count = data.draw(st.integers(1, 60))
    size = data.draw(st.integers(1, count))
    seed = data.draw(st.integers(0, 2**62))
    steps = 5 * count // size + 1
    batches = [batch_positions(count, seed, step, size).tolist() for step in range(steps)]
    assert all(len(set(batch)) == size for batch in batches)
    seen = [position for batch in batches for position in batch]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(batch_positions(20, seed, step, 20)) for seed in range(5) for step in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000, 4096, 4097, 10_001, 65_537])
def test_a_permutation_reaches_every_place_once(count):
    assert sorted(permuted(np.arange(count), count, seed=3).tolist()) == list(range(count))


def chi_square(table, expected):
    return float(((table - expected) ** 2 / expected).sum())


def test_every_thing_is_equally_likely_at_every_place():
    count, seeds = 10, 3000
    table = np.zeros((count, count))
    for seed in range(seeds):
        table[
            np.arange(count), permuted(np.arange(count), count, derive_seed(seed)).astype(int)
        ] += 1
    # 81 degrees of freedom: mean 81, standard deviation 12.7; 150 is 5.4 of them away.
    assert chi_square(table, seeds / count) < 150


def test_every_part_of_a_large_store_is_equally_likely_in_every_part_of_an_epoch():
    count, table = 100_000, np.zeros((10, 10))
    for seed in range(5):
        things = permuted(np.arange(count), count, derive_seed(seed)).astype(int)
        np.add.at(table, (np.arange(count) * 10 // count, things * 10 // count), 1)
    assert chi_square(table, 5 * count / 100) < 150


@pytest.mark.parametrize("count", [4000, 40_000])
def test_neighbours_in_the_store_do_not_stay_neighbours(count):
    order = permuted(np.arange(count), count, seed=0).astype(int)
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.1
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01


def test_reading_and_sampling_take_memory_and_reads_that_do_not_grow_with_the_store(tmp_path):
    path = tmp_path / "failures.jsonl"
    line = write_store(path, 40_000)
    tracemalloc.start()
    with FailureStore(path) as store:
        assert len(store) == 40_000
        before = bytes_read()
        assert len(store.batch(seed=0, step=1234, size=16)) == 16
        # Opening scans what the index does not cover yet; sampling reads its own lines.
        assert bytes_read() - before < 32 * line
        for _ in zip(store, range(2000), strict=False):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000  # bytes; the store itself has 35 MB


MEASURE = """
import resource, sys, time
from pathlib import Path
from mulligan.episodes.failures import FailureStore

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def read():
    return int(Path("/proc/self/io").read_text().split()[1])

start = peak()
with FailureStore(Path(sys.argv[1])) as store:
    opened = time.monotonic(); before = read()
    for step in range(100):
        store.batch(seed=0, step=step, size=8)
    seconds = time.monotonic() - opened; sampled = read() - before
    print(len(store), sum(1 for _ in store), peak() - start, sampled, seconds)
"""


@pytest.mark.slow
def test_a_million_failures_are_read_in_constant_memory_and_sampled_without_reading_them(tmp_path):
    path = tmp_path / "failures.jsonl"
    line = write_store(path, 1_000_000)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    count, streamed, memory, sampled, seconds = map(float, result.stdout.split())
    assert count == streamed == 1_000_000
    assert memory < 40_000_000  # bytes; the file has about 900 MB, its mapped index 16 MB
    assert sampled < 100 * 8 * line * 1.1
    assert seconds < 5
