"""What some work costs by itself, on a machine that is busy with other things."""

import gc
import time
from collections.abc import Callable


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The processor time of this thread that some deterministic work takes.

    The least of a few repeats: whatever comes on top (a cold cache, an interrupted core) is not
    the work's own. The garbage collector waits, for what it walks through is the whole process,
    and other tests have left half a million objects there.
    """
    gc.disable()
    try:
        times = []
        for _ in range(repeats):
            began = time.thread_time()
            work()
            times.append(time.thread_time() - began)
        return min(times)
    finally:
        gc.enable()
