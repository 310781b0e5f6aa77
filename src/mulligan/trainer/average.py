"""The mean of a policy's weights over its last steps: less noisy than the last step's weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mulligan.models.shards import cut_like

_PREFIX = "average."


class WeightAverage:
    """The running mean of the weights that are trained, after each step from a first one on.

    Source: Izmailov et al. (2018), Averaging weights leads to wider optima and better
    generalization, equation in algorithm 1, with every step as a cycle of its own.

    Args:
        policy: whose weights are averaged, in their own precision.
        average_from: share of the steps that are left out of the mean.
        steps: steps in all; the last one is always in the mean.
    """

    def __init__(self, policy: nn.Module, average_from: float, steps: int) -> None:
        self._weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
        self._means: dict[str, Tensor] = {}
        self.first = min(math.floor(average_from * steps) + 1, steps)

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take the present weights into the mean, after a step."""
        count = step - self.first + 1
        for name, weight in self._weights.items():
            if count == 1:
                self._means[name] = weight.detach().clone()
            elif count > 1:
                self._means[name].lerp_(weight.detach(), 1 / count)

    @torch.no_grad()
    def put_into_policy(self) -> None:
        """Give the policy the mean for its weights."""
        for name, mean in self._means.items():
            self._weights[name].copy_(mean)

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean, by names under which a checkpoint keeps it."""
        return {f"{_PREFIX}{name}": mean for name, mean in self._means.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the mean that a checkpoint kept; one before the first step has none."""
        self._means = {
            name: cut_like(tensors[f"{_PREFIX}{name}"], weight)
            for name, weight in self._weights.items()
            if f"{_PREFIX}{name}" in tensors
        }
