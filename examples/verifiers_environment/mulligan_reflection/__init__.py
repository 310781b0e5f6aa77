"""Reflect, Retry, Reward as an environment for verifiers, and so for prime-rl.

verifiers imports an environment by its id, as a module of its own at the top: that is why this is a
package beside ``mulligan`` and no part of it.
"""

from mulligan_reflection.environment import ReflectRetry
from mulligan_reflection.harness import OneCompletion
from mulligan_reflection.taskset import Failures

__all__ = ["Failures", "OneCompletion", "ReflectRetry"]
