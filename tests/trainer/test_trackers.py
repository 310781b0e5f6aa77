import importlib.util
import json
import logging
import shutil

import pytest

from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.run.session import recipe_of
from mulligan.storage.run_folder import RunFolder
from mulligan.trainer import trackers
from mulligan.trainer.trackers import COLUMNS, Trackers, open_trackers, require_trackers
from tiny import lines, run_cli, write_recipe


@pytest.fixture
def run(tiny_run, tmp_path):
    return RunFolder(shutil.copytree(tiny_run, tmp_path / "tiny"))


def recipe_with(run, *names):
    return override_recipe(recipe_of(run), [f"track=[{','.join(names)}]"], "tiny")


class Noted:
    """A tracker that keeps what it is sent."""

    def __init__(self, run, recipe, run_id):
        self.recipe, self.id, self.steps = recipe, run_id, {}
        Noted.last = self

    def log(self, step, values, episodes):
        self.steps[step] = (values, episodes)

    def close(self):
        self.closed = True


class Broken(Noted):
    def log(self, step, values, episodes):
        raise ConnectionError("no network")


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setattr(trackers, "TRACKERS", {"tensorboard": Noted, "wandb": Broken})
    monkeypatch.setattr(trackers, "require_trackers", lambda names: None)


def test_steps_have_the_names_that_users_of_trl_know(run, noted):
    rows = lines(run.metrics)
    with open_trackers(run, recipe_with(run, "tensorboard")) as sink:
        for row in rows:
            sink.append(row)

    values, _ = Noted.last.steps[4]
    assert Noted.last.closed
    assert values["train/reward"] == rows[3]["reward"]
    assert values["train/completions/mean_length"] == rows[3]["reflection_tokens"]
    assert values["train/grad_norm"] == rows[3]["gradient_norm"]
    groups = rows[3]["live_groups"] + rows[3]["dead_groups"]
    assert values["train/frac_reward_zero_std"] == rows[3]["dead_groups"] / groups
    timing = lines(run.timings)[3]
    assert values["train/step_time"] == timing["rollout"] + timing["update"]


def test_a_step_has_some_of_its_episodes_as_a_table(run, noted):
    run.episodes.write_text(
        "".join(
            line + "\n" for line in run.episodes.read_text().splitlines() if '"step":1,' in line
        )
    )
    with open_trackers(run, recipe_with(run, "tensorboard")) as sink:
        sink.append(lines(run.metrics)[0])

    _, episodes = Noted.last.steps[1]
    assert len(episodes) == 4
    assert all(tuple(row) == COLUMNS for row in episodes)
    stored = {row["reflection"]["text"] for row in lines(run.episodes)}
    assert {row["reflection"] for row in episodes} <= stored


def test_steps_that_are_done_again_after_a_kill_are_not_sent_twice(run, noted):
    rows = lines(run.metrics)
    with open_trackers(run, recipe_with(run, "tensorboard")) as sink:
        for row in rows[:3]:
            sink.append(row)
    first = Noted.last

    with open_trackers(run, recipe_with(run, "tensorboard")) as sink:
        for row in rows[1:]:  # killed after step 3, resumed from the checkpoint of step 1
            sink.append(row)

    assert sorted(first.steps) == [1, 2, 3]
    assert sorted(Noted.last.steps) == [4]
    assert Noted.last.id == first.id


def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(run, noted, caplog):
    with (
        caplog.at_level(logging.WARNING, "mulligan"),
        open_trackers(run, recipe_with(run, "wandb", "tensorboard")) as sink,
    ):
        for row in lines(run.metrics):
            sink.append(row)

    assert [r.message for r in caplog.records].count(
        "The tracker wandb failed and gets no more steps; the run goes on: no network"
    ) == 1
    assert len(caplog.records) == 1
    assert sorted(Noted.last.steps) == [1, 2, 3, 4]


def test_a_tracker_that_cannot_even_start_does_not_end_the_run(run, noted, monkeypatch, caplog):
    def refuse(run, recipe, run_id):
        raise RuntimeError("no key")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", refuse)
    with caplog.at_level(logging.WARNING, "mulligan"):
        Trackers(run, recipe_with(run, "tensorboard")).append(lines(run.metrics)[0])

    assert "no key" in caplog.text


def test_a_tracker_that_exits_ends_neither_the_run_nor_the_others(run, noted, monkeypatch, caplog):
    class Leaving(Noted):
        def log(self, step, values, episodes):
            raise SystemExit("wandb: no key, so I leave")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Leaving)
    with (
        caplog.at_level(logging.WARNING, "mulligan"),
        open_trackers(run, recipe_with(run, "wandb", "tensorboard")) as sink,
    ):
        sink.append(lines(run.metrics)[0])

    assert "I leave" in caplog.text
    assert sorted(Noted.last.steps) == [1]


def test_records_that_cannot_be_read_end_what_is_tracked_and_not_the_run(run, noted, caplog):
    run.timings.write_text("{broken\n")
    with (
        caplog.at_level(logging.WARNING, "mulligan"),
        open_trackers(run, recipe_with(run, "tensorboard")) as sink,
    ):
        sink.append(lines(run.metrics)[0])

    assert "the run goes on" in caplog.text


def test_a_tracker_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MulliganError, match="pip install wandb"):
        require_trackers(["wandb"])


def test_a_run_with_a_missing_tracker_stops_before_any_work(tmp_path, tiny_llama, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name)
    )
    recipe = write_recipe(tmp_path, tiny_llama, track=["wandb"])

    outcome = run_cli("run", recipe, "--runs", tmp_path)

    assert outcome.code == 1
    assert "pip install wandb" in outcome.err
    assert not (tmp_path / "tiny" / "warmup.jsonl").exists()


def test_an_unknown_tracker_is_refused_with_the_valid_names(tmp_path, tiny_llama):
    outcome = run_cli("run", write_recipe(tmp_path, tiny_llama, track=["tensorbored"]))

    assert outcome.code == 1
    assert "'tensorboard'" in outcome.err


def tensorboard_scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }, events


def test_tensorboards_files_hold_one_curve_across_a_resume(tmp_path, tiny_llama):
    pytest.importorskip("tensorboard")
    recipe = write_recipe(tmp_path, tiny_llama, track=["tensorboard"], train__stop_after=2)
    assert run_cli("run", recipe, "--runs", tmp_path).code == 130
    go_on = run_cli("train", tmp_path / "tiny", "train.stop_after=null")
    assert go_on.code == 0, go_on.err

    run = RunFolder(tmp_path / "tiny")
    scalars, events = tensorboard_scalars(run.path / "tensorboard")
    expected = [(row["step"], pytest.approx(row["reward"])) for row in lines(run.metrics)]
    assert scalars["train/reward"] == expected
    assert len(expected) == 4
    texts = events.Tags()["tensors"]
    assert any("recipe" in tag for tag in texts)
    assert any("completions" in tag for tag in texts)


@pytest.mark.slow
def test_trackios_own_reader_finds_every_step_and_the_recipe(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    with open_trackers(run, recipe_with(run, "trackio")) as sink:
        for row in lines(run.metrics):
            sink.append(row)
    name = f"tiny-{json.loads(run.tracked.read_text())['id']}"

    [found] = [each for each in trackio.Api().runs("mulligan") if each.name == name]
    history = SQLiteStorage.get_logs("mulligan", name, run_id=found.id)
    history = [row for row in history if "train/reward" in row]
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    rewards = [row["reward"] for row in lines(run.metrics)]
    assert [row["train/reward"] for row in history] == pytest.approx(rewards)
    assert found.config["train"]["steps"] == 4
