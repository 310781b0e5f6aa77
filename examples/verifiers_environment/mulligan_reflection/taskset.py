"""Failures as tasks: a run's failed attempts, each with the request to reflect on it."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from verifiers import v1 as vf
from verifiers.v1.dialects import parse_message

from mulligan.config import Recipe
from mulligan.episodes.chat import ChatConversations
from mulligan.episodes.failures import FailureStore
from mulligan.run.session import recipe_of
from mulligan.storage.run_folder import RunFolder
from mulligan.types import ChatPrompt, Completion, Problem, TokenIds, Verdict

PROBLEM, VERDICT = TypeAdapter(Problem), TypeAdapter(Verdict)


class FailureData(vf.TaskData):
    """What the environment's server needs to know of a failure, as plain JSON."""

    failure: str
    """Its id; a field of its own, since older releases know no ``id``."""
    problem: dict[str, Any]
    answer: str
    """The answer that failed."""
    verdict: dict[str, Any]
    """On that answer."""
    tools: tuple[dict[str, Any], ...] = ()
    """As the chat template takes them."""


class FailureTask(vf.Task[FailureData]):
    """A failure to reflect on; its key is the failure's id."""

    @property
    def key(self) -> str:
        """The failure's id, whatever its place in the store."""
        return str(self.data.failure)

    @property
    def problem(self) -> Problem:
        """The problem that was failed."""
        return PROBLEM.validate_python(self.data.problem)


class FailuresConfig(vf.TasksetConfig):
    """Where the failures are."""

    run: Path
    """A run folder in which failures were collected; its recipe says how retries are judged."""


class Failures(vf.Taskset[FailureTask, FailuresConfig]):
    """The failures that a run collected, in the order in which they were stored."""

    @cached_property
    def recipe(self) -> Recipe:
        """The run's."""
        return recipe_of(RunFolder(self.config.run))

    @cached_property
    def conversations(self) -> ChatConversations:
        """Prompts in the recipe's words."""
        prompts = self.recipe.prompts
        return ChatConversations(prompts.reflect, prompts.retry, marks=prompts.thoughts)

    def load(self) -> Iterator[FailureTask]:
        """Yield a task for each failure.

        Raises:
            MulliganError: there are none.
        """
        with FailureStore(RunFolder(self.config.run).failures) as store:
            store.require(1)
            for failure in store:
                tried = failure.attempt
                about = self.conversations.about(tried.verdict)
                prompt = about.reflection(tried.problem, tried.completion)
                data = FailureData(
                    failure=failure.id,
                    prompt=_messages(prompt),
                    problem=PROBLEM.dump_python(tried.problem, mode="json"),
                    answer=tried.completion.text,
                    verdict=VERDICT.dump_python(tried.verdict, mode="json"),
                    tools=_tools(prompt),
                )
                yield FailureTask(data, self.config.task)

    def retry(self, task: FailureTask, reflection: Completion) -> FailureTask:
        """Return the task to answer the problem again after a reflection."""
        about = self.conversations.about(VERDICT.validate_python(task.data.verdict))
        failed = Completion((), task.data.answer, "stop")
        prompt = about.retry(task.problem, failed, reflection)
        return FailureTask(task.data.model_copy(update={"prompt": _messages(prompt)}), task.config)


def _messages(prompt: TokenIds) -> vf.Messages:
    assert isinstance(prompt, ChatPrompt)
    return [parse_message(dict(message)) for message in prompt.messages]


def _tools(prompt: TokenIds) -> tuple[dict[str, Any], ...]:
    """Return the tools as OpenAI's protocol wraps them."""
    assert isinstance(prompt, ChatPrompt)
    return tuple(
        dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
        for tool in prompt.tools
    )
