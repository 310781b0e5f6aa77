"""The cases that a run has to survive, those of them that need a whole run.

``cases.py`` has the index of all of them; the other tests are beside what they test.
"""

import json
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from disk_faults import ended, fill, in_background, make_read_only, small_disk
from faults import end_state
from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.rollout import reflect_and_retry
from mulligan.errors import MulliganError
from mulligan.report import page
from mulligan.run.out_of_memory import memory_errors
from mulligan.storage import line_index
from mulligan.storage.atomic import write_atomically
from mulligan.storage.lock import hold
from mulligan.storage.records import RecordLog
from mulligan.types import Sampling, ScoredGroup
from tiny import lines, run_cli, write_recipe

TESTS = Path(__file__).parent

STAGES = {
    "warmup": ("warmup.jsonl", "warmed_up"),
    "collect": ("collected.jsonl", "failures.jsonl"),
    "evaluate-before": ("evaluation/before.jsonl",),
    "train": ("metrics.jsonl", "timings.jsonl", "episodes.jsonl", "checkpoints"),
    "evaluate-after": ("evaluation/after.jsonl", "checkpoints/best.json"),
    "report": ("report.html",),
}
"""What each stage leaves, in the order of the stages; the first is what it writes to as it goes."""


@pytest.fixture
def run_before(tiny_run, tmp_path):
    """Copies the finished run as it was before a stage, into a folder of runs."""

    def copy(stage, runs=tmp_path / "runs"):
        run = shutil.copytree(tiny_run, runs / "tiny")
        names = list(STAGES)
        for later in names[names.index(stage) :]:
            for name in STAGES[later]:
                path = run / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (run / "stages.json").write_text(json.dumps(names[: names.index(stage)]))
        return run

    return copy


def resumed(run, recipe_of):
    """Go on with a run by the command that started it."""
    return run_cli("run", recipe_of.parent / "recipe.yaml", "--runs", run.parent, "--resume")


def interrupt_at_first_record(monkeypatch, name, times):
    """Press Ctrl-C when the first record has been written to a file of this name."""
    append, pressed = RecordLog.append, []

    def pressing(log, record):
        written = append(log, record)
        if log.path.name == name and not pressed:
            pressed.append(name)
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return written

    monkeypatch.setattr(RecordLog, "append", pressing)


# Stopped and resumed


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("warmup", marks=pytest.mark.slow),
        "collect",
        pytest.param("evaluate-before", marks=pytest.mark.slow),
        pytest.param("train", marks=pytest.mark.slow),
        pytest.param("evaluate-after", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_in_any_stage_leaves_a_run_that_ends_the_same(
    run_before, tiny_run, stage, times, monkeypatch
):
    run = run_before(stage)
    with monkeypatch.context() as patched:
        interrupt_at_first_record(patched, Path(STAGES[stage][0]).name, times)
        stopped = resumed(run, tiny_run)
    assert stopped.code == 130
    assert ("everything is saved" if times == 1 else "Stopped at once") in stopped.out
    assert stage not in json.loads((run / "stages.json").read_text())
    assert resumed(run, tiny_run).code == 0
    assert end_state(run) == end_state(tiny_run)


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 130)], ids=["once", "twice"])
def test_ctrl_c_while_the_report_is_written_leaves_a_whole_page_or_none(
    run_before, tiny_run, times, code, monkeypatch
):
    run = run_before("report")

    def pressing(path, content):
        if path.name == "report.html":
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        write_atomically(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(page, "write_atomically", pressing)
        stopped = resumed(run, tiny_run)
    assert stopped.code == code
    assert (run / "report.html").exists() == (times == 1)
    assert resumed(run, tiny_run).code == 0
    assert end_state(run) == end_state(tiny_run)


def test_a_damaged_last_checkpoint_is_trained_again_from_the_one_before(run_before, tiny_run):
    run = run_before("evaluate-after")
    weights = run / "checkpoints" / "step-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    outcome = resumed(run, tiny_run)
    assert outcome.code == 0
    assert "missing or damaged: running train first" in " ".join(outcome.out.split())
    assert end_state(run) == end_state(tiny_run)


def test_the_evaluated_checkpoint_is_marked_as_the_best(tiny_run):
    assert json.loads((tiny_run / "checkpoints" / "best.json").read_text()) == {"step": 4}


def test_a_run_that_another_process_works_on_is_refused(run_before, tiny_run):
    run = run_before("report")
    with hold(run):
        outcome = resumed(run, tiny_run)
    assert outcome.code == 1
    assert f"in use by another process (pid {os.getpid()})" in outcome.err
    assert resumed(run, tiny_run).code == 0


def test_readers_beside_a_trainer_see_a_whole_run_and_change_nothing(
    run_before, tiny_run, monkeypatch
):
    run, append, readers = run_before("train"), RecordLog.append, []

    def look_on():
        line_index.SPILL_EVERY = 2  # in the reader's process alone
        for command in ("report", "show"):
            outcome = run_cli(command, run)
            assert outcome.code == 0, outcome.err
        assert not list(run.rglob(".*.index"))

    def append_and_let_look(log, record):
        written = append(log, record)
        if log.path.name == "timings.jsonl" and len(log) % 2:
            readers.append(in_background(look_on))
        return written

    monkeypatch.setattr(RecordLog, "append", append_and_let_look)
    assert resumed(run, tiny_run).code == 0
    assert [ended(each) for each in readers] == [0] * 2
    assert end_state(run) == end_state(tiny_run)


@pytest.mark.parametrize("content", ["{", "3", "[1]", '{"warmup": true}', "\xff"])
def test_a_list_of_stages_that_cannot_be_read_is_named(run_before, tiny_run, content):
    run = run_before("report")
    (run / "stages.json").write_bytes(content.encode("latin-1"))
    outcome = resumed(run, tiny_run)
    assert outcome.code == 1
    assert "stages.json" in outcome.err


@pytest.mark.parametrize("made_with", [None, "torch", {"format": "new"}, {}])
def test_a_config_that_does_not_say_its_format_is_named(run_before, tiny_run, made_with):
    run = run_before("report")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "made_with": made_with}))
    outcome = resumed(run, tiny_run)
    assert outcome.code == 1
    assert "does not say which format" in outcome.err


