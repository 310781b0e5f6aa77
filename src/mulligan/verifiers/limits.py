"""What a verifier may use: how much it is given, and how a worker process bounds itself to it.

The bounds are the operating system's. They keep a run alive when a verifier misbehaves, and keep
what it need not know from code that it runs. They are not a sandbox against malice: a verifier can
still read the user's files, and a process that it moves to a session of its own outlives it until
its processor time is used up.
"""

import ctypes
import math
import os
import resource
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mulligan.config import Verify
from mulligan.errors import MulliganError

ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "PYTHONHASHSEED",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
)
"""What a verifier finds of the environment; everything else, keys and tokens too, stays out."""

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker process, and what its verifier starts, may use."""

    deadline_s: float = 5.0
    """Longest time that one call may take, in seconds; then the worker is killed."""
    memory_mib: int = 1024
    """Memory that a verifier may allocate, in MiB."""
    file_mib: int = 64
    """The largest file that it may write, in MiB."""
    processes: int = 32
    """How many processes it may start; with more, the worker is killed."""
    environment: Sequence[str] = ()
    """Environment variables that it needs besides the usual ones."""
    network: bool = False
    """Whether it may use the network."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or min(self.memory_mib, self.file_mib, self.processes) < 1:
            raise MulliganError(
                f"Verifying needs a deadline above 0 s, and at least 1 MiB of memory, 1 MiB of "
                f"file and 1 process, not {self}."
            )

    @property
    def cpu_s(self) -> int:
        """Processor seconds that one call may take: two cores until its deadline."""
        return math.ceil(2 * self.deadline_s) + 1

    def variables(self) -> dict[str, str]:
        """Return the environment of a worker process."""
        names = {*ENVIRONMENT, *self.environment}
        # Workers stand side by side: one that multiplies matrices should use one core.
        return {"OMP_NUM_THREADS": "1"} | {k: v for k, v in os.environ.items() if k in names}


def limits_of(settings: Verify) -> Limits:
    """Return the limits that a recipe sets."""
    return Limits(
        settings.deadline_seconds,
        settings.memory_mib,
        settings.file_mib,
        settings.processes,
        settings.environment,
    )


def bound_this_process(memory_mib: int, file_mib: int) -> None:
    """Let this process allocate so much beyond what it has mapped by now, and write such files.

    Its memory is bounded by address space, which the kernel enforces before the memory is used.
    Where the system does not say how much is mapped (other than Linux), there is no bound.
    """
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, mapped + memory_mib * 2**20)
    _lower(resource.RLIMIT_FSIZE, file_mib * 2**20)
    _lower(resource.RLIMIT_CORE, 0)


def allow_cpu_seconds(seconds: int) -> None:
    """Let this process use so much more processor time; what it starts inherits the bound."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime) + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def leave_network() -> str:
    """Cut this process, and what it starts, off the network; to be called before any thread is.

    Returns:
        Why the system does not allow it; empty where it is done.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return "the system has no network namespaces"
    user, group = os.getuid(), os.getgid()
    if unshare(_CLONE_NEWNET) == 0:
        return ""
    if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return os.strerror(ctypes.get_errno())
    _map_ids(user, group)
    return ""


def processes_by_session() -> Mapping[int, Sequence[int]]:
    """Return the processes of each session, by their ids; empty where the system does not say."""
    sessions: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile
        sessions[int(fields[3])].append(int(stat.parent.name))
    return sessions


def _lower(kind: int, value: int) -> None:
    """Set a bound that cannot be raised again; a lower one that is there stays."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _map_ids(user: int, group: int) -> None:
    """Stay who one was in a user namespace, so that files belong to whom they belonged."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            Path("/proc/self", name).write_text(text)
        except OSError:
            return
