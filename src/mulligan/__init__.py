"""Mulligan: a second chance for small language models, and learning from it.

The method is *Reflect, Retry, Reward* (Bensal et al., 2025, arXiv 2505.24726): a model fails a
task, reflects in its own words, and tries once more; when the retry passes, GRPO rewards the
tokens of the reflection and nothing else.
"""

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.types import Demonstration, Problem, Verdict

__version__ = "0.1.0"

__all__ = ["Demonstration", "MulliganError", "Problem", "Task", "Verdict", "__version__"]
