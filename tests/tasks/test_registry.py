import sys
from importlib.metadata import EntryPoint

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks import registry
from mulligan.tasks.countdown.task import Countdown
from mulligan.tasks.registry import list_tasks, load_task

TASK = """
from mulligan import Problem, Task, Verdict

class Echo(Task):
    name = "echo"
    def __init__(self, word="hello", times=1):
        self.word, self.times = word, times
    def problems(self, split):
        yield Problem.create(f"Say {self.word} ({split}).", {"word": self.word})
    def verify(self, problem, answer):
        return Verdict.right() if answer == self.word else Verdict.wrong()
"""


@pytest.fixture
def file(tmp_path):
    def write(text: str, name: str = "echo_task.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_an_installed_task_is_found_by_name_and_gets_its_options():
    task = load_task("countdown", {"seed": 7})
    assert isinstance(task, Countdown)
    assert task.source is not None
    assert (task.source.spec, task.source.options) == ("countdown", {"seed": 7})


def test_a_file_with_one_class_is_a_task(file):
    task = load_task(file(TASK), {"word": "ahoy"})
    problem = next(iter(task.problems("train")))
    assert problem.messages[0]["content"] == "Say ahoy (train)."
    assert task.verify(problem, "ahoy").passed


def test_a_changed_file_is_read_again(file):
    path = file(TASK)
    load_task(path)
    assert load_task(file(TASK.replace('"hello"', '"a different word"'))).word == "a different word"


def test_a_class_can_be_chosen_by_name(file):
    path = file(TASK + "\nclass Second(Echo):\n    name = 'second'\n")
    assert load_task(f"{path}:Second").name == "second"
    with pytest.raises(MulliganError, match="defines: Echo, Second"):
        load_task(path)
    with pytest.raises(MulliganError, match="did you mean 'Second'"):
        load_task(f"{path}:Secnd")


def test_a_relative_path_is_read_from_the_working_folder(file, tmp_path, monkeypatch):
    file(TASK)
    monkeypatch.chdir(tmp_path)
    assert load_task("echo_task.py").source.folder == str(tmp_path)


def test_a_file_may_import_the_files_beside_it(file):
    file("WORD = 'neighbour'", "echo_words_beside.py")
    path = file("from echo_words_beside import WORD\n" + TASK.replace('"hello"', "WORD"))
    assert load_task(path).word == "neighbour"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "SyntaxError"),
        ("import no_such_module_here", r"ModuleNotFoundError.*echo_task\.py, line 1"),
        ("\n\nraise ValueError('price')", r"ValueError: price \(echo_task\.py, line 3\)"),
        ("import sys; sys.exit(2)", "SystemExit: 2"),
        ("x = 1", "should define one class .* defines: none"),
        (TASK.replace("def verify", "def judge"), "the class Echo lacks verify"),
        (TASK.replace('name = "echo"', "pass"), "the class Echo lacks a name"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(text, said, file):
    with pytest.raises(MulliganError, match=said):
        load_task(file(text))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("countdwn", "did you mean 'countdown'"),
        ("zzz", "valid names: .*countdown.*my_task.py"),
        ("no_such_file.py", "There is no file no_such_file.py"),
        ("reasoning_gym:chain_sm", "did you mean 'chain_sum'"),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest_name(spec, said):
    with pytest.raises(MulliganError, match=said):
        load_task(spec)


def test_unknown_options_are_named_with_the_valid_ones(file):
    with pytest.raises(
        MulliganError, match=r"no option 'wrod' .did you mean 'word'.*: word, times"
    ):
        load_task(file(TASK), {"wrod": 1})


def test_a_missing_option_is_named(file):
    with pytest.raises(MulliganError, match="needs the option 'word'"):
        load_task(file(TASK.replace('word="hello"', "word")))


def test_an_option_that_the_task_cannot_take_is_an_error_for_the_user(file):
    text = TASK.replace("self.word, self.times", "int(times); self.word, self.times")
    with pytest.raises(MulliganError, match=r"could not be made with the options .*ValueError"):
        load_task(file(text), {"times": "often"})


def test_options_that_are_no_plain_values_are_refused(file):
    with pytest.raises(MulliganError, match="should be plain values"):
        load_task(file(TASK), {"word": {1, 2}})


def test_installed_tasks_are_listed_and_a_broken_one_says_why(monkeypatch):
    broken = EntryPoint("broken", "no_such_package_here:Task", registry.ENTRY_POINT_GROUP)
    whole = EntryPoint("countdown", "mulligan.tasks.countdown.task:Countdown", "mulligan.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [whole, broken])
    first, second = list_tasks()
    assert (first.name, first.options) == ("broken", ())
    assert "No module named 'no_such_package_here'" in first.summary
    assert second.name == "countdown"
    assert "seed" in second.options


def test_every_listed_task_of_our_own_can_be_imported():
    entries = list_tasks()
    assert "countdown" in [entry.name for entry in entries]
    assert all(entry.options for entry in entries if entry.package == "mulligan")


def test_finding_a_task_does_not_import_torch():
    import subprocess

    code = (
        "import sys; from mulligan.tasks.registry import load_task; load_task('countdown'); "
        "import mulligan.verifiers.validate, mulligan.tasks.scaffold; "
        "import mulligan.verifiers.worker_main; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
