"""A policy and what updates it: AdamW, a learning-rate schedule, clipping, mixed precision.

Used by supervised fine-tuning and by the method alike. The weights and AdamW's averages are kept
in float32; the arithmetic runs in the run's dtype under autocast. Each process has one device.
"""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from mulligan.config import Dtype, OptimizerKind
from mulligan.errors import MulliganError
from mulligan.models.heap import bound_freed_memory
from mulligan.models.shards import has_shards, whole
from mulligan.trainer.average import WeightAverage
from mulligan.trainer.distributed import ALONE, Processes


def seed_generators(seed: int) -> None:
    """Seed the generators that a model may draw from while it is trained, for dropout say.

    A process starts with random ones; seeded, they are the same in every run of a seed, and a
    checkpoint's random states too.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rate_factor(
    done: int, *, steps: int, warmup_steps: int, schedule: str, first_step_learns: bool
) -> float:
    """Return what the learning rate is multiplied by after some steps: at most 1, at least 0.

    It rises in equal parts over the warm-up, to 1 at its end; then it stays or falls along half a
    cosine that would reach 0 one step after the last.

    Args:
        done: steps taken so far.
        steps: steps in all.
        warmup_steps: steps in which it rises.
        schedule: ``cosine`` or ``constant``.
        first_step_learns: whether the warm-up's first factor is one part rather than 0.
    """
    if done < warmup_steps:
        return (done + first_step_learns) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (done - warmup_steps) / max(steps - warmup_steps, 1)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimiser step did."""

    loss: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    applied: bool
    """False where loss or gradient was not finite: the weights were left as they were."""


class PolicyOptimizer:
    """Owns the optimiser state of a policy.

    Args:
        policy: trained in place; its weights should be float32.
        learning_rate: at its highest.
        steps: how many steps the schedule spans.
        schedule: ``cosine`` or ``constant``, after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises.
        first_step_learns: whether the first of them has a learning rate above 0.
        weight_decay: of AdamW.
        max_grad_norm: bound on the gradient's norm.
        average_from: share of the steps after which weights are averaged; after the last step
            the policy then has the mean for its weights.
        dtype: of the arithmetic.
        kind: ``adamw``, or ``adamw_8bit``, whose averages take a quarter of the memory.
        processes: that each differentiate a share of a step's losses.

    Raises:
        MulliganError: bitsandbytes is wanted and missing.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        learning_rate: float,
        steps: int,
        schedule: str,
        warmup_ratio: float,
        first_step_learns: bool = True,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        average_from: float | None = None,
        dtype: Dtype = "bfloat16",
        kind: OptimizerKind = "adamw",
        processes: Processes = ALONE,
    ) -> None:
        self.policy = policy
        self.processes = processes
        self._half = dtype == "bfloat16"
        self._device = next(policy.parameters()).device.type
        self._sharded = has_shards(policy)
        self.max_grad_norm = max_grad_norm
        parameters = [each for each in policy.parameters() if each.requires_grad]
        self.optimizer = _make_adamw(kind, parameters, learning_rate, weight_decay)
        factor = partial(
            rate_factor,
            steps=steps,
            warmup_steps=math.ceil(warmup_ratio * steps),
            schedule=schedule,
            first_step_learns=first_step_learns,
        )
        self.scheduler = LambdaLR(self.optimizer, factor)
        self.steps = steps
        self.average = None if average_from is None else WeightAverage(policy, average_from, steps)

    def step(self, losses: Iterable[Callable[[], Tensor]]) -> Update:
        """Take one step on the sum of some losses, each computed and differentiated in turn.

        With several processes the sum is over the losses of all; loss, norm and whether the step is
        taken are the same in each.

        A loss or gradient that is not finite changes nothing but the place in the schedule.
        """
        total = 0.0
        self.policy.train()
        half = torch.autocast(
            self._device,
            torch.bfloat16,
            enabled=self._half,
            cache_enabled=not self._sharded,  # it would keep a copy of all that is gathered
        )
        with half:  # around them all: the weights are cast once
            for compute in losses:
                loss = compute()
                total += loss.item()
                loss.backward()  # type: ignore[no-untyped-call]
        [total] = self.processes.sum([total])
        self.processes.sum_gradients(self.policy.parameters())
        norm = self._clip()
        rate = float(self.scheduler.get_last_lr()[0])
        applied = math.isfinite(total) and math.isfinite(norm)
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self._average(done=self.scheduler.last_epoch)
        self.policy.eval()
        bound_freed_memory()
        return Update(total, norm, rate, applied)

    def _clip(self) -> float:
        """Bound the norm of the whole gradient, of which this process may have shards."""
        gradients = [each.grad for each in self.policy.parameters() if each.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        nn.utils.clip_grads_with_norm_(self.policy.parameters(), self.max_grad_norm, norm)
        return float(norm)

    def _average(self, done: int) -> None:
        """Take the weights into the mean, where there is one, and end with it."""
        if self.average is not None:
            self.average.add(done)
            if done == self.steps:
                self.average.put_into_policy()


def _make_adamw(
    kind: OptimizerKind, parameters: list[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=weight_decay, fused=True
        )
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MulliganError(
            "train.optimizer=adamw_8bit needs bitsandbytes: run `pip install bitsandbytes`, or use "
            "train.optimizer=adamw."
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(
        parameters, lr=learning_rate, weight_decay=weight_decay
    )
    return optimizer
