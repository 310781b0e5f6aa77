import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from mulligan.episodes.epochs import batch_positions
from mulligan.episodes.failures import FailureStore, failure_id, find_failures
from mulligan.errors import MulliganError
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
    assert peak < 3_000_000  # bytes; the store itself has 35 MB, the order of an epoch 0.3 MB


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
    assert (
        memory < 80_000_000
    )  # bytes; the file has 900 MB, its mapped index 16, orders of epochs 8 each
    assert sampled < 100 * 8 * line * 1.1
    assert seconds < 5