# Disk and memory


@pytest.mark.parametrize(
    "space", [200, pytest.param(100_000, marks=pytest.mark.slow)], ids=["record", "checkpoint"]
)
def test_a_run_on_a_full_disk_ends_with_its_name_and_goes_on_once_there_is_space(
    run_before, tiny_run, tmp_path, space
):
    with small_disk(tmp_path / "disk", "8m") as disk:
        run = run_before("train", disk)
        before = (run / "failures.jsonl").read_bytes()
        ballast = fill(disk, leave=space)
        full = resumed(run, tiny_run)
        assert full.code == 1
        assert "the disk is full" in full.err
        assert "--resume" in full.err
        assert (run / "failures.jsonl").read_bytes() == before
        ballast.unlink()
        assert resumed(run, tiny_run).code == 0
        assert end_state(run) == end_state(tiny_run)


def test_a_run_on_a_read_only_disk_ends_with_its_name(run_before, tiny_run, tmp_path):
    with small_disk(tmp_path / "disk", "8m") as disk:
        run = run_before("report", disk)
        make_read_only(disk)
        outcome = resumed(run, tiny_run)
        assert outcome.code == 1
        assert "read-only" in outcome.err


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**50), lambda: bytearray(2**60)])
def test_memory_that_is_refused_is_named_with_what_to_lower(ask):
    lower = r"Memory ran out during 'train'.*[Ll]ower.*tokens_at_once.*memory_gib"
    with pytest.raises(MulliganError, match=lower), memory_errors("train"):
        ask()


def test_other_errors_are_not_taken_for_too_little_memory():
    with pytest.raises(RuntimeError, match="shape"), memory_errors("train"):
        torch.empty(2, 3).view(7)


def test_a_run_that_memory_stopped_goes_on_with_less(run_before, tiny_run, monkeypatch):
    from mulligan.engines.local.engine import LocalEngine

    run = run_before("evaluate-after")
    with monkeypatch.context() as patched:
        patched.setattr(LocalEngine, "generate", lambda *arguments: torch.empty(2**50))
        outcome = resumed(run, tiny_run)
    assert outcome.code == 1
    assert "Memory ran out during 'evaluate-after'" in outcome.err
    recipe = tiny_run.parent / "recipe.yaml"
    less = ["engine.memory_gib=1", "train.tokens_at_once=512"]
    assert run_cli("run", recipe, *less, "--runs", run.parent, "--resume").code == 0
    assert end_state(run) == end_state(tiny_run)


