"""Group-normalised advantages: each episode's reward measured against its own group."""

import math
from collections.abc import Sequence


def is_dead(rewards_G: Sequence[float]) -> bool:
    """Whether a group teaches nothing, because all of its rewards are equal.

    Decided by max == min and not by the standard deviation, which rounding can leave above zero.
    """
    return max(rewards_G) == min(rewards_G)


def group_advantages(
    rewards_G: Sequence[float], *, eps: float = 1e-4, scale: bool = True
) -> tuple[float, ...]:
    """Return A_i = (r_i - mean(r)) / (std(r) + eps) for the G episodes of one group.

    The standard deviation is the unbiased one (divisor G - 1), and ``eps`` is added to it, as in
    TRL's ``GRPOTrainer``. Equal rewards, and so a group of one, give exact zeros.

    Args:
        rewards_G: one finite reward for each episode.
        eps: keeps the quotient finite.
        scale: divide by the standard deviation; without it A_i = r_i - mean(r) (Dr. GRPO,
            arXiv 2503.20783).

    Raises:
        ValueError: there is no reward, or one is not finite. A missing reward is never a zero.
    """
    if not rewards_G or not all(math.isfinite(reward) for reward in rewards_G):
        raise ValueError(f"a group needs at least one reward, each finite; got {list(rewards_G)}")
    if is_dead(rewards_G):
        return (0.0,) * len(rewards_G)
    mean = math.fsum(rewards_G) / len(rewards_G)
    centred_G = [reward - mean for reward in rewards_G]
    if not scale:
        return tuple(centred_G)
    variance = math.fsum(value * value for value in centred_G) / (len(rewards_G) - 1)
    return tuple(value / (math.sqrt(variance) + eps) for value in centred_G)
