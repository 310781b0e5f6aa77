"""Calling a verifier and believing only a proper verdict."""

from collections import Counter, deque
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
    The share is that of the latest verdicts, so that a verifier that breaks late is noticed too.

    Args:
        limit: Largest share of verdicts that may be ``error``, from 0 to 1.
        at_least: How many verdicts are counted before the share is believed.
        window: How many of the latest verdicts are looked at.
    """

    def __init__(self, limit: float = 0.1, at_least: int = 20, window: int = 1000) -> None:
        self.limit = limit
        self.at_least = at_least
        self._errors: deque[str | None] = deque(maxlen=window)

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Count verdicts.

        Raises:
            MulliganError: the share of errors among the latest verdicts is above the limit.
        """
        for verdict in verdicts:
            self._errors.append(verdict.detail if verdict.status == "error" else None)
        details = Counter(detail for detail in self._errors if detail is not None)
        total = len(self._errors)
        if total >= self.at_least and details.total() > self.limit * total:
            commonest, count = details.most_common(1)[0]
            raise MulliganError(
                f"The verifier broke on {details.total()} of the last {total} answers "
                f"({details.total() / total:.0%}; at most {self.limit:.0%} may). Most often "
                f"({count}x): {commonest}. Fix the verifier, and check it with "
                f"`mulligan validate TASK`; the recipe's verify.max_error_share sets the limit."
            )