def test_a_skipped_step_is_said_and_counted(run_before, tiny_run, monkeypatch, caplog):
    from mulligan.objectives.losses.grpo import Grpo

    run, true_loss, calls = run_before("train"), Grpo.__call__, []

    def broken_at_first(*arguments):
        loss, sums = true_loss(*arguments)
        calls.append(loss)
        return (loss * float("nan") if len(calls) == 1 else loss), sums

    monkeypatch.setattr(Grpo, "__call__", broken_at_first)
    assert resumed(run, tiny_run).code == 0
    skipped = [row["step"] for row in lines(run / "metrics.jsonl") if row["skipped"]]
    assert len(skipped) == 1
    assert (
        f"Step {skipped[0]} is skipped and the weights stay as they are: its loss is nan"
        in caplog.text
    )


# Verifiers, engines and groups

BREAKING = """
import os, sys, time
sys.path.insert(0, TESTS)
from parity_task import Parity


class Breaking(Parity):
    safe = False

    def verify(self, problem, answer):
        number = problem.given["number"]
        if number == 3:
            time.sleep(600)
        if number == 4:
            os.abort()
        if number == 5:
            sys.exit(1)
        return super().verify(problem, answer)
"""


def test_a_verifier_that_hangs_dies_or_exits_never_makes_an_answer_wrong(tiny_llama, tmp_path):
    task = tmp_path / "breaking_task.py"
    task.write_text(BREAKING.replace("TESTS", repr(str(TESTS))))
    bounds = {"max_error_share": 1.0, "deadline_seconds": 1.0, "workers": 1}
    recipe = write_recipe(
        tmp_path, tiny_llama, task=str(task), sft=None, verify=bounds, collect__problems=8
    )
    outcome = run_cli("collect", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    [row] = lines(tmp_path / "tiny" / "collected.jsonl")
    assert row["errors"] == 3
    assert row["passed"] + row["failed"] + row["unparseable"] == 5
    stored = [
        each["attempt"]["problem"]["given"]["number"]
        for each in lines(tmp_path / "tiny" / "failures.jsonl")
    ]
    assert not {3, 4, 5} & set(stored)


@pytest.mark.parametrize(("text", "limit", "ending"), [("", 6, "stop"), ("and on", 3, "length")])
def test_reflections_that_are_empty_or_cut_off_are_episodes_like_others(
    tiny_run, tiny_tokenizer, text, limit, ending
):
    groups = scripted_groups(tiny_run, tiny_tokenizer, text, limit)
    for group in groups:
        assert [episode.reflection.finish_reason for episode in group.episodes] == [ending] * 4
        assert all(len(episode.reflection.token_ids) >= 1 for episode in group.episodes)
        assert [e.verdict.passed for e in group.episodes] == [True, False, True, False]


def test_no_part_of_a_group_is_trained_on(tiny_run, tiny_tokenizer):
    with pytest.raises(MulliganError, match=r"gave 3 of 4 reflections.*No part of a group"):
        scripted_groups(tiny_run, tiny_tokenizer, "short", 6, missing=1)


def scripted_groups(run, tokenizer, text, limit, missing=0):
    """Reflect with the same text four times on two failures; every second retry passes."""
    from mulligan.episodes.conversation import Conversations
    from mulligan.episodes.failures import FailureStore
    from parity_task import Parity

    class Engine(ScriptedEngine):
        def generate(self, prompts, n, sampling):
            return super().generate(prompts, n - missing if n > 1 else n, sampling)

    def script(prompt, i, j):
        return text if len(engine.calls) == 1 else ("even", "odd")[i % 2]

    engine = Engine(script, tokenizer)
    task = Parity()
    with FailureStore(run / "failures.jsonl") as store:
        return reflect_and_retry(
            engine,
            Conversations(tokenizer, "Why?"),
            lambda pairs: [task.verify(*pair) for pair in pairs],
            [store[0], store[1]],
            4,
            Sampling(0.9, limit),
            Sampling(0.9, 6),
        )


@pytest.mark.parametrize(("rewards", "advantages"), [((1.0, 0.0), (0.0,)), ((), ()), ((1.0,), ())])
def test_a_group_takes_one_reward_and_one_advantage_for_each_episode(
    tiny_run, tiny_tokenizer, rewards, advantages
):
    [group, _] = scripted_groups(tiny_run, tiny_tokenizer, "so", 6)
    alone = replace(group, episodes=group.episodes[:1])
    with pytest.raises(ValueError, match="one reward and one advantage for each of its 1 episodes"):
        ScoredGroup(alone, rewards, advantages, (), True)


def test_a_group_of_one_is_refused_by_the_recipe(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama, train__group_size=1)
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert "train.group_size: Input should be greater than or equal to 2" in outcome.err


# What models say, keys, paths


def test_terminal_escapes_of_a_model_are_shown_as_text(run_before):
    run = run_before("report")
    rows = lines(run / "episodes.jsonl")
    rows[-1]["reflection"]["text"] = "\x1b[2J\x1b]0;title\x07 [red]so[/red] \u202egnorw"
    (run / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run_cli("show", run, "-n", "1")
    assert outcome.code == 0
    assert "␛[2J␛]0;title␇ [red]so[/red] ⟦U+202E⟧gnorw" in outcome.out
    assert not {"\x1b", "\x07", "\u202e"} & set(outcome.out)


def test_terminal_escapes_in_an_error_are_shown_as_text(tmp_path):
    outcome = run_cli("run", tmp_path / "\x1b[2Jrecipe.yaml")
    assert outcome.code == 1
    assert "\x1b[2J" not in outcome.err


def test_a_planted_key_is_found_nowhere_in_a_run(tiny_llama, tmp_path, monkeypatch):
    key = "sk-planted-4f1c9a"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, key)
    recipe = write_recipe(
        tmp_path, tiny_llama, sft=None, train__steps=1, evaluate__problems=2, collect__problems=8
    )
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    files = [path for path in (tmp_path / "tiny").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if key.encode() in path.read_bytes()]
    assert key not in outcome.out + outcome.err


@pytest.mark.parametrize("name", ["../out", "..", "/tmp/out", "a/b", ".hidden", "", "a\nb"])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(tiny_llama, tmp_path, name):
    (tmp_path / "runs").mkdir()
    recipe = write_recipe(tmp_path, tiny_llama, name=name)
    before = sorted(tmp_path.rglob("*"))
    outcome = run_cli("run", recipe, "--runs", tmp_path / "runs")
    assert outcome.code == 1
    assert "name: String should match pattern" in outcome.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pickle_in_a_checkpoint_stops_the_run(run_before, tiny_run):
    run = run_before("evaluate-after")
    (run / "checkpoints" / "step-4" / "optimizer.pt").write_bytes(b"\x80\x04K\x01.")
    outcome = resumed(run, tiny_run)
    assert outcome.code == 1
    assert "optimizer.pt, a pickle" in " ".join(outcome.err.split())


# Damaged and hostile files

FUZZED = 500
"""Inputs tried of each kind."""


def damaged(content, rng):
    """Change, cut, repeat or insert a few bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content))
        length = rng.randint(1, 30)
        noise = bytes(rng.choice(b"\0\n\"'{}[]:,&*!|>-%@`\xff \t0129eE.~") for _ in range(length))
        rng.choice(
            (
                lambda c, p=place, n=noise: c.__setitem__(slice(p, p + len(n)), n),
                lambda c, p=place, n=noise: c.__setitem__(slice(p, p), n),
                lambda c, p=place, k=length: c.__delitem__(slice(p, p + k)),
                lambda c, p=place, k=length: c.extend(c[p : p + k]),
            )
        )(content)
        content = content or bytearray(b"\n")
    return bytes(content)


def refused_or_read(read, path, content, rng):
    """Read many damaged copies of a file; return how many were refused by a named error."""
    refused = 0
    for _ in range(FUZZED):
        path.write_bytes(damaged(content, rng))
        try:
            read()
        except MulliganError:
            refused += 1
    return refused


def test_five_hundred_damaged_recipes_are_refused_by_name_or_read(tiny_run, tmp_path):
    from mulligan.config import load_recipe

    path = tmp_path / "recipe.yaml"
    content = (tiny_run.parent / "recipe.yaml").read_bytes()
    refused = refused_or_read(lambda: load_recipe(path), path, content, random.Random(0))
    assert FUZZED / 2 < refused <= FUZZED


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["config.yaml", "evaluation/after.jsonl", "metrics.jsonl", "timings.jsonl"]
)
def test_a_damaged_file_of_a_run_is_refused_by_name_or_read(run_before, name):
    from mulligan.report.inputs import read_run

    run = run_before("report")
    content = (run / name).read_bytes()
    refused = refused_or_read(lambda: read_run(run), run / name, content, random.Random(1))
    assert 0 < refused <= FUZZED


def test_a_damaged_manifest_is_refused_or_agrees(run_before):
    from mulligan.storage.checkpoint import verify

    path = run_before("report") / "checkpoints" / "step-4"
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    refused = refused_or_read(lambda: verify(path), manifest, content, random.Random(2))
    assert FUZZED / 2 < refused <= FUZZED
