"""What a report and a look at episodes cost in a run of the paper's size, made by a script.

python tests/report/test_large_run.py FOLDER makes the run and says what both took.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mulligan.storage.episode_log import open_episodes
from mulligan.storage.records import encode
from mulligan.types import (
    Attempt,
    Completion,
    Episode,
    Failure,
    Problem,
    Sampling,
    TrainedEpisode,
    Verdict,
)

STEPS, EPISODES_PER_STEP, FAILURES = 31_250, 64, 1_000_000
GIB = 2**30
MEASURE = """
import json, resource, sys, time
from mulligan.cli import main
started = time.monotonic()
try:
    main()
except SystemExit as left:
    assert not left.code
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([time.monotonic() - started, memory]), file=sys.stderr)
"""


def make_large_run(folder: Path) -> Path:
    """A run of two million episodes and a million failures, as training would leave it."""
    from synthetic_run import make_run, metrics, timings, write_lines

    run = make_run(folder, problems=2000)
    write_lines(run / "metrics.jsonl", metrics(STEPS, seed=0))
    write_lines(run / "timings.jsonl", timings(STEPS))
    said = Completion(
        tuple(range(300)), "The sum is too small, so I have to multiply. " * 25, "stop"
    )
    problem = Problem.create("Use the numbers 13 and 5 to make 8.", {"target": 8})
    attempt = Attempt(problem, tuple(range(100)), said, Verdict.wrong())
    failure = encode(Failure("f" * 16, attempt, "tiny", Sampling(0.9, 300)))
    with (run / "failures.jsonl").open("wb") as file:
        for number in range(FAILURES):
            file.write(failure.replace(b"f" * 16, b"%016x" % number, 1))
    episode = Episode("f" * 16, 0, said, said, Verdict.right())
    line = encode(TrainedEpisode.of(12345, episode, 1.0, 0.5))
    with (run / "episodes.jsonl").open("wb") as file:
        for number in range(STEPS * EPISODES_PER_STEP):
            step, at = divmod(number, EPISODES_PER_STEP)
            own = b"%016x" % ((step * 8 + at // 8) % FAILURES)
            own_line = line.replace(b"12345", b"%d" % (step + 1), 1).replace(b"f" * 16, own, 1)
            file.write(own_line.replace(b'"sample":0', b'"sample":%d' % (at % 8), 1))
    with open_episodes(run / "episodes.jsonl") as log:  # who writes keeps an index
        log.append(TrainedEpisode.of(STEPS, replace(episode, failure_id=f"{7:016x}"), 1.0, 0.5))
    return run


def cost(*command: object) -> tuple[float, float, str]:
    """Run a command in a process of its own; return seconds, peak bytes and what it said."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, memory = json.loads(ended.stderr.splitlines()[-1])
    return seconds, memory, ended.stdout


@pytest.mark.slow
def test_a_run_of_two_million_episodes_is_reported_and_shown_within_a_minute_and_a_gib(tmp_path):
    run = make_large_run(tmp_path / "large")
    assert sum(1 for _ in (run / "episodes.jsonl").open("rb")) == 2_000_001
    assert (run / "episodes.jsonl").stat().st_size < 10e9
    seconds, memory, _ = cost("report", run)
    assert seconds < 60
    assert memory < GIB
    assert (run / "report.html").stat().st_size < 20e6  # a browser has to show it
    seconds, memory, said = cost("show", run)
    assert said.count("reflection") == 3
    assert seconds < 60
    assert memory < GIB


if __name__ == "__main__":
    made = make_large_run(Path(sys.argv[1]))
    for name in ("report", "show"):
        took, peak, _ = cost(name, made)
        print(f"{name}: {took:.1f} s, {peak / 2**20:.0f} MiB")  # noqa: T201
    for file in sorted(made.glob("*.*")):
        print(f"{file.name}: {file.stat().st_size / 1e6:,.1f} MB")  # noqa: T201
