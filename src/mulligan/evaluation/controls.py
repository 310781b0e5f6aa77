"""The controls: second tries that differ from the method's in one thing.

A control is one entry of ``CONTROLS`` and the function that makes its prompts; the evaluation, the
tables, the JSON, the page and the figures take everything else from here. Its answers are sampled
as retries are, and whatever a model writes for it first may be as long as a reflection.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mulligan.config import Evaluate
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError, nearest
from mulligan.types import Attempt, Completion, TokenIds, Verdict

Judged = tuple[Completion, Verdict]
Write = Callable[[str, Sequence[TokenIds]], list[Completion]]
"""Continues each prompt, at most as long as a reflection; the text names what it is written for,
and gives it a seed of its own."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The failed first tries of one chunk, and what a control may do with them."""

    attempts: Sequence[Attempt]
    reflections: Sequence[Completion]
    """The model's own reflection on each failed attempt."""
    retries: Sequence[Judged]
    """The retry after each of these reflections."""
    conversations: Conversations
    settings: Evaluate
    write: Write
    """The evaluated model writes."""
    untrained_writes: Write | None
    """The model before training writes; None where there is none beside the evaluated one."""
    borrow: Callable[[], list[Completion]]
    """Returns a reflection on a problem outside the chunk, for a failure that is alone in it;
    empty where the evaluation has no other problem."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt for one of the failed attempts."""

    place: int
    """Which of the failed attempts this is a second try at."""
    prompt: TokenIds
    text: Completion | None = None
    """What stands between the failed answer and this try, where the control has a text."""


@dataclass(frozen=True, slots=True)
class Control:
    """A second try that differs from the method's in one thing."""

    name: str
    title: str
    """How a person reads it in a table."""
    says: str
    """What is done, in a clause."""
    ask: Callable[[Failed], Iterable[Asked]]
    after_retry: bool = False
    """Whether it follows the retry: asked only where that failed, solved where that passed."""
    needs_untrained: bool = False
    """Whether it needs the model before training, so that there is none before training."""
    untrained_answers: bool = False
    """Whether the model before training answers."""

    @property
    def column(self) -> str:
        """Name of its column in tables."""
        return f"after_{self.name}"


def _nothing(failed: Failed) -> Iterator[Asked]:
    for place, attempt in enumerate(failed.attempts):
        prompt = failed.conversations.retry_without_reflection(attempt.problem, attempt.completion)
        yield Asked(place, prompt)


def _other_reflection(failed: Failed) -> Iterator[Asked]:
    """Give each failure the reflection on the next one, so always another problem's."""
    own = failed.reflections
    return _retries(failed, [*own[1:], *own[:1]] if len(own) > 1 else failed.borrow())


def _filler(failed: Failed) -> Iterator[Asked]:
    return _retries(failed, [failed.conversations.filler(z) for z in failed.reflections])


def _constant(failed: Failed) -> Iterator[Asked]:
    sentence = failed.conversations.written(failed.settings.constant or "")
    return _retries(failed, [sentence] * len(failed.attempts))


def _think_first(failed: Failed) -> Iterator[Asked]:
    conversations, request = failed.conversations, failed.settings.think
    problems = [attempt.problem for attempt in failed.attempts]
    thoughts = failed.write("thought", [conversations.thought(each, request) for each in problems])
    for place, (problem, thought) in enumerate(zip(problems, thoughts, strict=True)):
        yield Asked(place, conversations.answer_after_thought(problem, request, thought), thought)


def _before_reflection(failed: Failed) -> Iterator[Asked]:
    if failed.untrained_writes is None:
        return iter(())
    conversations = failed.conversations
    prompts = [
        conversations.about(attempt.verdict).reflection(attempt.problem, attempt.completion)
        for attempt in failed.attempts
    ]
    return _retries(failed, failed.untrained_writes("before_reflection", prompts))


def _before_retry(failed: Failed) -> Iterator[Asked]:
    return iter(()) if failed.untrained_writes is None else _retries(failed, failed.reflections)


def _second_reflection(failed: Failed) -> Iterator[Asked]:
    said = [
        (
            place,
            attempt.problem,
            (attempt.completion, reflection, retry),
            failed.conversations.about(attempt.verdict, verdict),
        )
        for place, (attempt, reflection, (retry, verdict)) in enumerate(
            zip(failed.attempts, failed.reflections, failed.retries, strict=True)
        )
        if verdict.status in ("failed", "unparseable")
    ]
    prompts = [
        conversations.reflection(problem, *so_far) for _, problem, so_far, conversations in said
    ]
    written = failed.write("second_reflection", prompts) if prompts else []
    for (place, problem, so_far, conversations), reflection in zip(said, written, strict=True):
        yield Asked(place, conversations.retry(problem, *so_far, reflection), reflection)


def _retries(failed: Failed, reflections: Sequence[Completion]) -> Iterator[Asked]:
    """Yield the method's retry with other reflections in place of the model's own."""
    for place, reflection in enumerate(reflections):
        attempt = failed.attempts[place]
        conversations = failed.conversations.about(attempt.verdict)
        prompt = conversations.retry(attempt.problem, attempt.completion, reflection)
        yield Asked(place, prompt, reflection)


CONTROLS = (
    Control("nothing", "Control: no reflection", "asked again with nothing in between", _nothing),
    Control(
        "other_reflection",
        "Control: other reflection",
        "asked again after the model's reflection on another problem",
        _other_reflection,
    ),
    Control(
        "filler",
        "Control: filler tokens",
        "asked again after as many meaningless tokens as its reflection has",
        _filler,
    ),
    Control(
        "constant",
        "Control: constant sentence",
        "asked again after one sentence, the same for every problem",
        _constant,
    ),
    Control(
        "think_first",
        "Control: thinks first",
        "asked in a fresh conversation to think, in as many tokens as a reflection may have, and "
        "then to answer",
        _think_first,
    ),
    Control(
        "before_reflection",
        "Control: untrained reflects",
        "the model before training reflects on the same failure, the trained one retries",
        _before_reflection,
        needs_untrained=True,
    ),
    Control(
        "before_retry",
        "Control: untrained retries",
        "the trained model reflects, the model before training retries",
        _before_retry,
        needs_untrained=True,
        untrained_answers=True,
    ),
    Control(
        "second_reflection",
        "Control: reflects twice",
        "reflects and retries once more where the retry failed",
        _second_reflection,
        after_retry=True,
    ),
)
"""Every control there is, in the order in which they are asked and shown.

``filler`` after Pfau et al. (2024, arXiv 2404.15758), who answer after dots instead of thoughts.
"""

BY_NAME = {control.name: control for control in CONTROLS}
BY_COLUMN = {control.column: control for control in CONTROLS}


def controls_of(settings: Evaluate) -> tuple[Control, ...]:
    """Return the controls that a recipe asks for, in the registry's order.

    Raises:
        MulliganError: there is no such control, or the sentence that ``constant`` needs is missing.
    """
    for name in settings.controls:
        if name not in BY_NAME:
            raise MulliganError(
                f"evaluate.controls: there is no control {name!r}; {nearest(name, list(BY_NAME))}"
            )
    if "constant" in settings.controls and not settings.constant:
        raise MulliganError(
            "evaluate.controls asks for `constant`, which needs a sentence: set evaluate.constant "
            "to the one that helps most on the dev split."
        )
    return tuple(control for control in CONTROLS if control.name in settings.controls)
