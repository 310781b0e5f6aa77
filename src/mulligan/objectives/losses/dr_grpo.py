from collections.abc import Sequence
from typing import TYPE_CHECKING

from mulligan.objectives.losses._policy_gradient import PolicyGradient
from mulligan.types import Span

if TYPE_CHECKING:
    from torch import Tensor


class DrGrpo(PolicyGradient):
    """Policy gradient; a token weighs the same everywhere, whatever is sampled.

    Understanding R1-Zero-Like Training (arXiv 2503.20783), section 3.2. Its advantages are not
    divided by their standard deviation either: `scale_advantages: false`.
    """

    def normaliser(self, groups: Sequence[Sequence[Span]]) -> float:
        """Return the number of completions times the longest there can be."""
        return float(max(sum(map(len, groups)), 1) * self.longest)

    def weigh(self, loss_GR: "Tensor", mask_GR: "Tensor") -> "Tensor":
        """Leave every token as it is."""
        del mask_GR
        return loss_GR
