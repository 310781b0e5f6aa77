"""What a run's first figures say against its settings, each with what to change."""

from collections.abc import Iterable, Sequence

from mulligan.config import Recipe
from mulligan.episodes.collect import Collected
from mulligan.types import Failure

LARGEST_RATE, LARGE_MODEL = 5e-6, 500_000_000
MOSTLY = 0.5


def on_learning_rate(recipe: Recipe, parameters: int) -> str | None:
    """Warn of a learning rate that suits a small model only."""
    rate = recipe.train.learning_rate
    if recipe.lora is not None or parameters <= LARGE_MODEL or rate <= LARGEST_RATE:
        return None
    return (
        f"train.learning_rate={rate:g} is high for {parameters / 1e9:.1f}B weights that are all "
        f"trained: models of this size tend to break above {LARGEST_RATE:g}. The paper uses "
        "train.learning_rate=5e-7."
    )


def on_collected(lines: Iterable[Collected], failures: Sequence[Failure]) -> list[str]:
    """Warn of first tries that teach nothing: none or all pass, or most are cut off."""
    lines = list(lines)
    attempts, passed = sum(line.attempts for line in lines), sum(line.passed for line in lines)
    unparseable = sum(line.unparseable for line in lines)
    cut = sum(each.attempt.completion.finish_reason == "length" for each in failures)
    says = []
    if attempts and passed == 0:
        says.append(
            f"None of {attempts} first tries passed ({unparseable} could not be read), so "
            "retries are unlikely to pass either. Use easier problems, a larger model, or an "
            "sft section."
        )
    if attempts and passed == attempts:
        says.append(f"All {attempts} first tries passed: use harder problems or a smaller model.")
    if failures and cut > MOSTLY * len(failures):
        says.append(
            f"{cut} of {len(failures)} failed answers were cut off at the limit. "
            "Raise generate.answer_tokens."
        )
    return says


def on_reflections(truncated: float, source: str) -> str | None:
    """Warn of reflections that are mostly cut off: a share of them, and where they come from."""
    if truncated <= MOSTLY:
        return None
    return (
        f"{truncated:.0%} of the reflections of {source} were cut off at the limit. "
        "Raise generate.reflection_tokens, or ask for shorter ones by prompts.reflect."
    )
