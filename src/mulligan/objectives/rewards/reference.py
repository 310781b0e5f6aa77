import math
from collections.abc import Iterable, Sequence

from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Reward
from mulligan.tasks.base import Task
from mulligan.types import Completion, Group, Problem


class Reference(Reward):
    """How much likelier the reflection makes a known right answer; no retry is sampled.

    log p(answer | failure, reflection) - log p(answer | failure), in nats, under the present
    policy. VeriFree (arXiv 2505.21493) rewards the probability itself, and RLPR (arXiv 2506.18254)
    its difference from that without the reasoning. Problems need a reference answer.
    """

    range = (-math.inf, math.inf)
    needs_retry = False
    needs_reflection = True
    has_passes = False
    asks_policy = True

    def check(self, task: Task, problems: Iterable[Problem]) -> None:
        """Refuse a task whose problems have no reference answers."""
        lacking = sum(problem.reference is None for problem in problems)
        if lacking:
            raise MulliganError(
                f"The reward 'reference' needs a right answer to every problem, and {lacking} "
                f"training problems of {task.name!r} have none. Give them a reference, or use "
                "another reward."
            )

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return the gain in log-likelihood; a reflection that did not fit has none."""
        return [self._gains(group, evidence) for group in groups]

    def _gains(self, group: Group, evidence: Evidence) -> list[float | None]:
        tried = group.failure.attempt
        conversations = evidence.conversations.about(tried.verdict)
        if tried.problem.reference is None:
            raise MulliganError(f"Problem {tried.problem.id} has no reference answer.")
        answer = conversations.written(tried.problem.reference).token_ids
        bare = conversations.retry_without_reflection(tried.problem, tried.completion)
        [without] = evidence.likelihood(bare, [answer])

        def gain(reflection: Completion | None) -> float | None:
            if reflection is None or not reflection.token_ids:
                return None
            prompt = conversations.retry(tried.problem, tried.completion, reflection)
            return evidence.likelihood(prompt, [answer])[0] - without

        return [gain(episode.reflection) for episode in group.episodes]
