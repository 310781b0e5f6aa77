"""Every random choice has a seed of its own, derived from the run's seed and what it is for.

So no choice depends on how many were made before it, and a resumed run draws what an
uninterrupted one would have drawn.
"""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part, and on nothing else.

    Example:
        ``derive_seed(run_seed, "train", step)``
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
