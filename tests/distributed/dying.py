"""Two processes of which one is killed or held up, while the other waits for it or computes."""

import os
import signal
import sys
import time

import torch
from torch.distributed.fsdp import fully_shard

from mulligan.trainer import launch


def main(who, where):
    """Meet; then the process ``who`` is killed, and the other is in a message or at work."""
    launch.BEAT_S, launch.SUSPECT_S, launch.SILENT_S = 0.1, 0.5, 1.5
    met = launch.Launch()
    sharded = fully_shard(torch.nn.Linear(4, 4))
    met.gather(b"here")
    time.sleep(0.5)
    if met.rank == int(who):
        os.kill(os.getpid(), signal.SIGSTOP if where == "held up" else signal.SIGKILL)
    if where == "at work":
        time.sleep(60)
    if where == "in a sharded pass":
        with met.naming_who_ended():
            sharded(torch.ones(1, 4))
    met.gather(b"still here")
    met.part()


if __name__ == "__main__":
    main(*sys.argv[1:])
