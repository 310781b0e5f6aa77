"""One wave of generation: what is missing of the prompts, then a token at a time for every row.

Rows that have ended leave the batch, so it costs what its living rows cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from mulligan.engines.local.prefix_cache import Block, KnownSequence, Trunk
from mulligan.engines.local.sampling import draw, uniforms
from mulligan.engines.local.stream import Stream
from mulligan.types import Sampling, TokenIds

_RETIRE = 16
"""Ended rows leave the batch when they are one in so many: moving them costs about as much as
computing a few of them once more."""


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A distinct prompt, the samples asked of it, and what is known of it already."""

    ids: TokenIds
    rows: tuple[tuple[int, int], ...]
    """(i, j): sample j of prompt i."""
    trunk: Trunk | None = None
    """The trunk that it continues; ``None``: it becomes a trunk of its own."""
    known: KnownSequence | None = None
    """A sequence that begins like it."""
    known_length: int = 0
    """How many of its ids are known."""

    @property
    def trunk_length(self) -> int:
        """Tokens that its rows share: all but the last, unless it continues another trunk."""
        return self.trunk.length if self.trunk is not None else len(self.ids) - 1

    @property
    def branch_length(self) -> int:
        """Tokens of the prompt that belong to each row's branch."""
        return len(self.ids) - self.trunk_length


