"""The C library's allocator, told to keep what is freed.

What it saves: by default every large tensor is memory fresh from the kernel, which clears it page
by page, and goes back when freed. A training step takes and frees gigabytes in this way. Kept, and
in huge pages where the kernel offers them, the same memory serves the next step. When it does not
apply: tensors on a GPU, which torch keeps itself, and C libraries other than glibc.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt, by glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process keep freed memory for its next allocation; call it before any tensor.

    The process holds its peak until it ends, which the settings that bound memory bound already.
    A value of ``THP_MEM_ALLOC_ENABLE`` (huge pages for torch's tensors) that the user has set
    stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
