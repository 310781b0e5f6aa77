"""Which prompts run together: waves whose keys and values fit in the memory that is allowed.

Planning is linear in the number of prompts: what a wave needs is kept up to date as prompts are
added to it, and what the waiting prompts continue is counted once.
"""

from collections import Counter, deque
from collections.abc import Sequence

from mulligan.engines.local.decoding import PlannedPrompt, trunk_key
from mulligan.engines.local.prefix_cache import GROWTH, Block, PrefixStore
from mulligan.errors import MulliganError
from mulligan.types import Sampling, TokenIds

Rows = tuple[tuple[int, int], ...]
"""(i, j): sample j of prompt i."""


class Need:
    """What the prompts of a wave need together, in bytes; kept up to date as they are added.

    Args:
        max_tokens: the longest completion.
        token_bytes: keys and values of one token, all layers.
    """

    def __init__(self, max_tokens: int, token_bytes: int) -> None:
        self._growth = max_tokens + GROWTH
        self._token_bytes = token_bytes
        self._trunks: set[object] = set()
        self._longest_trunk = 0
        self._longest_branch = 0
        self.rows = 0
        self.kept: dict[Block, int] = {}
        """The kept blocks that the prompts read, and their bytes."""

    def add(self, prompt: PlannedPrompt) -> None:
        """Count one more prompt."""
        self._trunks.add(trunk_key(prompt))
        self._longest_trunk = max(self._longest_trunk, prompt.trunk_length)
        self._longest_branch = max(self._longest_branch, prompt.branch_length)
        self.rows += len(prompt.rows)
        self.kept.update((block, block.nbytes) for block in _known_blocks(prompt))

    @property
    def made(self) -> int:
        """Bytes of the blocks that the wave makes, their padding included.

        Known trunks count too: they may have to be gathered into one block.
        """
        return self._made(len(self._trunks), self._longest_trunk, self.rows, self._longest_branch)

    def with_prompt(self, prompt: PlannedPrompt) -> int:
        """Return the bytes of blocks made and kept, were a prompt added."""
        made = self._made(
            len(self._trunks) + (trunk_key(prompt) not in self._trunks),
            max(self._longest_trunk, prompt.trunk_length),
            self.rows + len(prompt.rows),
            max(self._longest_branch, prompt.branch_length),
        )
        more = sum(block.nbytes for block in _known_blocks(prompt) if block not in self.kept)
        return made + sum(self.kept.values()) + more

    def _made(self, trunks: int, longest_trunk: int, rows: int, longest_branch: int) -> int:
        tokens = trunks * longest_trunk + rows * (longest_branch + self._growth)
        return tokens * self._token_bytes


class Plan:
    """Splits one call into waves, and makes room for each among what is kept for reuse.

    Args:
        prompts: as the caller gave them; equal ones are computed once.
        n: samples of each prompt.
        sampling: for the longest completion.
        store: what is known from earlier calls; older sequences give way when memory is short.
        memory: bound for all keys and values, in bytes.
        token_bytes: keys and values of one token, all layers.
        first: the number of the first prompt.
    """

    def __init__(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        sampling: Sampling,
        store: PrefixStore,
        memory: int,
        token_bytes: int,
        first: int = 0,
    ) -> None:
        self._max_tokens = sampling.max_tokens
        self._store = store
        self._memory = memory
        self._token_bytes = token_bytes
        self._rest = deque(_distinct(prompts, n, first))
        self._rows_left = len(prompts) * n
        self._coming: Counter[Block] | None = None
        self._continues: dict[TokenIds, set[Block]] = {}

    def next_wave(self) -> list[PlannedPrompt]:
        """Return what runs next; empty when everything has run.

        Raises:
            MulliganError: not even one row fits.
        """
        wave: list[PlannedPrompt] = []
        need = self._need([])
        while self._rest:
            ids, rows = self._rest.popleft()
            prompt = self._planned(ids, rows)
            if need.with_prompt(prompt) <= self._memory:
                wave.append(prompt)
                need.add(prompt)
                self._no_longer_coming(ids)
                continue
            if wave:
                self._rest.appendleft((ids, rows))
                break
            wave, later = self._split(ids, rows)
            need = self._need(wave)
            if later:
                self._rest.appendleft((ids, later))
            else:
                self._no_longer_coming(ids)
            break
        if wave:
            self._rows_left -= need.rows
            self._make_room(need)
        return wave

    def summary(self, wave: Sequence[PlannedPrompt]) -> str:
        """Say what the first wave of a call was made of, and of how much memory."""
        need = self._need(wave)
        return (
            f"{need.rows} rows on {len(wave)} distinct prompts in the first wave, "
            f"{need.made / 2**20:.0f} MiB of keys and values of {self._memory / 2**20:.0f} MiB "
            f"allowed; {self._rows_left} rows wait"
        )

    def _need(self, wave: Sequence[PlannedPrompt]) -> Need:
        need = Need(self._max_tokens, self._token_bytes)
        for prompt in wave:
            need.add(prompt)
        return need

    def _planned(self, ids: TokenIds, rows: Rows) -> PlannedPrompt:
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
            prompt = PlannedPrompt(ids, rows[:count])
            if self._need([]).with_prompt(prompt) <= self._memory:
                return [prompt], rows[count:]
        needed = self._need([]).with_prompt(PlannedPrompt(ids, rows[:1]))
        raise MulliganError(
            f"One sample of a prompt of {len(ids)} tokens with max_tokens={self._max_tokens} needs "
            f"{needed / 2**30:.3g} GiB for keys and values, and memory_gib allows "
            f"{self._memory / 2**30:.3g}. Raise memory_gib, or shorten the prompt or max_tokens."
        )

    def _make_room(self, need: Need) -> None:
        """Drop kept blocks until the wave fits: first those that nothing to come continues.

        Of those that something continues the newest go first: what comes next continues the oldest.
        """
        kept = [block for block in self._store.blocks() if block not in need.kept]
        used = need.made + sum(need.kept.values()) + sum(block.nbytes for block in kept)
        if used <= self._memory:
            return
        coming = self._what_comes()
        idle = [block for block in kept if not coming[block]]
        busy = [block for block in reversed(kept) if coming[block]]
        gone = []
        for block in [*idle, *busy]:
            if used <= self._memory:
                break
            used -= block.nbytes
            gone.append(block)
        self._store.drop(gone)

    def _what_comes(self) -> Counter[Block]:
        """Return how many waiting prompts continue each kept block, counted once for the call."""
        if self._coming is None:
            self._continues = {
                ids: _known_blocks(self._planned(ids, rows)) for ids, rows in self._rest
            }
            self._coming = Counter(block for each in self._continues.values() for block in each)
        return self._coming

    def _no_longer_coming(self, ids: TokenIds) -> None:
        if self._coming is not None:
            self._coming.subtract(self._continues[ids])


def _known_blocks(prompt: PlannedPrompt) -> set[Block]:
    """Return the kept blocks that a prompt reads."""
    known = prompt.known
    return set() if known is None else {known.trunk.block, known.branch}


def _distinct(prompts: Sequence[TokenIds], n: int, first: int) -> list[tuple[TokenIds, Rows]]:
    """Return each distinct prompt with all samples that are asked of it."""
    rows: dict[TokenIds, list[tuple[int, int]]] = {}
    for i, prompt in enumerate(prompts, first):
        rows.setdefault(tuple(prompt), []).extend((i, j) for j in range(n))
    return [(ids, tuple(indices)) for ids, indices in rows.items()]
