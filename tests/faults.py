"""Kill whole runs at random moments, resume them, and hold their ends against an unkilled run's.

``python -m tests.faults --kills 200`` makes a small real run: a random model of two layers, taught
mini Countdown for a moment so that some retries pass, goes through every stage in float32 on the
CPU. It runs once undisturbed, as the reference. Then it runs again and again, each time killed by
SIGKILL at random moments (any moment, in the middle of a save, while a resumed process is still
loading) and resumed by the same command, until it ends. Checked:

- after each kill: every acknowledged record is there, none twice;
- whenever a checkpoint is picked: it agrees with its manifest;
- at each end: every file but the clock's equals the reference byte for byte, so weights,
  optimiser, random states, failures, episodes, metrics and evaluation rows do; so does the table.

To afford hundreds of starts, torch is imported once and each run is a fork of that process. The
process itself computes nothing, so it has no threads that a fork would lose.
"""

import argparse
import importlib
import json
import mmap
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

NAME = "tiny"
PLACES = (
    "opening",
    "warmup",
    "collect",
    "evaluate-before",
    "train",
    "evaluate-after",
    "report",
    "closing",
)
CLOCK = frozenset({"timings.jsonl", "report.html"})
"""Files that tell the time, in which no two runs agree."""
IDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "warmup.jsonl": lambda row: row["step"],
    "collected.jsonl": lambda row: row["chunk"],
    "failures.jsonl": lambda row: row["id"],
    "metrics.jsonl": lambda row: row["step"],
    "timings.jsonl": lambda row: row["step"],
    "episodes.jsonl": lambda row: (row["step"], row["failure_id"], row["sample"]),
    "dev.jsonl": lambda row: (row["when"], row["problem_id"]),
    "evaluation/before.jsonl": lambda row: (row["problem_id"], row["sample"]),
    "evaluation/after.jsonl": lambda row: (row["problem_id"], row["sample"]),
}
KILLS_A_RUN = (6, 12)
"""Fewest and most kills before a run is left to end by itself."""

TASK = {
    "counts": [2],
    "operators": "+",
    "smallest_number": 1,
    "largest_number": 3,
    "smallest_target": 2,
    "largest_target": 6,
    "test_share": 0.4,
    "test_size": 2,
    "question": "make {target}:{numbers}",
    "answer_share": 0.4,
    "reflection_shares": {"vague": 1.0},
}
RECIPE = {
    "name": NAME,
    "task": "countdown",
    "task_options": TASK,
    "dtype": "float32",
    "device": "cpu",
    "seed": 1,
    "prompts": {"reflect": "?"},
    "generate": {"answer_tokens": 10, "reflection_tokens": 6, "problems_at_once": 2},
    "sft": {"examples": 32, "batch": 4, "learning_rate": 1e-3},
    "collect": {"problems": 4, "attempts": 12},
    "train": {
        "steps": 8,
        "failures": 3,
        "group_size": 4,
        "learning_rate": 1e-3,
        "kl_beta": 0.01,
        "checkpoint_every": 2,
    },
    "evaluate": {"problems": 2, "samples": 3},
}
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


class Violation(Exception):  # noqa: N818 - not a program's error: what was promised did not hold
    """Something that a run promises did not hold."""


