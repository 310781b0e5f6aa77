from collections.abc import Sequence
from typing import TYPE_CHECKING

from mulligan.objectives.losses._policy_gradient import PolicyGradient
from mulligan.types import Span

if TYPE_CHECKING:
    from torch import Tensor


class Grpo(PolicyGradient):
    """Policy gradient; a token weighs one over the length of its completion.

    DeepSeekMath (arXiv 2402.03300), equation 3.
    """

    def normaliser(self, groups: Sequence[Sequence[Span]]) -> float:
        """Return the number of completions."""
        return float(max(sum(map(len, groups)), 1))

    def weigh(self, loss_GR: "Tensor", mask_GR: "Tensor") -> "Tensor":
        """Divide by the length of each completion."""
        return loss_GR / mask_GR.sum(1, keepdim=True).clamp(min=1)
