import json
import logging
import os
import random
import shutil

import pytest
import torch
from safetensors.torch import save_file

from disk_faults import (
    as_nobody,
    fill,
    killed_after,
    let_everybody_in,
    make_read_only,
    small_disk,
)
from mulligan.errors import MulliganError
from mulligan.storage.checkpoint import (
    Checkpoints,
    verify,
)


def write_step(step, size=100):
    def write(folder):
        (folder / "weights").write_bytes(bytes([step % 256]) * size)
        (folder / "sub").mkdir()
        (folder / "sub" / "more.json").write_text(str(step))

    return write


def saved(folder, steps, keep=3):
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, write_step(step))
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_saved_checkpoint_is_the_newest_and_agrees_with_its_manifest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    path = checkpoints.save(10, write_step(10))
    assert path == tmp_path / "step-10"
    assert checkpoints.newest() == 10
    verify(path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["sub/more.json", "weights"]
    assert manifest["files"]["weights"]["size"] == 100


def test_the_newest_is_the_one_of_the_highest_step_not_of_the_last_name(tmp_path):
    assert saved(tmp_path, [9, 10]).newest() == 10


def test_a_run_without_checkpoints_has_no_newest_one(tmp_path):
    assert Checkpoints(tmp_path / "absent", keep=1).newest() is None


def test_as_many_stay_as_are_to_be_kept(tmp_path):
    saved(tmp_path, range(1, 8), keep=3)
    assert names(tmp_path) == ["step-5", "step-6", "step-7"]


def test_at_least_one_has_to_be_kept(tmp_path):
    with pytest.raises(MulliganError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_the_best_is_never_removed(tmp_path):
    checkpoints = saved(tmp_path, [1, 2], keep=1)
    checkpoints.mark_best(2)
    for step in (3, 4, 5):
        checkpoints.save(step, write_step(step))
    assert names(tmp_path) == ["best.json", "step-2", "step-5"]
    assert checkpoints.best() == 2
    checkpoints.mark_best(5)
    assert names(tmp_path) == ["best.json", "step-5"]
    checkpoints.save(6, write_step(6))
    assert names(tmp_path) == ["best.json", "step-5", "step-6"]


def test_no_best_is_known_until_one_is_marked(tmp_path):
    checkpoints = saved(tmp_path, [1])
    assert checkpoints.best() is None
    with pytest.raises(MulliganError, match=r"no checkpoint .*step-7"):
        checkpoints.mark_best(7)


@pytest.mark.parametrize("mark", ["", "[]", '{"step": "../../x"}', '{"step": 1e999}', "[" * 10**5])
def test_a_mark_of_the_best_that_cannot_be_read_is_named(tmp_path, mark):
    checkpoints = saved(tmp_path, [1])
    (tmp_path / "best.json").write_text(mark)
    with pytest.raises(MulliganError, match=r"best\.json is not of the form"):
        checkpoints.best()


def damage_weights(path):
    content = bytearray((path / "weights").read_bytes())
    content[50] ^= 1
    (path / "weights").write_bytes(content)


DAMAGES = {
    "a flipped bit": damage_weights,
    "a cut file": lambda path: os.truncate(path / "weights", 99),
    "a missing file": lambda path: (path / "weights").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: os.truncate(path / "manifest.json", 40),
    "a manifest of nonsense": lambda path: (path / "manifest.json").write_text('{"schema": 1}'),
    "a manifest of entries that are none": lambda path: (path / "manifest.json").write_text(
        '{"schema": 1, "info": {}, "files": {"weights": 3}}'
    ),
    "a manifest that never ends": lambda path: (path / "manifest.json").write_text("[" * 10**5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog, damage):
    checkpoints = saved(tmp_path, [1, 2, 3])
    DAMAGES[damage](tmp_path / "step-3")
    with caplog.at_level(logging.WARNING, "mulligan"):
        assert checkpoints.newest() == 2
    assert f"{tmp_path / 'step-3'} is damaged" in caplog.text
    assert "skipped" in caplog.text


def test_a_damaged_checkpoint_never_pushes_out_a_whole_one_and_is_replaced(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 4], keep=2)
    damage_weights(tmp_path / "step-4")
    assert checkpoints.newest() == 2
    checkpoints.save(3, write_step(3))
    assert names(tmp_path) == ["step-2", "step-3", "step-4"]
    assert checkpoints.newest() == 3
    checkpoints.save(4, write_step(4))
    assert names(tmp_path) == ["step-3", "step-4"]
    assert checkpoints.newest() == 4


def test_a_whole_checkpoint_of_the_same_step_is_kept(tmp_path):
    checkpoints = saved(tmp_path, [1])
    checkpoints.save(1, lambda _: pytest.fail("it was there already"))
    assert checkpoints.newest() == 1


def test_what_a_killed_save_left_is_removed(tmp_path):
    checkpoints = saved(tmp_path, [1])
    shutil.copytree(tmp_path / "step-1", tmp_path / ".step-2.partial")
    assert checkpoints.newest() == 1
    assert names(tmp_path) == ["step-1"]


def test_a_checkpoint_of_a_newer_version_is_refused_with_advice(tmp_path):
    checkpoints = saved(tmp_path, [1, 2])
    manifest = json.loads((tmp_path / "step-2" / "manifest.json").read_text())
    (tmp_path / "step-2" / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))
    with pytest.raises(MulliganError, match=r"newer Mulligan.* Install that version"):
        checkpoints.newest()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "rng.PKL", "sub/x.pth"])
