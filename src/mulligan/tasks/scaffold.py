"""Writing the first file of a task of one's own, and its test."""

import keyword
import re
from pathlib import Path
from string import Template

from mulligan.errors import MulliganError

TASK = Template('''\
"""A task of your own: sort numbers.  Change it into yours, then: mulligan validate $name.py"""

import random
import re

from mulligan import Demonstration, Problem, Task, Verdict


class $cls(Task):
    name = "$name"
    # Every reason that verify gives: the report counts them, the model never sees them.
    reasons = ("passed", "wrong", "no_answer")
    # What is learnt from, what settings are chosen by, and what is reported.
    splits = ("train", "dev", "test")

    def __init__(self, length=3, seed=0):
        # The options of the task: a recipe sets them under task_options.
        self.length, self.seed = length, seed

    def problems(self, split):
        """Yield the problems of a split, always the same in the same order."""
        rng, seen = random.Random(self.seed), set()
        for _ in range(3000):
            numbers = rng.sample(range(1, 21), self.length)
            problem = Problem.create(
                f"Sort from small to large: {numbers}. Answer with the numbers only.",
                given={"numbers": numbers},  # what verify needs, as plain JSON values
                reference=" ".join(map(str, sorted(numbers))),  # leave out if you know none
            )
            # The id is a hash of the content, so it says for good which split a problem is in.
            place = {0: "test", 1: "test", 2: "dev"}.get(int(problem.id, 16) % 10, "train")
            if place == split and problem.id not in seen:
                seen.add(problem.id)
                yield problem

    def verify(self, problem, answer):
        """Judge what the model wrote. It may be anything; a crash here counts for nothing."""
        found = re.findall(r"\\d+", answer)
        if not found:
            return Verdict.unparseable("no_answer")
        right = [str(number) for number in sorted(problem.given["numbers"])]
        return Verdict.right() if found == right else Verdict.wrong("wrong")

    def wrong_answers(self, problem):
        """Examples that must not pass, for `mulligan validate`. May be left out."""
        return ["", "sorted!", problem.reference + " 99"]

    def demonstrations(self, count, seed):
        """Conversations for the warm-up of a model too small for the task. May be left out."""
        rng = random.Random(seed)
        for problem in rng.choices(list(self.problems("train")), k=count):
            if rng.random() < 0.5:
                yield Demonstration(problem, attempt=problem.reference)
                continue
            first, second, *rest = sorted(problem.given["numbers"])
            wrong = " ".join(map(str, [second, first, *rest]))
            reflection = f"I put {second} before {first}, but {first} is smaller."
            yield Demonstration(problem, wrong, reflection, retry=problem.reference)
''')

TEST = Template('''\
"""The task's own test: what passes, what does not, and all that `mulligan validate` checks."""

from pathlib import Path

from mulligan.tasks.registry import load_task
from mulligan.verifiers.validate import validate_task

TASK = load_task(str(Path(__file__).with_name("$name.py")))


def test_a_right_answer_passes_and_a_wrong_one_does_not():
    problem = next(iter(TASK.problems("train")))
    assert TASK.verify(problem, problem.reference).passed
    assert TASK.verify(problem, "1 2 3 4 5").status == "failed"
    assert TASK.verify(problem, "I cannot sort.").status == "unparseable"


def test_the_task_is_valid():
    failed = [check for check in validate_task(TASK) if check.result == "failed"]
    assert not failed, failed
''')


def new_task(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a commented task file and its test, which pass as they are.

    Args:
        name: Name of the task, in small letters, digits and underscores.
        folder: Where to write; it is made if it is missing.

    Returns:
        The paths of the task and of its test.

    Raises:
        MulliganError: the name is not fit for a Python file, a file of that name is there already,
            or the folder cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise MulliganError(
            f"A task's name is made of small letters, digits and underscores, and begins with a "
            f"letter, such as my_task; not {name!r}."
        )
    texts = {folder / f"{name}.py": TASK, folder / f"test_{name}.py": TEST}
    for path in texts:
        if path.exists():
            raise MulliganError(f"{path} is there already: choose another name, or delete it.")
    cls = "".join(part.capitalize() for part in name.split("_"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in texts.items():
            path.write_text(template.substitute(name=name, cls=cls), encoding="utf-8")
    except OSError as error:
        raise MulliganError(f"{folder} cannot be written: {error.strerror}.") from error
    task, test = texts
    return task, test
