import subprocess
import sys

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.registry import load_task
from mulligan.tasks.scaffold import new_task
from mulligan.verifiers.validate import validate_task


def test_the_new_task_is_valid_as_it_is(tmp_path):
    task, _ = new_task("my_task", tmp_path)
    checks = validate_task(load_task(str(task)))
    assert {check.name: check.result for check in checks if check.result != "ok"} == {}


def test_the_new_test_passes_as_it_is(tmp_path):
    _, test = new_task("my_task", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_demonstrations_are_from_the_training_split_and_end_on_right_answers(tmp_path):
    task = load_task(str(new_task("my_task", tmp_path)[0]))
    train = {problem.id for problem in task.problems("train")}
    demonstrations = list(task.demonstrations(200, seed=1))
    assert len(demonstrations) == 200
    for demonstration in demonstrations:
        assert demonstration.problem.id in train
        last = demonstration.retry or demonstration.attempt
        assert task.verify(demonstration.problem, last).passed
        if demonstration.retry:
            assert not task.verify(demonstration.problem, demonstration.attempt).passed
    assert 60 < sum(d.reflection is not None for d in demonstrations) < 140


def test_the_new_file_is_short_and_named_after_the_task(tmp_path):
    task, test = new_task("sql_2", tmp_path / "new")
    text = task.read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 50
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "class Sql2(Task):" in text
    assert (task.name, test.name) == ("sql_2.py", "test_sql_2.py")


@pytest.mark.parametrize("name", ["My-Task", "../up", "", "1st", "class", "a.py", "täsk"])
def test_a_name_that_is_no_file_name_is_refused(name, tmp_path):
    with pytest.raises(MulliganError, match="small letters"):
        new_task(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["my_task.py", "test_my_task.py"])
def test_nothing_is_overwritten(there, tmp_path):
    (tmp_path / there).write_text("precious")
    with pytest.raises(MulliganError, match="is there already"):
        new_task("my_task", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MulliganError, match="cannot be written"):
        new_task("my_task", tmp_path / "file" / "folder")