class Whereabouts:
    """Memory shared with a run's process: which stage it is in, and whether it wrote a record."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 2)

    def reset(self) -> None:
        self._bytes[:] = b"\0\0"

    def enter(self, place: str) -> None:
        self._bytes[0] = PLACES.index(place)

    def wrote(self) -> None:
        self._bytes[1] = 1

    @property
    def place(self) -> str:
        return PLACES[self._bytes[0]]

    @property
    def has_written(self) -> bool:
        return bool(self._bytes[1])


@dataclass
class Tally:
    """What was done, for the last lines."""

    runs: int = 0
    places: Counter[str] = field(default_factory=Counter)
    in_a_save: int = 0
    in_a_resume: int = 0
    records: int = 0
    picked: int = 0

    @property
    def kills(self) -> int:
        return self.places.total()


@dataclass(frozen=True)
class Attempt:
    """One process that works on a run, started or resumed."""

    runs: Path
    """The folder of run folders."""
    recipe: Path
    where: Whereabouts

    @property
    def run(self) -> Path:
        return self.runs / NAME

    @property
    def notes(self) -> Path:
        """What the processes of this run acknowledged: outside of the run, a line each."""
        return self.runs / "acknowledged"

    @property
    def output(self) -> Path:
        return self.runs / "output.txt"

    def start(self, *, resume: bool) -> int:
        """Start the run in a process of its own; return its id."""
        self.where.reset()
        return forked(lambda: self._work(resume), self.output)

    def _work(self, resume: bool) -> None:
        from mulligan.cli import app

        notes = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        observe(self.run, lambda *words: note(notes, *words), self.where)
        arguments = ["run", str(self.recipe), "--runs", str(self.runs)]
        app([*arguments, *(["--resume"] if resume else [])], standalone_mode=False)


def note(descriptor: int, *words: str) -> None:
    os.write(descriptor, "\t".join(words).encode() + b"\n")


def observe(run: Path, write: Callable[..., None], where: Whereabouts) -> None:
    """Have this process tell what it acknowledges, which checkpoints it picks, and its stage."""
    from mulligan.run import stages
    from mulligan.storage.checkpoint import Checkpoints, verify
    from mulligan.storage.records import RecordLog, encode

    append, newest = RecordLog.append, Checkpoints.newest

    def telling_append(log: Any, record: Any) -> bool:
        written = append(log, record)
        if written:
            name = log.path.relative_to(run).as_posix()
            write("record", name, sha256(encode(record)).hexdigest())
            where.wrote()
        return written

    def telling_newest(checkpoints: Any) -> int | None:
        step = newest(checkpoints)
        if step is not None:
            verify(checkpoints.path(step))
            write("picked", checkpoints.path(step).name)
        return step

    def telling(stage: Any) -> Callable[[Any], None]:
        def work(session: Any) -> None:
            where.enter(stage.name)
            stage.run(session)
            if stage.name == "report":
                where.enter("closing")

        return work

    RecordLog.append = telling_append  # type: ignore[method-assign]
    Checkpoints.newest = telling_newest  # type: ignore[method-assign]
    stages.STAGES = tuple(replace(each, run=telling(each)) for each in stages.STAGES)


def forked(work: Callable[[], None], output: Path) -> int:
    """Run some work in a fork of this process, its output going to a file; return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(sink, stream)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def has_ended(child: int) -> bool:
    """Whether a process has ended, without reaping it."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child, flags) is not None


def computed(child: int) -> float:
    """Return the seconds that a process has computed, so that a busy machine changes nothing."""
    clock = (~child << 3) | 2  # as clock_getcpuclockid of the C library names it
    return time.clock_gettime(clock)


def wait_for(child: int, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Wait until a process has computed for a while, or something holds; return if it lives."""
    deadline = computed(child) + seconds
    while computed(child) < deadline and not until():
        if has_ended(child):
            return False
        time.sleep(0.0005)
    return not has_ended(child)


def leftovers(run: Path) -> list[Path]:
    """Folders that a process was building or removing when it was killed."""
    return [*run.glob(".*.partial"), *run.glob("checkpoints/.*.partial")]


def wait_to_kill(child: int, run: Path, span: float, rng: random.Random) -> bool:
    """Wait for a random moment of a random kind; return whether the process still lives."""
    kind = rng.choices(("any moment", "a save", "a resume"), (5, 3, 2))[0]
    if kind == "a resume":
        return wait_for(child, rng.uniform(0, 0.1 * span))
    if kind == "any moment":
        return wait_for(child, rng.uniform(0, 0.7 * span))
    if not wait_for(child, rng.uniform(0, 0.5 * span)):
        return False
    return wait_for(child, span, lambda: bool(leftovers(run))) and wait_for(
        child, rng.uniform(0, 0.02)
    )


def killed_and_resumed(attempt: Attempt, span: float, rng: random.Random, tally: Tally) -> None:
    """Take one run to its end through kills, checking after each."""
    kills = rng.randint(*KILLS_A_RUN)
    resumed = False
    while True:
        child = attempt.start(resume=resumed)
        if kills and wait_to_kill(child, attempt.run, span, rng):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        check_records(attempt)
        if code == 0:
            return
        if code != -signal.SIGKILL:
            raise Violation(
                f"A run ended with status {code}:\n{attempt.output.read_text()[-3000:]}"
            )
        kills -= 1
        tally.places[attempt.where.place] += 1
        tally.in_a_save += bool(leftovers(attempt.run))
        tally.in_a_resume += resumed and not attempt.where.has_written
        resumed = True


def acknowledged(attempt: Attempt, kind: str) -> Iterator[list[str]]:
    if attempt.notes.exists():
        for line in attempt.notes.read_text().splitlines():
            word, *rest = line.split("\t")
            if word == kind:
                yield rest


def check_records(attempt: Attempt) -> None:
    """Check that every acknowledged record is on the disk, and that no id is there twice."""
    promised: dict[str, set[str]] = {name: set() for name in IDS}
    for name, digest in acknowledged(attempt, "record"):
        promised[name].add(digest)
    for name, digests in promised.items():
        path = attempt.run / name
        content = path.read_bytes() if path.exists() else b""
        lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        if lost := digests - {sha256(line).hexdigest() for line in lines}:
            raise Violation(f"{path} lost {len(lost)} of {len(digests)} acknowledged records")
        ids = Counter(IDS[name](json.loads(line)) for line in lines)
        if twice := [each for each, times in ids.items() if times > 1]:
            raise Violation(f"{path} holds {twice} more than once")


def end_state(run: Path) -> dict[str, str]:
    """Return a hash of every file of an ended run but the clock's, and of its table."""
    from mulligan.report.table import table, table_as_json

    files = {
        path.relative_to(run).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in CLOCK
    }
    content = json.dumps(table_as_json(table(run)), sort_keys=True)
    return {**files, "the table": sha256(content.encode()).hexdigest()}


