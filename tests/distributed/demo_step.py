"""Trains a run in several processes, and keeps its first rollout and the gradient of that."""

import sys
from pathlib import Path

from safetensors.torch import save_file

from mulligan.cli import main as mulligan
from mulligan.models.shards import whole
from mulligan.trainer.distributed import _decoded, _encoded
from mulligan.trainer.update import Updater
from mulligan.types import ScoredGroup

ROLLOUT, GRADIENT = "rollout.json", "gradient.safetensors"


def read_rollout(folder):
    """The groups of the first step."""
    return _decoded((folder / ROLLOUT).read_bytes(), list[ScoredGroup])


def note_gradient(updater):
    """Return a dictionary that gets the gradient of the updater's next step."""
    found = {}

    def note(*_):
        hook.remove()
        for name, each in updater.optimizer.policy.named_parameters():
            if each.grad is not None:
                found[name] = whole(each.grad).clone()

    hook = updater.optimizer.optimizer.register_step_pre_hook(note)
    return found


def main(folder, *command):
    """Run a command, and write down what its first update was made of."""
    update = Updater.update

    def noting(updater, scored):
        Updater.update = update
        gradient = note_gradient(updater)
        done = updater.update(scored)
        if updater.processes.leads:
            (folder / ROLLOUT).write_bytes(_encoded(list(scored)))
            save_file(gradient, folder / GRADIENT)
        return done

    Updater.update = noting
    sys.argv = ["mulligan", *command]
    mulligan()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
