"""Which prompts run together: waves whose keys and values fit in the memory that is allowed."""

from collections import deque
from collections.abc import Iterable, Sequence

from mulligan.engines.local.decoding import PlannedPrompt, trunk_key
from mulligan.engines.local.prefix_cache import GROWTH, Block, PrefixStore
from mulligan.errors import MulliganError
from mulligan.types import Sampling, TokenIds

Rows = tuple[tuple[int, int], ...]
"""(i, j): sample j of prompt i."""


class Plan:
    """Splits one call into waves, and makes room for each among what is kept for reuse.

    Args:
        prompts: as the caller gave them; equal ones are computed once.
        n: samples a prompt.
        sampling: for the longest completion.
        store: what is known from earlier calls; older sequences give way when memory is short.
        memory: bound for all keys and values, in bytes.
        token_bytes: keys and values of one token, all layers.
    """

    def __init__(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        sampling: Sampling,
        store: PrefixStore,
        memory: int,
        token_bytes: int,
    ) -> None:
        self._max_tokens = sampling.max_tokens
        self._store = store
        self._memory = memory
        self._token_bytes = token_bytes
        self._rest = deque(_distinct(prompts, n))
        self.waves = 0
        """Waves planned so far."""

    def next_wave(self) -> list[PlannedPrompt]:
        """Return what runs next; empty when everything has run.

        Raises:
            MulliganError: not even one row fits.
        """
        wave: list[PlannedPrompt] = []
        while self._rest:
            ids, rows = self._rest.popleft()
            prompt = self._lay(ids, rows)
            if self._fits([*wave, prompt]):
                wave.append(prompt)
                continue
            if wave:
                self._rest.appendleft((ids, rows))
                break
            wave, later = self._split(ids, rows)
            if later:
                self._rest.appendleft((ids, later))
            break
        if wave:
            self.waves += 1
            self._make_room(wave)
        return wave

    def summary(self, wave: Sequence[PlannedPrompt]) -> str:
        """Say what the first wave of a call was made of, and of how much memory."""
        rows, used = sum(len(prompt.rows) for prompt in wave), self._cost(wave)
        left = sum(len(rows) for _, rows in self._rest)
        return (
            f"{rows} rows on {len(wave)} distinct prompts in the first wave, {used / 2**20:.0f} MiB"
            f" of keys and values of {self._memory / 2**20:.0f} MiB allowed; {left} rows wait"
        )

    def _lay(self, ids: TokenIds, rows: Rows) -> PlannedPrompt:
        """Find what is known of a prompt, and whether it continues a trunk as it is."""
        match = self._store.longest(ids[:-1])
        if match is None:
            return PlannedPrompt(ids, rows)
        trunk, length = match.sequence.trunk, match.length
        # Many rows get a trunk of their own, so that they share all of their prompt.
        continues = length >= trunk.length and (len(rows) == 1 or trunk.length == len(ids) - 1)
        return PlannedPrompt(ids, rows, trunk if continues else None, match.sequence, length)

    def _split(self, ids: TokenIds, rows: Rows) -> tuple[list[PlannedPrompt], Rows]:
        """Return as many rows of one prompt as fit, on a trunk of its own, and the others."""
        for count in range(len(rows), 0, -1):
            wave = [PlannedPrompt(ids, rows[:count])]
            if self._fits(wave):
                return wave, rows[count:]
        needed = self._cost([PlannedPrompt(ids, rows[:1])])
        raise MulliganError(
            f"One sample of a prompt of {len(ids)} tokens with max_tokens={self._max_tokens} needs "
            f"{needed / 2**30:.3g} GiB for keys and values, and memory_gib allows "
            f"{self._memory / 2**30:.3g}. Raise memory_gib, or shorten the prompt or max_tokens."
        )

    def _fits(self, wave: Sequence[PlannedPrompt]) -> bool:
        needed = sum(block.nbytes for block in _needed(wave))
        return self._cost(wave) + needed <= self._memory

    def _cost(self, wave: Sequence[PlannedPrompt]) -> int:
        """Return the bytes of the blocks that a wave makes, their padding included.

        Known trunks count too, for they may have to be gathered into one block.
        """
        trunks = {trunk_key(prompt): prompt.trunk_length for prompt in wave}
        rows = sum(len(prompt.rows) for prompt in wave)
        columns = max(prompt.branch_length for prompt in wave) + self._max_tokens + GROWTH
        tokens = len(trunks) * max(trunks.values()) + rows * columns
        return tokens * self._token_bytes

    def _make_room(self, wave: Sequence[PlannedPrompt]) -> None:
        """Drop kept blocks until the wave fits: first those that nothing to come continues.

        Of those that something continues the newest go first: what comes next continues the oldest.
        """
        needed = _needed(wave)
        coming = _needed([self._lay(ids, rows) for ids, rows in self._rest])
        kept = [block for block in self._store.blocks() if block not in needed]
        idle = [block for block in kept if block not in coming]
        busy = [block for block in reversed(kept) if block in coming]
        used = self._cost(wave) + sum(block.nbytes for block in [*needed, *kept])
        for block in [*idle, *busy]:
            if used <= self._memory:
                break
            used -= block.nbytes
            self._store.drop([block])


def _needed(wave: Iterable[PlannedPrompt]) -> set[Block]:
    """Return the kept blocks that a wave reads."""
    known = [prompt.known for prompt in wave if prompt.known is not None]
    return {block for sequence in known for block in (sequence.trunk.block, sequence.branch)}


def _distinct(prompts: Sequence[TokenIds], n: int) -> list[tuple[TokenIds, Rows]]:
    """Return each distinct prompt with all samples that are asked of it."""
    rows: dict[TokenIds, list[tuple[int, int]]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(tuple(prompt), []).extend((i, j) for j in range(n))
    return [(ids, tuple(indices)) for ids, indices in rows.items()]
