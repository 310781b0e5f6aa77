"""The supervised warm-up on the demo's own demonstrations: tokens a second, in whole steps.

The first step of every turn is not counted: there a run checks its arithmetic once, against a plain
forward pass, which matters little in a whole warm-up and much in these few steps.

There is no peer: what a share of the machine's limit says is how much could still be won. The limit
counts forward and backward of every token of a batch, what its conversations begin with once, and
the vocabulary head for the tokens that are trained on.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.cases import OURS, Case, Play, Settings, Turn
from benchmarks.demo import demo_recipe
from benchmarks.machine import finish
from benchmarks.models import Arithmetic, model_folder
from mulligan.config import Sft
from mulligan.episodes.conversation import Conversations
from mulligan.models.load import load_model
from mulligan.tasks.registry import load_task
from mulligan.trainer.sft import Lesson, common_prefix, fine_tune, lessons_of
from mulligan.types import SftStep

EXAMPLES: Mapping[str, int] = {"full": 72, "quick": 40, "tiny": 16}
"""In batches of 8, as in the demo; the first batch is not counted."""


def cases(settings: Settings) -> list[Case]:
    """Return the one case of a size."""
    examples = EXAMPLES[settings.size]
    side = partial(_side, settings.model, examples)
    return [Case("demo", {OURS: side}, {"examples": examples})]


@contextmanager
def _side(name: str, examples: int) -> Iterator[Play]:
    recipe = demo_recipe([f"sft.examples={examples}", "sft.learning_rate=1e-7"])
    settings = recipe.sft
    assert settings is not None
    model, tokenizer = load_model(model_folder(name))
    conversations = Conversations(tokenizer, recipe.prompts.reflect, recipe.prompts.retry)
    task = load_task(recipe.task, recipe.task_options)
    demonstrations = list(task.demonstrations(examples, recipe.seed))
    lessons = [one for each in demonstrations for one in lessons_of(conversations, each, settings)]
    flops = needed(Arithmetic.of(model), lessons[settings.batch :], settings)

    def play(number: int) -> Turn:
        steps: list[SftStep] = []
        ends: list[float] = []

        def report(step: SftStep) -> None:
            finish(model.device)
            steps.append(step)
            ends.append(time.perf_counter())

        fine_tune(
            model,
            conversations,
            demonstrations,
            settings,
            seed=recipe.seed,
            dtype=recipe.dtype,
            first_step_learns=True,
            tokens_at_once=recipe.train.tokens_at_once,
            report=report,
        )
        tokens = sum(step.tokens for step in steps[1:])
        return Turn(ends[-1] - ends[0], tokens, flops, details={"steps": len(steps) - 1})

    yield play


def needed(arithmetic: Arithmetic, lessons: Sequence[Lesson], settings: Sft) -> float:
    """Return the operations of all batches, as if the lessons came in this order.

    The order of a run is shuffled, which changes by a few tokens what its batches share.
    """
    batches = [lessons[at : at + settings.batch] for at in range(0, len(lessons), settings.batch)]
    return sum(_batch(arithmetic, batch) for batch in batches)


def _batch(arithmetic: Arithmetic, batch: Sequence[Lesson]) -> float:
    shared = common_prefix(batch)
    rests = [len(lesson.token_ids) - shared for lesson in batch]
    scored = sum(sum(lesson.trained) for lesson in batch)
    keys = shared**2 / 2 + sum(rest * (shared + rest / 2) for rest in rests)
    return arithmetic.training(shared + sum(rests), scored, keys)
