"""How this process's C library keeps the memory of tensors on a CPU: by default for the next ones.

glibc gives what is free at its heap's end back to the kernel, and every pass over a model asks for
it again: the kernel then has to clear each page anew. So a process that computes on a CPU keeps it,
which does not change where blocks are, and no number. Blocks of more than 32 MiB, the most that
glibc ever takes from its heap, still have mappings of their own and go back as they are freed: kept
too, they left holes, and a run of function calls grew to 16 GiB. Smaller ones leave holes too: the
same run came to keep 11 GiB that was free. So after a step or a call of the engine all of it
goes back once it is more than a quarter of the machine's memory. Does not apply: GPUs, other C
libraries.

With gradient checkpointing, activations that are computed again and freed leave holes in the heap,
between gradients that stay: one update of the 135M model (8 reflections of 384 tokens) took the
process to 3.64 GB, and to 3.04 GB where large blocks had mappings of their own. So checkpointing,
which trades time for memory, gives them back.
"""

import ctypes

from mulligan.models.memory import machine_memory

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""Names of settings in glibc's malloc.h."""

_NEVER = -1
"""As a threshold of free bytes at the heap's end."""
_MOST_IN_HEAP = 32 << 20
"""Bytes from which a block gets a mapping of its own: the most that glibc allows."""
_OWN_MAPPING, _TRIM = 1 << 20, 128 << 10
"""The same where large blocks are to go back, and the free bytes at which glibc trims its heap."""


def keep_freed_memory() -> None:
    """Let this process keep freed blocks for the next ones, from now on.

    New threads share the one heap: those of their own are given back in pieces of 64 MiB.
    """
    _set({_M_MMAP_THRESHOLD: _MOST_IN_HEAP, _M_TRIM_THRESHOLD: _NEVER, _M_ARENA_MAX: 1})


def bound_freed_memory(most: int | None = None) -> None:
    """Give all freed blocks back, if this process keeps more than ``most`` bytes of them.

    By default that is a quarter of the machine's memory. An eighth took a fourteenth longer in the
    demo's steps on a machine of 24 GiB, for they use that much again each time.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):  # glibc 2.33 has it
        return
    library.mallinfo2.restype = _Mallinfo2
    if library.mallinfo2().free > (machine_memory() // 4 if most is None else most):
        library.malloc_trim(ctypes.c_size_t(0))


def map_large_blocks() -> None:
    """Let this process allocate large blocks apart from the heap, from now on."""
    _set({_M_MMAP_THRESHOLD: _OWN_MAPPING, _M_TRIM_THRESHOLD: _TRIM})


class _Mallinfo2(ctypes.Structure):
    """Glibc's count of its heap, in bytes; the names of malloc.h but for the one that is read."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "free", "keepcost"),
        )
    ]


def _set(options: dict[int, int]) -> None:
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in options.items():
            set_option(option, value)
