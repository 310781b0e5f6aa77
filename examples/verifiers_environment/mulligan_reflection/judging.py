"""Verdicts for many episodes at once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

from mulligan.config import Recipe
from mulligan.episodes.rollout import judge_completions
from mulligan.tasks.base import refuse_older_rules
from mulligan.tasks.registry import load_task
from mulligan.types import Completion, Problem, Verdict
from mulligan.verifiers.limits import limits_of
from mulligan.verifiers.pool import Verifier, verifier_for


class Judges:
    """A recipe's verifiers, as many as it has workers; each judges one answer at a time.

    Raises:
        MulliganError: there is no such task, or it judges by other rules than the run began with.
    """

    def __init__(self, recipe: Recipe) -> None:
        count = recipe.verify.workers
        task = load_task(recipe.task, recipe.task_options)
        refuse_older_rules(task, recipe.format)
        self._verifiers = ExitStack()
        self._idle: SimpleQueue[Verifier] = SimpleQueue()
        for _ in range(count):
            verifier = verifier_for(task, 1, limits_of(recipe.verify))
            self._idle.put(self._verifiers.enter_context(verifier))
        self._threads = ThreadPoolExecutor(count)

    async def verdict(self, problem: Problem, answer: Completion) -> Verdict:
        """Judge an answer, while other episodes go on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._judge, problem, answer)

    def _judge(self, problem: Problem, answer: Completion) -> Verdict:
        verifier = self._idle.get()
        try:
            return judge_completions(verifier.verify_many, [(problem, answer)])[0]
        finally:
            self._idle.put(verifier)

    def close(self) -> None:
        """End the verifiers and all that they started."""
        self._threads.shutdown()
        self._verifiers.close()
