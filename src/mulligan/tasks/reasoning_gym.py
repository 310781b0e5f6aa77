"""Any data set of the reasoning-gym package as a task: its score of 1.0 is a pass.

Problems are generated: each split comes from a seed of its own, and a problem that the test has
too is left out of dev, and one that either has is left out of train. A data set's entry, which
its scorer wants back, holds tuples and numbers as keys that JSON does not know; it travels as a
Python literal.
"""

import ast
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, ClassVar

from mulligan.errors import MulliganError, nearest
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.types import Problem, Verdict

INSTRUCTION = "\n\nWrite your final answer between <answer> and </answer>."
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OWN_OPTIONS = ("seed", "train_size", "test_size", "dev_size")

UNFIT = {
    "codeio": "it runs code that draws random numbers, so its problems change from time to time",
    "composite": "it is a mixture of other data sets, which are tasks of their own",
    "game_of_life_halting": "its scorer passes any text as soon as there is one",
}
"""Data sets that cannot serve as tasks, and why."""

HASH_DEPENDENT = (
    "isomorphic_strings",
    "knight_swap",
    "polynomial_multiplication",
    "ransom_note",
    "word_ladder",
)
"""Data sets that walk through Python sets, whose order changes with every process by default."""

_EXAMPLES = ("possible_answer", "example_correct_answer")
"""Where an entry without an answer of its own may have one that passes."""


class ReasoningGym(Task):
    """One data set of reasoning-gym.

    Args:
        dataset: Its name in the package, such as ``chain_sum``.
        seed: What the problems are drawn from.
        train_size: How many problems are drawn for training; repeated ones count once.
        test_size: How many problems are drawn for the test.
        dev_size: How many problems are drawn for the dev split; 0 for no dev split.
        config: The data set's own settings, such as ``max_digits``.

    Raises:
        MulliganError: the package is not installed, or there is no such data set or setting.
    """

    name: ClassVar[str] = "reasoning_gym"
    without_split = (
        "Give it one with task_options.dev_size, the number of problems to draw for it, or use "
        "evaluate.split: test."
    )

    def __init__(
        self,
        dataset: str,
        seed: int = 0,
        train_size: int = 10_000,
        test_size: int = 500,
        dev_size: int = 0,
        **config: Any,
    ) -> None:
        self.dataset = dataset
        self.config = config
        sizes: dict[Split, int] = {"train": train_size, "dev": dev_size, "test": test_size}
        self.splits = tuple(split for split, size in sizes.items() if split != "dev" or size)
        self._entries = {
            split: _create(dataset, derive_seed(seed, split) % 2**31, sizes[split], config)
            for split in self.splits
        }

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the problems of a split, each once."""
        seen = set(self._held_out_before(split))
        entries = self._entries[split]
        for index in range(len(entries)):
            problem = _problem(entries[index])
            if problem.id not in seen:
                seen.add(problem.id)
                yield problem

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score the text between the last answer tags."""
        answers = _ANSWER.findall(answer)
        if not answers:
            return Verdict.unparseable()
        score = self._score(problem, answers[-1].strip())
        return Verdict.right() if score == 1 else Verdict.wrong(detail=f"score {score:g}")

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers have the same text between their last answer tags."""
        del problem
        first, second = _ANSWER.findall(one), _ANSWER.findall(other)
        return bool(first and second) and first[-1].split() == second[-1].split()

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether a line of the reflection, or what it puts between answer tags, passes."""
        lines = [line.strip() for line in reflection.splitlines() if line.strip()]
        candidates = dict.fromkeys([*_ANSWER.findall(reflection), *lines])
        return any(self._score(problem, text) == 1 for text in candidates)

    def _held_out_before(self, split: Split) -> set[str]:
        """Return the ids of problems that a split leaves to others."""
        if split == "test":
            return set()
        return self._test_ids if split == "dev" else self._test_ids | self._dev_ids

    @cached_property
    def _test_ids(self) -> set[str]:
        return {problem.id for problem in self.problems("test")}

    @cached_property
    def _dev_ids(self) -> set[str]:
        return {problem.id for problem in self.problems("dev")} if "dev" in self.splits else set()

    def _score(self, problem: Problem, text: str) -> float:
        entry = ast.literal_eval(problem.given["entry"])
        return float(self._entries["test"].score_answer(text, entry))


def _problem(entry: Mapping[str, Any]) -> Problem:
    """Make a problem of a data set's entry.

    The id is that of question and answer: the rest of the entry, such as the index at which it
    was drawn, makes no difference to a problem.
    """
    answer = _answer(entry)
    text = entry["question"] + INSTRUCTION
    content = Problem.create(text, {"answer": answer})
    return replace(
        content,
        given={"entry": repr(_literal(entry))},
        reference=None if answer is None else f"<answer>{answer}</answer>",
    )


def _answer(entry: Mapping[str, Any]) -> str | None:
    """Return an answer that passes, where the entry has one."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    examples = [entry["metadata"][key] for key in _EXAMPLES if key in entry["metadata"]]
    if not examples:
        return None
    return examples[0] if isinstance(examples[0], str) else json.dumps(examples[0])


def _literal(value: Any) -> Any:
    """Replace numpy's numbers and strings by Python's, which can be written as literals."""
    if isinstance(value, dict):
        return {_literal(key): _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_literal(item) for item in value)
    return value.item() if hasattr(value, "item") else value


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Take ``NAME,key=value...`` apart; values are JSON where they can be, else text.

    Raises:
        MulliganError: a part is not of the form ``key=value``.
    """
    name, *parts = text.split(",")
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise MulliganError(
                f"In reasoning_gym:{text}, {part!r} should be of the form key=value. (Lists do not "
                f"fit here: give them under task_options.)"
            )
        options[key.strip()] = _value(value.strip())
    return name.strip(), options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _create(name: str, seed: int, size: int, config: Mapping[str, Any]) -> Any:
    """Make a data set, after checking its name and settings."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise MulliganError(
            "A reasoning_gym task needs the package: pip install reasoning-gym."
        ) from error
    if name not in DATASETS:
        raise MulliganError(f"reasoning-gym has no data set {name!r} ({nearest(name, DATASETS)}).")
    if name in UNFIT:
        raise MulliganError(f"reasoning-gym's {name} cannot serve as a task: {UNFIT[name]}.")
    if name in HASH_DEPENDENT and not os.environ.get("PYTHONHASHSEED", "").isdecimal():
        raise MulliganError(
            f"reasoning-gym's {name} makes other problems in every process. Set the environment "
            f"variable PYTHONHASHSEED=0 to use it."
        )
    settings = sorted({field.name for field in fields(DATASETS[name][1])} - {"seed", "size"})
    for key in config:
        if key not in settings:
            valid = [*settings, *OWN_OPTIONS]
            raise MulliganError(
                f"reasoning_gym:{name} has no option {key!r} ({nearest(key, valid)}). Its options: "
                f"{', '.join(valid)}."
            )
    try:
        return create_dataset(name, seed=seed, size=size, **config)
    except Exception as error:
        raise MulliganError(
            f"reasoning_gym:{name} cannot be made with {dict(config) or 'its defaults'}: "
            f"{type(error).__name__}: {error}."
        ) from error
