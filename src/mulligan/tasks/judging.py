"""Calling a verifier and believing only a proper verdict."""

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.tasks.user_file import explain
from mulligan.types import Problem, Status, Verdict

_STATUSES = get_args(Status)


def judge(task: Task, problem: Problem, answer: str) -> Verdict:
    """Verify one answer; whatever goes wrong in the verifier becomes a verdict ``error``."""
    try:
        verdict = task.verify(problem, answer)
    except Exception as error:
        return Verdict.error(f"{task.name}: verify raised {explain(error)}")
    return checked(task, verdict)


def checked(task: Task, verdict: object) -> Verdict:
    """Pass on a proper verdict; anything else becomes a verdict ``error`` that names the task."""
    if not isinstance(verdict, Verdict):
        return Verdict.error(
            f"{task.name}: verify returned {_shown(verdict)}, where a Verdict was expected"
        )
    if verdict.status not in _STATUSES or not isinstance(verdict.reason, str):
        return Verdict.error(f"{task.name}: verify returned a malformed verdict, {_shown(verdict)}")
    return verdict


def _shown(value: object) -> str:
    """Show a value in at most 100 characters, even if its ``repr`` fails."""
    try:
        return repr(value)[:100]
    except Exception:
        return f"a {type(value).__name__}"


class ErrorShare:
    """Stops a run whose verifier breaks too often.

    An ``error`` verdict says nothing about an answer, so it is neither a pass nor a failure; a run
    made mostly of them would learn from the few answers that happen not to break the verifier.

    Args:
        limit: Largest share of verdicts that may be ``error``, from 0 to 1.
        at_least: How many verdicts are counted before the share is believed.
    """

    def __init__(self, limit: float = 0.1, at_least: int = 20) -> None:
        self.limit = limit
        self.at_least = at_least
        self.total = 0
        self.details: Counter[str] = Counter()

    @property
    def errors(self) -> int:
        """How many verdicts were ``error``."""
        return self.details.total()

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Count verdicts.

        Raises:
            MulliganError: the share of errors among all verdicts so far is above the limit.
        """
        for verdict in verdicts:
            self.total += 1
            if verdict.status == "error":
                self.details[verdict.detail] += 1
        if self.total >= self.at_least and self.errors > self.limit * self.total:
            self._stop()

    def _stop(self) -> None:
        detail, count = self.details.most_common(1)[0]
        raise MulliganError(
            f"The verifier broke on {self.errors} of {self.total} answers "
            f"({self.errors / self.total:.0%}; at most {self.limit:.0%} may). Most often "
            f"({count}x): {detail}. Mend the verifier, and check it with `mulligan validate TASK`; "
            f"a higher limit can be set in the recipe."
        )