@dataclass(slots=True, eq=False)
class Row:
    """A sample that grows."""

    prompt: PlannedPrompt
    index: tuple[int, int]
    trunk: Trunk
    length: int = 0
    """Columns of its branch that are computed."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Wave:
    """Rows that are generated together.

    Args:
        model: attends by layouts (see ``attention.stream_attention``).
        prompts: what fits in memory together.
        sampling: how tokens are drawn.
        eos_ids: tokens that end a completion.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[PlannedPrompt],
        sampling: Sampling,
        eos_ids: frozenset[int],
    ) -> None:
        self._stream = Stream(model)
        self._sampling = sampling
        self._eos_ids = eos_ids
        rows = sum(len(prompt.rows) for prompt in prompts)
        self._one_row_each = len({trunk_key(prompt) for prompt in prompts}) == rows
        trunks = self._trunks(prompts)
        self._trunk_block = trunks[0].block
        self._rows = [
            Row(prompt, index, trunk)
            for prompt, trunk in zip(prompts, trunks, strict=True)
            for index in prompt.rows
        ]
        self._own = Block(len(self._rows), max(prompt.branch_length for prompt in prompts))

    def run(self) -> list[Row]:
        """Generate all rows to their ends."""
        self._begin_branches()
        numbers = uniforms(
            self._sampling.seed, [row.index for row in self._rows], self._sampling.max_tokens
        )
        living = list(self._rows)
        last = [row.prompt.ids[-1] for row in living]
        for step in range(self._sampling.max_tokens):
            lengths, trunks = [row.length for row in living], [row.trunk for row in living]
            logits = self._stream.decode(self._own, lengths, last, trunks)
            slots = self._own.row_in_slot[: len(living)]
            drawn = torch.as_tensor(numbers[slots, step], device=logits.device)
            tokens, logprobs = draw(logits, self._sampling.temperature, drawn)
            last, ended = tokens.tolist(), []
            for slot, (row, token, logprob) in enumerate(
                zip(living, last, logprobs.tolist(), strict=True)
            ):
                row.length += 1
                if row.tokens and row.tokens[-1] in self._eos_ids:
                    ended.append(slot)
                    continue
                row.tokens.append(token)
                row.logprobs.append(logprob)
                if token in self._eos_ids:
                    ended.append(slot)
            if len(ended) == len(living):
                break
            if len(ended) * _RETIRE >= len(living):
                living, last = self._retire(living, last, ended)
        return self._rows

    def sequences(self) -> Iterator[KnownSequence]:
        """Name what is known, before or after the run: all but the last token of each row.

        Before it, only rows whose prompts are trunks of their own are known so far.
        """
        for number, row in enumerate(self._rows):
            ids = (*row.prompt.ids, *row.tokens)[:-1]
            yield KnownSequence(ids, row.trunk, self._own, number)

    def _trunks(self, prompts: Sequence[PlannedPrompt]) -> list[Trunk]:
        """Return each prompt's trunk, all in one block, computing what is not known yet."""
        known = [p.trunk for p in prompts if p.trunk is not None]
        if len(known) == len(prompts) and _lie_together(known, in_order=self._one_row_each):
            return known
        gathered: dict[object, Trunk] = {}
        distinct = list({trunk_key(p): p for p in prompts}.values())
        block = Block(len(distinct), max(p.trunk_length for p in distinct))
        starts = []
        for row, prompt in enumerate(distinct):
            gathered[trunk_key(prompt)] = Trunk(block, row, prompt.trunk_length)
            length = min(prompt.known_length, prompt.trunk_length)
            starts.append(length)
            if prompt.known is not None:
                prompt.known.copy_to(block, row, length)
        missing = [
            prompt.ids[start : prompt.trunk_length]
            for start, prompt in zip(starts, distinct, strict=True)
        ]
        self._stream.prefill(block, starts, missing, None)
        return [gathered[trunk_key(prompt)] for prompt in prompts]

    def _begin_branches(self) -> None:
        """Compute what the rows' branches hold before the last token of their prompts."""
        sources: dict[Block, list[int]] = {}
        for slot, row in enumerate(self._rows):
            prompt = row.prompt
            row.length = max(0, prompt.known_length - prompt.trunk_length)
            if row.length:
                assert prompt.known is not None
                sources.setdefault(prompt.known.branch, []).append(slot)
        for source, slots in sources.items():
            origins = [k.row for s in slots if (k := self._rows[s].prompt.known) is not None]
            width = max(self._rows[slot].length for slot in slots)
            self._own.copy_rows(slots, source, origins, width)
        missing = [r.prompt.ids[r.trunk.length + r.length : -1] for r in self._rows]
        lengths, trunks = [row.length for row in self._rows], [row.trunk for row in self._rows]
        self._stream.prefill(self._own, lengths, missing, trunks)
        for row, tokens in zip(self._rows, missing, strict=True):
            row.length += len(tokens)

    def _retire(
        self, living: list[Row], last: list[int], ended: Sequence[int]
    ) -> tuple[list[Row], list[int]]:
        """Move living rows to the front slots and return them with their last tokens."""
        gone = set(ended)
        remain = len(living) - len(gone)
        holes = [slot for slot in ended if slot < remain]
        movers = [slot for slot in range(remain, len(living)) if slot not in gone]
        self._own.swap(holes, movers)
        if self._one_row_each:  # trunks stay beside their rows: nothing is gathered to read them
            slots = [row.trunk.slot for row in living]
            self._trunk_block.swap([slots[h] for h in holes], [slots[m] for m in movers])
        for hole, mover in zip(holes, movers, strict=True):
            living[hole], last[hole] = living[mover], last[mover]
        living, last = living[:remain], last[:remain]
        if not self._one_row_each:
            self._retire_trunks(living)
        return living, last

    def _retire_trunks(self, living: Sequence[Row]) -> None:
        """Move trunks that are still read together once half of those in between are not."""
        slots = sorted({row.trunk.slot for row in living})
        start, span = slots[0], slots[-1] - slots[0] + 1
        if 2 * len(slots) > span:
            return
        end = start + len(slots)
        taken = set(slots)
        holes = [slot for slot in range(start, end) if slot not in taken]
        self._trunk_block.swap(holes, [slot for slot in slots if slot >= end])


def _lie_together(trunks: Sequence[Trunk], in_order: bool) -> bool:
    """Return whether trunks can be read where they are: side by side in one block."""
    slots = list({(trunk.block, trunk.row): trunk.slot for trunk in trunks}.values())
    if not in_order:
        slots.sort()
    side_by_side = list(range(slots[0], slots[0] + len(slots)))
    return len({trunk.block for trunk in trunks}) == 1 and slots == side_by_side


def trunk_key(prompt: PlannedPrompt) -> object:
    """Prompts with equal keys stand on the same trunk."""
    trunk = prompt.trunk
    return prompt.ids if trunk is None else (trunk.block, trunk.row)