def test_a_checkpoint_that_holds_a_pickle_is_refused(tmp_path, name):
    checkpoints = saved(tmp_path, [1])
    (tmp_path / "step-1" / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(MulliganError, match="a pickle: loading one can run any program"):
        checkpoints.newest()


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "link"])
def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path, name):
    checkpoints = saved(tmp_path / "checkpoints", [1])
    path = tmp_path / "checkpoints" / "step-1"
    (tmp_path / "secret").write_text("secret")
    (path / "link").symlink_to(tmp_path / "secret")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"size": 6, "sha256": "0" * 64}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MulliganError, match="leaves the folder"):
        checkpoints.newest()


def test_other_folders_and_files_beside_checkpoints_are_left_alone(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3], keep=1)
    for name in ("step-best", "step-2-copy", "notes"):
        (tmp_path / name).mkdir()
    checkpoints.save(4, write_step(4))
    assert names(tmp_path) == ["notes", "step-2-copy", "step-4", "step-best"]


def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_one(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        checkpoints = Checkpoints(disk / "checkpoints", keep=2)
        checkpoints.save(1, write_step(1))
        with pytest.raises(MulliganError, match=r"step-2: the disk is full\. Free some space"):
            checkpoints.save(2, write_step(2, size=2_000_000))
        assert names(disk / "checkpoints") == ["step-1"]
        assert checkpoints.newest() == 1
        checkpoints.save(2, write_step(2))
        assert checkpoints.newest() == 2


def test_a_disk_that_fills_while_safetensors_writes_is_named_too(tmp_path):
    def write(folder):
        save_file({"weights": torch.zeros(1_000_000)}, folder / "model.safetensors")

    with small_disk(tmp_path / "disk") as disk:
        checkpoints = Checkpoints(disk / "checkpoints", keep=2)
        checkpoints.save(1, write_step(1))
        with pytest.raises(MulliganError, match=r"step-2: the disk is full\. Free some space"):
            checkpoints.save(2, write)
        assert names(disk / "checkpoints") == ["step-1"]


def test_a_disk_with_room_for_the_files_but_not_the_manifest_has_no_new_checkpoint(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        checkpoints = Checkpoints(disk / "checkpoints", keep=2)
        checkpoints.save(1, write_step(1))

        def write(folder):
            write_step(2)(folder)
            fill(disk)

        with pytest.raises(MulliganError, match="the disk is full"):
            checkpoints.save(2, write)
        assert checkpoints.newest() == 1


def test_a_read_only_disk_is_named_and_the_old_checkpoint_can_still_be_used(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        checkpoints = saved(disk / "checkpoints", [1])
        make_read_only(disk)
        with pytest.raises(MulliganError, match="step-2: the file system is read-only"):
            checkpoints.save(2, write_step(2))
        assert checkpoints.newest() == 1


def test_a_folder_without_permission_is_named(tmp_path):
    def work():
        with pytest.raises(MulliganError, match="permission denied"):
            Checkpoints(tmp_path, keep=1).save(1, write_step(1))

    let_everybody_in(tmp_path)
    as_nobody(work)


def save_until_killed(folder, steps, kills, longest):
    """Save in processes that are killed; check the folder after every kill."""
    clock = random.Random(0)

    def work(acknowledge):
        checkpoints = Checkpoints(folder, keep=2)
        done = checkpoints.newest() or 0
        acknowledge(done)
        for step in range(max(1, done), steps + 1):  # the kill may have come before the mark
            checkpoints.save(step, write_step(step, size=200_000))
            if step % 5 == 0:
                checkpoints.mark_best(step)
            acknowledge(step)

    for _ in range(kills):
        acknowledged = killed_after(clock.uniform(0, longest), work)
        checkpoints = Checkpoints(folder, keep=2)
        for step in checkpoints.steps():
            verify(checkpoints.path(step))  # before anything is tidied: whatever is there is whole
        assert (checkpoints.newest() or 0) >= acknowledged[-1]
        assert len(checkpoints.steps()) <= 3
        assert not list(folder.glob(".*"))
    work(lambda _: None)


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_saves_leave_whole_checkpoints_and_the_same_end(tmp_path, kills):
    steps = 2 * kills
    save_until_killed(tmp_path / "killed", steps, kills, longest=0.15)
    never_killed = Checkpoints(tmp_path / "whole", keep=2)
    for step in range(steps - 6, steps + 1):
        never_killed.save(step, write_step(step, size=200_000))
        if step % 5 == 0:
            never_killed.mark_best(step)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
