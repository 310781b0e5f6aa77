"""Any data set of the reasoning-gym package as a task: its score of 1.0 is a pass.

Problems are generated: train and test come from seeds of their own, and a train problem that also
is a test problem is left out. A data set's own notes about a problem need not be plain JSON, so a
problem carries its seed and index, and the verifier generates it again.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, ClassVar

from mulligan.errors import MulliganError, nearest
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split, Task
from mulligan.types import Problem, Verdict

INSTRUCTION = "\n\nWrite your final answer between <answer> and </answer>."
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OWN_OPTIONS = ("seed", "train_size", "test_size")


class ReasoningGym(Task):
    """One data set of reasoning-gym.

    Args:
        dataset: Its name in the package, such as ``chain_sum``.
        seed: What the problems are drawn from.
        train_size: How many problems are drawn for training; repeated ones count once.
        test_size: How many problems are drawn for the test.
        config: The data set's own settings, such as ``max_digits``.

    Raises:
        MulliganError: the package is not installed, or there is no such data set or setting.
    """

    name: ClassVar[str] = "reasoning_gym"

    def __init__(
        self,
        dataset: str,
        seed: int = 0,
        train_size: int = 10_000,
        test_size: int = 500,
        **config: Any,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self._splits = {
            "train": _create(dataset, derive_seed(seed, "train") % 2**31, train_size, config),
            "test": _create(dataset, derive_seed(seed, "test") % 2**31, test_size, config),
        }
        self._entry = lru_cache(maxsize=64)(self._generate)

    def problems(self, split: Split) -> Iterator[Problem]:
        """Yield the problems of a split, each once."""
        seen = set() if split == "test" else {problem.id for problem in self.problems("test")}
        for index in range(self._splits[split].size):
            problem = self._problem(split, index)
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

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether a line of the reflection, or what it puts between answer tags, passes."""
        lines = [line.strip() for line in reflection.splitlines() if line.strip()]
        candidates = dict.fromkeys([*_ANSWER.findall(reflection), *lines])
        return any(self._score(problem, text) == 1 for text in candidates)

    def _problem(self, split: Split, index: int) -> Problem:
        entry = self._entry(split, index)
        answer = entry["answer"]
        text = entry["question"] + INSTRUCTION
        # The id is that of the content; where to find it is added afterwards.
        problem = Problem.create(text, {"dataset": self.dataset, "answer": str(answer)})
        reference = None if answer is None else f"<answer>{answer}</answer>"
        given = {"split": split, "index": index, "question": entry["question"]}
        return replace(problem, given=given, reference=reference)

    def _generate(self, split: Split, index: int) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = self._splits[split][index]
        return entry

    def _score(self, problem: Problem, text: str) -> float:
        entry = self._entry(problem.given["split"], problem.given["index"])
        if entry["question"] != problem.given["question"]:
            raise MulliganError(f"reasoning-gym's {self.dataset} does not repeat its problems")
        return float(self._splits[problem.given["split"]].score_answer(text, entry))


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
