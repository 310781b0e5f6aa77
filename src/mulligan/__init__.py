"""Mulligan: a second chance for small language models, and learning from it.

The method is *Reflect, Retry, Reward* (Bensal et al., 2025, arXiv 2505.24726): a model fails a
task, reflects in its own words, and tries once more; when the retry passes, GRPO rewards the
tokens of the reflection and nothing else.
"""

from typing import TYPE_CHECKING, Any

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.types import Demonstration, Problem, Verdict

if TYPE_CHECKING:
    from mulligan.serving.mulligan import Mulligan

__version__ = "0.2.0"

__all__ = [
    "Demonstration",
    "Mulligan",
    "MulliganError",
    "Problem",
    "Task",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import what loads models when it is first used: a task file needs none of that."""
    if name == "Mulligan":
        from mulligan.serving.mulligan import Mulligan

        return Mulligan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