def check_end(run: Path, reference: dict[str, str]) -> None:
    """Check that an ended run is the reference, bit for bit, with nothing missing or left over."""
    found = end_state(run)
    differing = [
        name
        for name in sorted(reference.keys() | found.keys())
        if reference.get(name) != found.get(name)
    ]
    if differing:
        raise Violation(f"{run} differs from the uninterrupted run in: {', '.join(differing)}")
    if not (run / "report.html").read_text().rstrip().endswith("</html>"):
        raise Violation(f"{run}/report.html is not whole")


def make_inputs(folder: Path) -> Path:
    """Make the model and the recipe; return the recipe."""
    folder.mkdir()
    child = forked(lambda: make_model(folder / "model"), folder / "output.txt")
    _, status = os.waitpid(child, 0)
    if status:
        raise Violation((folder / "output.txt").read_text())
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "model": str(folder / "model")}))
    return recipe


def make_model(folder: Path) -> None:
    """Make a random model and teach it mini Countdown until some of its answers pass."""
    from tests.tiny import make_model_folder

    from mulligan.config import Sft
    from mulligan.episodes.conversation import Conversations
    from mulligan.models.load import load_model
    from mulligan.tasks.countdown.task import Countdown
    from mulligan.trainer.sft import fine_tune

    make_model_folder(folder, chat_template=TEMPLATE)
    policy, tokenizer = load_model(str(folder), "float32", "cpu")
    fine_tune(
        policy,
        Conversations(tokenizer, "?"),
        list(Countdown(**TASK).demonstrations(1600, seed=3)),  # type: ignore[arg-type]
        Sft(batch=16, learning_rate=1e-2),
        seed=1,
        dtype="float32",
        first_step_learns=True,
        tokens_at_once=4096,
        report=lambda step: None,
    )
    policy.save_pretrained(folder)


def import_everything() -> None:
    """Import what a run needs, once, so that a fork starts at once."""
    import accelerate
    import torch
    import transformers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    import mulligan

    torch.set_num_threads(1)
    assert accelerate and transformers and LlamaForCausalLM and PreTrainedTokenizerFast
    for module in pkgutil.walk_packages(mulligan.__path__, "mulligan."):
        if not module.name.endswith(("__main__", "bfcl", "bfcl_rule", "vllm")):
            importlib.import_module(module.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    import_everything()
    workspace = Path(tempfile.mkdtemp(prefix="mulligan-faults-"))
    try:
        survive(workspace, options.kills, options.seed)
    except Violation as violation:
        print(f"VIOLATION: {violation}\nEverything is kept in {workspace}.")  # noqa: T201
        return 1
    shutil.rmtree(workspace)
    return 0


def survive(workspace: Path, kills: int, seed: int) -> None:
    """Make the reference, then kill runs until there were enough kills; print what was done."""
    started = time.monotonic()
    say = lambda text: print(text, flush=True)  # noqa: E731, T201
    rng = random.Random(seed)
    where, tally = Whereabouts(), Tally()
    recipe = make_inputs(workspace / "inputs")

    def new(name: str) -> Attempt:
        (workspace / name).mkdir()
        return Attempt(workspace / name, recipe, where)

    undisturbed = new("reference")
    _, status, used = os.wait4(undisturbed.start(resume=False), 0)
    span = used.ru_utime + used.ru_stime
    if status:
        raise Violation(f"The undisturbed run failed:\n{undisturbed.output.read_text()[-3000:]}")
    reference = end_state(undisturbed.run)
    say(f"An undisturbed run computes for {span:.1f} s; {len(reference) - 1} files to compare.")

    while tally.kills < kills:
        attempt = new(f"run-{tally.runs}")
        killed_and_resumed(attempt, span, rng, tally)
        check_end(attempt.run, reference)
        tally.runs += 1
        tally.records += sum(1 for _ in acknowledged(attempt, "record"))
        tally.picked += sum(1 for _ in acknowledged(attempt, "picked"))
        shutil.rmtree(attempt.runs)
        say(f"{tally.kills} kills, {tally.runs} runs ended as if undisturbed")

    fell = ", ".join(f"{place} {tally.places[place]}" for place in PLACES)
    say(
        f"{tally.kills} kills (seed {seed}) in {tally.runs} runs, "
        f"{time.monotonic() - started:.0f} s. Where they fell: {fell}.\n"
        f"{tally.in_a_save} in the middle of a save, {tally.in_a_resume} before a resumed process "
        "had written anything.\n"
        f"{tally.records} acknowledged records: none lost, none twice. "
        f"{tally.picked} times a checkpoint was picked: each agreed with its manifest.\n"
        f"{tally.runs} of {tally.runs} runs ended bit for bit as the undisturbed one."
    )


if __name__ == "__main__":
    # Before torch is imported: one thread, so that a fork is whole and sums have one order.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.exit(main())
