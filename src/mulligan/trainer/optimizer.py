"""A policy and what updates it: AdamW, a learning-rate schedule, clipping, mixed precision.

Used by the supervised warm-up and by the method alike. The weights and AdamW's averages are kept
in float32; the arithmetic runs in the run's dtype under autocast. accelerate places the model and
scales to the devices it is launched on.
"""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_scheduler

from mulligan.config import Dtype
from mulligan.errors import MulliganError


def seed_generators(seed: int) -> None:
    """Seed the generators that a model may draw from while it is trained, for dropout say.

    A process starts with random ones; seeded, they are the same in every run of a seed, and a
    checkpoint's random states too.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimiser step did."""

    loss: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    applied: bool
    """False where loss or gradient was not finite: the weights were left as they were."""


class Learner:
    """Owns the optimiser state of a policy.

    Args:
        policy: trained in place; its weights should be float32.
        learning_rate: at its highest.
        steps: how many steps the schedule spans.
        schedule: ``cosine`` or ``constant``, after the warm-up.
        warmup_share: share of the steps in which the learning rate rises from 0.
        weight_decay: of AdamW.
        clip_gradient: bound on the gradient's norm.
        dtype: of the arithmetic.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        learning_rate: float,
        steps: int,
        schedule: str,
        warmup_share: float,
        weight_decay: float = 0.0,
        clip_gradient: float = 1.0,
        dtype: Dtype = "bfloat16",
    ) -> None:
        on_cpu = next(policy.parameters()).device.type == "cpu"
        precision = "bf16" if dtype == "bfloat16" else "no"
        self.accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
        if self.accelerator.num_processes > 1:
            raise MulliganError(
                f"Training runs in one process, but {self.accelerator.num_processes} were "
                "launched. Start mulligan directly rather than through `accelerate launch`."
            )
        self.policy = policy
        self.clip_gradient = clip_gradient
        parameters = [each for each in policy.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self.scheduler = get_scheduler(
            "cosine" if schedule == "cosine" else "constant_with_warmup",
            self.optimizer,
            num_warmup_steps=math.ceil(warmup_share * steps),
            num_training_steps=steps,
        )

    def update(self, losses: Iterable[Callable[[], Tensor]]) -> Update:
        """Take one step on the sum of some losses, each computed and differentiated in turn.

        A loss or gradient that is not finite changes nothing but the place in the schedule.
        """
        total = 0.0
        self.policy.train()
        with self.accelerator.autocast():  # around them all: the weights are cast once
            for compute in losses:
                loss = compute()
                total += loss.item()
                self.accelerator.backward(loss)
        norm = float(nn.utils.clip_grad_norm_(self.policy.parameters(), self.clip_gradient))
        rate = float(self.scheduler.get_last_lr()[0])
        applied = math.isfinite(total) and math.isfinite(norm)
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.policy.eval()
        return Update(total, norm, rate, applied)
