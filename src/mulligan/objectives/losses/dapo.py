from collections.abc import Sequence
from typing import TYPE_CHECKING

from mulligan.objectives.losses._policy_gradient import PolicyGradient
from mulligan.types import Span

if TYPE_CHECKING:
    from torch import Tensor


class Dapo(PolicyGradient):
    """Policy gradient; a token weighs the same as any other of the batch.

    DAPO (arXiv 2503.14476), equation 8; the default of TRL.
    """

    def normaliser(self, groups: Sequence[Sequence[Span]]) -> float:
        """Return the number of tokens that learn."""
        return float(max(sum(sum(span.learns) for spans in groups for span in spans), 1))

    def weigh(self, loss_GR: "Tensor", mask_GR: "Tensor") -> "Tensor":
        """Leave every token as it is."""
        del mask_GR
        return loss_GR
