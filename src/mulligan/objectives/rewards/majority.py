from collections.abc import Iterable, Sequence
from itertools import combinations

from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Reward
from mulligan.tasks.base import Task
from mulligan.types import Group, Problem


class Majority(Reward):
    """1 where the answer is the one that most of the group give, else 0; no verdict is used.

    TTRL (arXiv 2504.16084). The task has to say when two answers are the same. An answer that
    cannot be read has no vote; where several answers have most votes, all of them are rewarded.
    """

    def check(self, task: Task, problems: Iterable[Problem]) -> None:
        """Refuse a task that cannot compare answers."""
        del problems
        if not task.compares_answers:
            raise MulliganError(
                f"The reward 'majority' asks when two answers are the same, and the task "
                f"{task.name!r} cannot say. Define same_answer(problem, one, other) in its class, "
                "or use another reward."
            )

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return 1 for each answer that is the same as most others."""
        pairs = [
            (row, one, other)
            for row, group in enumerate(groups)
            for one, other in combinations(_readable(group), 2)
        ]
        asked = [
            (
                groups[row].failure.attempt.problem,
                _text(groups[row], one),
                _text(groups[row], other),
            )
            for row, one, other in pairs
        ]
        same = evidence.verifier.same_many(asked)
        broken = {row for (row, _, _), answer in zip(pairs, same, strict=True) if answer is None}
        votes = [dict.fromkeys(_readable(group), 1) for group in groups]
        for (row, one, other), answer in zip(pairs, same, strict=True):
            votes[row][one] += bool(answer)
            votes[row][other] += bool(answer)
        return [
            [None] * len(group.episodes) if row in broken else _most_voted(group, votes[row])
            for row, group in enumerate(groups)
        ]


def _readable(group: Group) -> list[int]:
    return [
        number
        for number, episode in enumerate(group.episodes)
        if episode.verdict is not None and episode.verdict.status != "unparseable"
    ]


def _asked(group: Group, one: int, other: int) -> tuple[Problem, str, str]:
    return group.failure.attempt.problem, _text(group, one), _text(group, other)


def _text(group: Group, number: int) -> str:
    retry = group.episodes[number].retry
    return "" if retry is None else retry.text


def _most_voted(group: Group, votes: dict[int, int]) -> list[float | None]:
    most = max(votes.values(), default=0)
    return [float(votes.get(number) == most) for number in range(len(group.episodes))]
