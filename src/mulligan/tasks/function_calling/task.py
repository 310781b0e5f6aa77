"""What the function-calling tasks share: prompts, splits, reading an answer, leaks, warm-up."""

import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.tasks.demonstrations import REFLECTION_SHARES, check_weights
from mulligan.tasks.function_calling import demonstrations as warm_up
from mulligan.tasks.function_calling.calls import REASONS, Call, compare_exactly, write_calls
from mulligan.tasks.function_calling.clusters import clusters
from mulligan.tasks.function_calling.faults import FAULT_SHARES
from mulligan.tasks.function_calling.parse import UnreadableError, find_calls, read_calls
from mulligan.tasks.splits import WITHOUT_DEV_SHARE, check_shares, split_of, splits_with
from mulligan.types import Demonstration, Message, Problem, Verdict

SYSTEM = (
    "Answer with the tool calls that the user needs and nothing else, as a JSON array: "
    '[{"name": "tool", "arguments": {"parameter": "value"}}]'
)
"""The system message by default: how to write the answer."""


@dataclass(kw_only=True, eq=False)
class CallTask(Task):
    """A task whose answers are calls of offered tools; its options.

    Raises:
        MulliganError: For an option with a wrong value.
    """

    reasons = REASONS
    safe = True

    seed: int = 0
    """Decides the split and the order of problems."""
    test_share: float = 0.2
    """The share of problems in the test split, on average. Problems that offer tools of the same
    names, or ask the same question, are always on the same side; a single tool may be on both, in
    different company."""
    dev_share: float = 0.0
    """The share of problems in the dev split, taken out of training; 0 for no dev split."""
    train_size: int | None = None
    """At most how many training problems there are; ``None`` for all."""
    dev_size: int | None = None
    """At most how many dev problems there are; ``None`` for all."""
    test_size: int | None = None
    """At most how many test problems there are; ``None`` for all."""
    min_prompt_chars: int = 0
    """Leaves out problems whose messages and tools, as compact JSON, are shorter than this."""
    max_prompt_chars: int | None = None
    """Leaves out problems that are longer than this; ``None`` for no bound."""
    system: str | None = SYSTEM
    """A system message before the question, which says how to write the answer; ``None`` for
    none, for models whose chat template says so itself."""
    answer_share: float = 0.4
    """The share of demonstrations that are a question and its answer."""
    reflection_shares: Mapping[str, float] = field(default_factory=lambda: dict(REFLECTION_SHARES))
    """Weights of the kinds of reflection in the other demonstrations."""
    fault_shares: Mapping[str, float] = field(default_factory=lambda: dict(FAULT_SHARES))
    """Weights of the kinds of fault in their wrong attempts."""

    def __post_init__(self) -> None:
        check_shares(self.name, self.test_share, self.dev_share)
        if not 0 <= self.answer_share <= 1:
            raise MulliganError(
                f"{self.name}: answer_share should be between 0 and 1, but is {self.answer_share}."
            )
        for option in ("train_size", "dev_size", "test_size"):
            size = getattr(self, option)
            if size is not None and size < 1:
                raise MulliganError(f"{self.name}: {option} should be at least 1, but is {size}.")
        self.splits = splits_with(self.dev_share)
        self.without_split = WITHOUT_DEV_SHARE
        check_weights("reflection_shares", self.reflection_shares, REFLECTION_SHARES)
        check_weights("fault_shares", self.fault_shares, FAULT_SHARES)

    @abstractmethod
    def all_problems(self) -> Iterable[Problem]:
        """Yield the problems of both splits, each with a reference that passes."""

    @abstractmethod
    def judge_calls(self, problem: Problem, calls: Sequence[Call]) -> Verdict:
        """Judge calls that have been read; neither raises nor takes long, whatever they hold."""

    @abstractmethod
    def tool_names(self, problem: Problem) -> Sequence[str]:
        """Return the names of the tools offered."""

    def chosen(self, problem: Problem) -> bool:
        """Whether a problem takes part; it counts in making the splits either way."""
        del problem
        return True

    def problems(self, split: Split) -> Sequence[Problem]:
        """Return the problems of a split in an order of the seed's.

        Raises:
            MulliganError: If the source cannot be read, or the options leave no problem.
        """
        sizes = {"train": self.train_size, "dev": self.dev_size, "test": self.test_size}
        problems = self._problems[split]
        if not problems:
            raise MulliganError(
                f"{self.name}: no problems are left for the split {split!r}; widen the options "
                "that choose problems, such as test_share, min_prompt_chars and max_prompt_chars"
            )
        return problems[: sizes[split]]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Read the calls in an answer and judge them."""
        try:
            calls = read_calls(answer)
        except UnreadableError as error:
            return error.verdict
        return self.judge_calls(problem, calls)

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers make equal calls, in any order."""
        try:
            calls, others = read_calls(one), read_calls(other)
        except UnreadableError:
            return False
        return compare_exactly(calls, others, self.tool_names(problem)).passed

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether a reflection contains passing calls, next to each other, in any shape."""
        calls = find_calls(reflection, self.tool_names(problem))
        count = self.expected_calls(problem)
        windows = (calls[start : start + count] for start in range(len(calls) - count + 1))
        return any(self.judge_calls(problem, window).passed for window in windows)

    @abstractmethod
    def expected_calls(self, problem: Problem) -> int:
        """Return how many calls the right answer has."""

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Return the reference with faults that no rule forgives."""
        reference = problem.reference or ""
        first, *rest = calls = read_calls(reference)
        more = {**first.arguments, "no such parameter": 1}
        return [
            reference[:-1],
            write_calls([*calls, first]),
            write_calls([Call(f"no_{first.name}", first.arguments), *rest]),
            write_calls([Call(first.name, more), *rest]),
        ]

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        """Yield questions with their answers, and failures that a reflection corrects.

        The wrong first attempts are the reference with a fault in it, and the verifier has
        refused each of them.
        """
        return warm_up.demonstrations(
            self.problems("train"),
            self.verify,
            count,
            seed,
            answer_share=self.answer_share,
            reflection_shares=self.reflection_shares,
            fault_shares=self.fault_shares,
        )

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return a question's messages with the task's system message before them."""
        if self.system is None:
            return list(messages)
        own = [m["content"] for m in messages if m["role"] == "system"]
        others = [m for m in messages if m["role"] != "system"]
        return [{"role": "system", "content": "\n\n".join([self.system, *own])}, *others]

    @cached_property
    def _problems(self) -> dict[Split, list[Problem]]:
        """The problems of each split, in their order."""
        unique = list({problem.id: problem for problem in self.all_problems()}.values())
        names = clusters([self._cluster_keys(problem) for problem in unique])
        order = sorted(
            zip(unique, names, strict=True),
            key=lambda item: derive_seed(self.seed, "order", item[0].id),
        )
        longest = math.inf if self.max_prompt_chars is None else self.max_prompt_chars
        problems: dict[Split, list[Problem]] = {"train": [], "dev": [], "test": []}
        for problem, cluster in order:
            length = len(compact([*problem.messages, *problem.tools]))
            if self.chosen(problem) and self.min_prompt_chars <= length <= longest:
                problems[self._split(cluster)].append(problem)
        return problems

    def _split(self, cluster: str) -> Split:
        shares = {"test_share": self.test_share, "dev_share": self.dev_share}
        return split_of(self.seed, "test", cluster, **shares)

    def _cluster_keys(self, problem: Problem) -> list[str]:
        """Return what no two splits may share: the names of the tools, and the question."""
        asked = [m["content"] for m in problem.messages if m["role"] == "user"]
        return [
            "\x1f".join(["tools", *sorted(set(self.tool_names(problem)))]),
            " ".join(["question", *" ".join(asked).lower().split()]),
        ]


def describe(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool in the form that chat templates take: a JSON schema of its parameters."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def compact(value: Any) -> str:
    """Return a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
