"""Processes that torchrun or ``accelerate launch`` started: how they meet, and who has ended.

A process that dies while the others wait for it would leave them waiting for ever. So each counts
up a number of its own in the launch's store, and one whose number stands still has ended: the
others name it and end too. Unless they see it live on their own machine: a number also stands still
while its process writes a large checkpoint, or gets little of a crowded processor.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mulligan.errors import MulliganError

logger = logging.getLogger("mulligan")

BEAT_S = 1.0
"""Seconds between two signs of life."""
SILENT_S = 40.0
"""Seconds without one after which a process counts as ended."""
SUSPECT_S = 5.0
"""The same, once a message to some process has failed."""
_STORE_S = 20.0
_PATIENCE = timedelta(days=30)
"""How long messages wait: it is the signs of life that tell whether anybody answers."""


class Launch:
    """The processes of a launch, connected: messages and sums, each called by all at once."""

    def __init__(self) -> None:
        self.busy = False
        """Whether the processes are amid something, where one that leaves just ends."""
        cuda = torch.cuda.is_available()
        if cuda:
            _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.names = [f"process {rank}" for rank in range(self.count)]
        own = f"{os.getpid()} {socket.gethostname()}"
        places = [each.decode().split(maxsplit=1) for each in self.gather(own.encode())]
        self.names = [
            f"process {rank} of {self.count} (pid {pid} on {host})"
            for rank, (pid, host) in enumerate(places)
        ]
        self._signs = _SignsOfLife(self.rank, self.names, [(int(p), host) for p, host in places])
        self._signs.start()

    def broadcast(self, line: bytes) -> bytes:
        """Return the first process's bytes."""
        with self._answered():
            size = torch.tensor([len(line)])
            dist.broadcast(size, 0)
            data = _as_tensor(line) if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0)
        return data.numpy().tobytes()

    def gather(self, line: bytes) -> list[bytes]:
        """Return every process's bytes."""
        with self._answered():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
            dist.all_gather(sizes, torch.tensor([len(line)]))
            longest = max(int(size) for size in sizes)
            padded = _as_tensor(line.ljust(longest, b"\0"))
            lines = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
            dist.all_gather(lines, padded)
        return [
            data[: int(size)].numpy().tobytes() for data, size in zip(lines, sizes, strict=True)
        ]

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes, equal to the bit in each."""
        with self._answered():
            dist.all_reduce(tensor, dist.ReduceOp.SUM)

    def part(self) -> None:
        """End together: all processes have come to their end."""
        self._signs.stop()
        self.gather(b"")
        dist.destroy_process_group()

    @contextmanager
    def naming_who_ended(self) -> Iterator[None]:
        """Where messages fail because another process has ended, end with its name."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            signs = getattr(self, "_signs", None)
            if signs is not None:
                signs.suspect()
            raise

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Say that nobody has ended where a message fails although all of them live."""
        try:
            with self.naming_who_ended():
                yield
        except RuntimeError as error:
            raise MulliganError(
                f"{self.names[self.rank].capitalize()} cannot reach the others: "
                f"{' '.join(str(error).split())[:200]} Go on with --resume."
            ) from error


@cache
def launched() -> Launch | None:
    """Meet the other processes of this launch; None where there is no other.

    torchrun and ``accelerate launch`` say in the environment how many there are.
    """
    return Launch() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


class _SignsOfLife(threading.Thread):
    """Shows that this process lives, and ends it when another one does not."""

    def __init__(self, rank: int, names: list[str], places: list[tuple[int, str]]) -> None:
        super().__init__(name="signs of life", daemon=True)
        self._rank = rank
        self._names = names
        self._places = places
        self._stopped = threading.Event()
        self._suspected = threading.Event()
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=_STORE_S),
        )

    def run(self) -> None:
        """Look at the others until all have come to their end."""
        seen: dict[int, tuple[int, float]] = {}
        while not self._stopped.wait(BEAT_S):
            try:
                self._store.add(_key(self._rank), 1)
                beats = {rank: self._store.add(_key(rank), 0) for rank in range(len(self._names))}
            except RuntimeError:
                if not self._stopped.is_set():
                    self._end(0)
                return
            now = time.monotonic()
            for rank, number in beats.items():
                if rank not in seen or seen[rank][0] != number:
                    seen[rank] = (number, now)
                limit = SUSPECT_S if self._suspected.is_set() else SILENT_S
                late = rank != self._rank and now - seen[rank][1] > limit
                if late and not seen_to_live(*self._places[rank]):
                    self._end(rank)

    def suspect(self) -> None:
        """Wait until it is known which process has ended, and end with its name.

        Returns where all of them live.
        """
        self._suspected.set()
        time.sleep(SUSPECT_S + 3 * BEAT_S)

    def stop(self) -> None:
        """Look no longer."""
        self._stopped.set()
        self.join()

    def _end(self, rank: int) -> None:
        logger.error(
            "%s has ended, so this one ends too (%s). What was saved before stays: start all "
            "processes again, with --resume.",
            self._names[rank].capitalize(),
            self._names[self._rank],
        )
        logging.shutdown()
        os._exit(1)


def _take_gpu(own: int) -> None:
    """Compute on the GPU of this process's number on its machine.

    Raises:
        MulliganError: there are fewer GPUs than processes.
    """
    there = torch.cuda.device_count()
    if own >= there:
        raise MulliganError(
            f"Process {own + 1} of this machine finds no GPU of its own: there are {there}. Start "
            "at most as many processes on it, or set CUDA_VISIBLE_DEVICES= to compute on its CPUs."
        )
    torch.cuda.set_device(own)


def seen_to_live(pid: int, host: str) -> bool:
    """Whether a process is on this machine, where Linux tells, and has not ended."""
    if host != socket.gethostname():
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _key(rank: int) -> str:
    return f"mulligan/beat/{rank}"


def _as_tensor(line: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(line), dtype=torch.uint8)
        if line
        else torch.empty(0, dtype=torch.uint8)
    )
