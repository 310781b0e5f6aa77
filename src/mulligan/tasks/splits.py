"""Dividing problems into splits, and asking a task for the problems of one.

A hash of what a problem is says where it belongs. So no problem can be in two splits, and a
division depends on nothing else: not on the other problems, their order or the machine.
"""

from itertools import islice

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.types import Problem

WITHOUT_DEV_SHARE = (
    "Give it one with task_options.dev_share, the share of problems that is taken out of training "
    "for it (0.15, say), or use evaluate.split: test."
)
"""What to do where a task that divides by shares was given none for its dev split."""

_SCALE = 2.0**63


def split_of(*parts: int | str, test_share: float, dev_share: float = 0.0) -> Split:
    """Return the split of whatever ``parts`` identify.

    The dev split is taken out of training: asking for one leaves the test split as it is.

    Args:
        parts: What identifies the problem, such as a seed, a purpose and its content.
        test_share: Share of all problems held out for the test, on average.
        dev_share: Share of all problems held out for tuning, on average.
    """
    place = derive_seed(*parts) / _SCALE
    if place < test_share:
        return "test"
    return "dev" if place < test_share + dev_share else "train"


def splits_with(dev_share: float) -> tuple[Split, ...]:
    """Return the splits of a task that has a dev split only where an option asks for one."""
    return ("train", "dev", "test") if dev_share else ("train", "test")


def check_shares(task: str, test_share: float, dev_share: float) -> None:
    """Check that the shares leave something to train on.

    Raises:
        MulliganError: a share is not between 0 and 1, or nothing is left for training.
    """
    for name, share in (("test_share", test_share), ("dev_share", dev_share)):
        if not 0 <= share <= 1:
            raise MulliganError(f"{task}: {name} should be between 0 and 1, but is {share}.")
    if dev_share and test_share + dev_share >= 1:
        raise MulliganError(
            f"{task}: test_share ({test_share}) and dev_share ({dev_share}) leave nothing to "
            f"train on. Together they should be less than 1."
        )


def first_problems(task: Task, split: Split, count: int) -> list[Problem]:
    """Return the first ``count`` problems of a split.

    Raises:
        MulliganError: the task has no such split, or fewer problems in it.
    """
    require_split(task, split)
    problems = list(islice(task.problems(split), count))
    if len(problems) < count:
        raise MulliganError(
            f"Task {_spec(task)!r} has {len(problems)} {split} problems, and the recipe asks for "
            f"{count}. Ask for fewer, or give the task more."
        )
    return problems


def require_split(task: Task, split: Split) -> None:
    """Check that a task has a split.

    Raises:
        MulliganError: it has not; the message says how to get one.
    """
    if split not in task.splits:
        raise MulliganError(f"Task {_spec(task)!r} has no {split} split. {task.without_split}")


def _spec(task: Task) -> str:
    return task.source.spec if task.source else task.name
