"""Evaluation on the demo's own work: first try, reflection, retry and controls, tokens a second.

There is no peer: what a share of the machine's limit says is how much could still be won. The limit
is 2N floating-point operations for every token that has to be computed, what conversations begin
with alike once.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.cases import OURS, Case, Play, Settings, Turn
from benchmarks.demo import demo_recipe
from benchmarks.machine import seconds
from benchmarks.models import Arithmetic, model_folder
from benchmarks.workload import distinct_tokens
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.conversation import Conversations
from mulligan.evaluation.evaluate import Protocol, evaluate
from mulligan.evaluation.trials import open_trials
from mulligan.models.load import load_model
from mulligan.tasks.registry import load_task
from mulligan.tasks.splits import first_problems
from mulligan.types import Completion, Sampling, TokenIds
from mulligan.verifiers.pool import InProcessVerifier

PROBLEMS: Mapping[str, int] = {"full": 200, "quick": 64, "tiny": 4}
"""A chunk of the demo's evaluation has 200."""


def cases(settings: Settings) -> list[Case]:
    """Return the one case of a size."""
    problems = PROBLEMS[settings.size]
    side = partial(_side, settings.model, problems)
    return [Case("demo", {OURS: side}, {"problems": problems})]


class Watched(LocalEngine):
    """Our engine, which remembers what it was asked and what it said."""

    said: list[TokenIds]
    generated: int

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Generate, and remember it."""
        groups = super().generate(prompts, n, sampling)
        for prompt, group in zip(prompts, groups, strict=True):
            self.said += [(*prompt, *each.token_ids) for each in group]
            self.generated += sum(len(each.token_ids) for each in group)
        return groups

    def forget(self) -> None:
        """Forget what was asked and said, keys and values too."""
        self.reset_cache()
        self.said, self.generated = [], 0


@contextmanager
def _side(name: str, problems: int) -> Iterator[Play]:
    recipe = demo_recipe([f"evaluate.problems={problems}", f"generate.problems_at_once={problems}"])
    model, tokenizer = load_model(model_folder(name), recipe.dtype)
    task = load_task(recipe.task, recipe.task_options)
    conversations = Conversations(tokenizer, recipe.prompts.reflect, recipe.prompts.retry)
    verifier, engine = InProcessVerifier(task), Watched(model, tokenizer)
    engine.forget()
    protocol = Protocol.of(recipe, first_problems(task, recipe.evaluate.split, problems))
    arithmetic = Arithmetic.of(model)

    def play(number: int) -> Turn:
        engine.forget()
        with (
            tempfile.TemporaryDirectory() as scratch,
            open_trials(Path(scratch) / "trials.jsonl") as log,
        ):
            work = partial(
                evaluate,
                engine,
                conversations,
                verifier.verify_many,
                verifier.leaks_many,
                protocol,
                f"round {number}",
                log,
            )
            taken = seconds(work, model.device)
        prompts = max(distinct_tokens(engine.said) - engine.generated, 0)
        flops = arithmetic.generation(engine.generated, prompts)
        return Turn(taken, engine.generated, flops, details={"prompts": prompts})

    yield play
