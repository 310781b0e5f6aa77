"""Too little memory, as an error that says which settings need less."""

from collections.abc import Iterator
from contextlib import contextmanager

from mulligan.errors import MulliganError

_TORCH_SAYS = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch's ``RuntimeError`` names it: on a GPU, and on the CPU by platform."""


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn a refused allocation inside the block into an error that names a remedy.

    Args:
        doing: what the user is told was going on.

    Raises:
        MulliganError: memory ran out, on the device or off it. What was saved stays.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        if isinstance(error, RuntimeError) and not any(each in str(error) for each in _TORCH_SAYS):
            raise
        raise MulliganError(
            f"Memory ran out during {doing!r}: {first_line or 'an allocation was refused'}. "
            "Lower train.tokens_at_once or engine.memory_gib, which may change on resume, "
            "and go on with --resume."
        ) from error
