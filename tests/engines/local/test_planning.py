import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.engines.local.decoding import PlannedPrompt, trunk_key
from mulligan.engines.local.planning import Need, Plan
from mulligan.engines.local.prefix_cache import GROWTH, Block, KnownSequence, PrefixStore, Trunk
from mulligan.types import Sampling

TOKEN_BYTES = 100


class SizedBlock(Block):
    """A block of a size without tensors."""

    nbytes = 50_000


def known(ids, block, trunk_length):
    return KnownSequence(ids, Trunk(block, 0, trunk_length), block, 0)


def seconds_to_plan(count):
    """Plan retries that each continue a sequence of their own, in memory for a few hundred."""
    rng = random.Random(0)
    beginning = tuple(rng.choices(range(1000), k=100))
    questions = [(*beginning, *rng.choices(range(1000), k=100)) for _ in range(count)]
    store = PrefixStore()
    for start in range(0, count, 250):
        block = SizedBlock(250, 200)
        for ids in questions[start : start + 250]:
            store.add(known(ids, block, 199))
    prompts = [(*ids, *rng.choices(range(1000), k=60)) for ids in questions]
    started = time.process_time()
    plan = Plan(prompts, 1, Sampling(0.9, 64), store, 10_000_000, TOKEN_BYTES)
    rows = 0
    waves = 0
    while wave := plan.next_wave():
        rows += sum(len(prompt.rows) for prompt in wave)
        waves += 1
        own = SizedBlock(len(wave), 200)
        for prompt in wave:
            store.add(known((*prompt.ids, 7), own, 199))
    taken = time.process_time() - started
    assert (rows, waves > count // 1000) == (count, True)
    return taken


def test_ten_thousand_prompts_are_planned_within_a_second():
    # The least of a few: what comes on top on a busy machine is not the planning's own.
    assert any(seconds_to_plan(10_000) < 1 for _ in range(3))


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(2, 30), st.integers(1, 4), st.booleans()), min_size=1, max_size=12
    )
)
def test_what_a_wave_needs_is_what_its_prompts_need_together(shapes):
    shared = SizedBlock(1, 8)
    trunk = Trunk(shared, 0, 1)
    prompts = [
        PlannedPrompt(
            tuple(range(number, number + length)),
            tuple((number, j) for j in range(rows)),
            trunk if continues else None,
            known((number,), shared, 1) if continues else None,
        )
        for number, (length, rows, continues) in enumerate(shapes)
    ]
    need = Need(16, TOKEN_BYTES)
    for number, prompt in enumerate(prompts, start=1):
        before = need.with_prompt(prompt)
        need.add(prompt)
        wave = prompts[:number]
        rows = sum(len(each.rows) for each in wave)
        trunks = len({trunk_key(each) for each in wave}) * max(p.trunk_length for p in wave)
        branches = rows * (max(p.branch_length for p in wave) + 16 + GROWTH)
        kept = 50_000 if any(each.known for each in wave) else 0
        assert before == need.made + kept == (trunks + branches) * TOKEN_BYTES + kept


@pytest.mark.parametrize("first_kept", [0, 1])
def test_room_is_made_by_dropping_what_no_waiting_prompt_continues(first_kept):
    store = PrefixStore()
    blocks = [SizedBlock(1, 8), SizedBlock(1, 8)]
    questions = [(1, 2, 3), (4, 5, 6)]
    for ids, block in zip(questions, blocks, strict=True):
        store.add(known(ids, block, 2))
    # One new prompt first, which needs the room of a block; then one that continues a block.
    prompts = [(9, 9), (*questions[first_kept], 7)]
    new_bytes = (1 + 1 + 4 + GROWTH) * TOKEN_BYTES
    plan = Plan(prompts, 1, Sampling(0.9, 4), store, 50_000 + new_bytes, TOKEN_BYTES)
    [prompt] = plan.next_wave()
    assert prompt.ids == (9, 9)
    assert store.blocks() == [blocks[first_kept]]
