"""Checkpoints of several processes, in the one format that there is for any number of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from mulligan.storage.checkpoint import Checkpoints
from mulligan.trainer.distributed import Processes


class SharedCheckpoints:
    """The checkpoints of a run: the first process writes them, the others load what it wrote.

    Args:
        checkpoints: all processes see the same folder.
        processes: that train together.
        policy: whose weights must be the same in all of them.
    """

    def __init__(self, checkpoints: Checkpoints, processes: Processes, policy: nn.Module) -> None:
        self._checkpoints = checkpoints
        self._processes = processes
        self._policy = policy

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        step = self._processes.first(self._checkpoints.newest, int | None)
        return None if step is None else self._checkpoints.path(step)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        write: Callable[[Path, Mapping[str, Tensor]], None],
    ) -> None:
        """Save the checkpoint of a step, once it is sure that all processes would save the same.

        Args:
            step: the step it belongs to.
            tensors: go into it; where they are shards, all processes give theirs.
            write: fills a folder with them, whole.
        """
        self._processes.require_equal(self._policy.parameters())
        with self._processes.answered():
            whole = self._processes.gathered(tensors)
        if self._processes.leads:
            self._checkpoints.save(step, lambda folder: write(folder, whole))

    def mark_best(self, step: int) -> None:
        """Say which checkpoint is the best by evaluation."""
        if self._processes.leads:
            self._checkpoints.mark_best(step)
