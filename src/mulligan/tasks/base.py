"""What a task is: problems, and a verifier for answers to them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from mulligan.errors import MulliganError
from mulligan.types import Demonstration, Problem, Verdict

Split = Literal["train", "dev", "test"]
"""``train`` is learnt from, ``dev`` is what settings are tuned on, ``test`` is reported."""


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task came from: enough for a worker process to load it again."""

    spec: str
    """As the recipe writes it: a name, a file, ``reasoning_gym:NAME``."""
    options: Mapping[str, Any]
    """The task's options, as plain JSON values."""
    folder: str
    """The working folder against which relative paths were read."""


class Task(ABC):
    """A named set of problems, how a model is asked, and the verifier.

    A subclass takes its options as keyword arguments of ``__init__``; the recipe's
    ``task_options`` are passed there. A task knows no model, engine or tokenizer.
    """

    name: ClassVar[str]
    """Short name, as recipes and reports write it."""
    reasons: Sequence[str] = ("passed", "wrong", "no_answer")
    """Every reason that ``verify`` may give, ``passed`` first."""
    safe: bool = False
    """True only for verifiers that are bounded in time and memory by construction: they run in
    process. All others run in worker processes that can be killed (``verifiers/pool.py``)."""

    network: bool = False
    """Whether the verifier needs the network, which worker processes are otherwise cut off from."""
    answers_are_shared: bool = False
    """Whether an answer to one problem may well be right for others too, as where only its form is
    asked for; ``mulligan validate`` then does not take that for a verifier that looks away."""
    rules_changed: Mapping[int, str] = MappingProxyType({})
    """What changed in how answers are judged, by the run format from which on it holds. A run of
    an older format is not continued under other rules than it was started with."""

    splits: Sequence[Split] = ("train", "test")
    """The splits that ``problems`` knows. A task with a dev split lists it here; without that,
    ``dev`` is never asked for."""
    without_split: str = (
        "Use evaluate.split: test, or give the task class one: list it in "
        'splits = ("train", "dev", "test"), and yield its problems from problems("dev").'
    )
    """What to do where a recipe asks for a split that the task lacks."""
    source: TaskSource | None = None
    """Set by ``load_task``; a task made by hand has none, and can only be verified in process."""

    @abstractmethod
    def problems(self, split: Split) -> Iterable[Problem]:
        """Yield the problems of a split, always the same ones in the same order.

        Asked only for the splits in ``splits``, which are disjoint by problem id. The iterable
        may be endless for ``train``.
        """

    @abstractmethod
    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Judge one answer. Deterministic; free of side effects that matter."""

    def same_answer(self, problem: Problem, one: str, other: str) -> bool:
        """Whether two answers say the same, right or wrong; optional.

        An answer that cannot be read is not the same as any. Needed by rewards that compare
        answers, such as ``majority``; ``compares_answers`` says whether a task defines it.

        Raises:
            MulliganError: the task does not define it.
        """
        del problem, one, other
        raise MulliganError(
            f"The task {self.name!r} cannot say when two answers are the same. Define "
            f"same_answer(problem, one, other) in its class."
        )

    @property
    def compares_answers(self) -> bool:
        """Whether the task defines ``same_answer``."""
        return type(self).same_answer is not Task.same_answer

    def leaks(self, problem: Problem, reflection: str) -> bool:
        """Whether a reflection contains a passing answer, wherever it stands.

        That is wider than what ``verify`` takes for an answer, on purpose: a passing answer that
        is weighed, denied or quoted gives the answer away all the same. By default: whether the
        whole text, or one of its lines, passes.
        """
        lines = [line for line in reflection.splitlines() if line.strip()]
        candidates = dict.fromkeys([reflection, *lines])
        return any(self.verify(problem, text).passed for text in candidates)

    def wrong_answers(self, problem: Problem) -> Iterable[str]:
        """Return answers that must not pass, for ``mulligan validate``; by default none."""
        del problem
        return ()

    def demonstrations(self, count: int, seed: int) -> Iterable[Demonstration]:
        """Yield conversations for the supervised warm-up, from the training split only.

        Tasks that offer none yield nothing; a recipe with a warm-up then says so and stops.
        """
        del count, seed
        return ()


def refuse_older_rules(task: Task, run_format: int) -> None:
    """Check that a run can go on with the rules by which a task judges now.

    Raises:
        MulliganError: the rules changed after the run's format; names what changed.
    """
    changed = [what for since, what in sorted(task.rules_changed.items()) if since > run_format]
    if changed:
        raise MulliganError(
            f"This run has format {run_format}, and the task {task.name!r} now judges answers "
            f"by other rules: {'; '.join(changed)}. Its numbers would mix both. Finish it "
            "with the version that its config.yaml names under made_with, or start a new run."
        )
