import random

import torch

from mulligan.engines.local.prefix_cache import (
    Block,
    KnownSequence,
    PrefixStore,
    Trunk,
    common_length,
)


def filled_block(rows, columns):
    block = Block(rows, columns)
    states = torch.arange(rows * columns, dtype=torch.float32).view(-1, 1, 1)
    slots = torch.arange(rows).repeat_interleave(columns)
    block.write(0, states, -states, slots, torch.arange(columns).repeat(rows))
    return block


def row_of(block, row):
    return block.keys[0][block.slot_of_row[row], 0, :, 0].tolist()


def known(ids, trunk_length=1, block=None):
    block = block or Block(1, 1)
    return KnownSequence(tuple(ids), Trunk(block, 0, trunk_length), block, 0)


def test_rows_keep_their_contents_when_slots_are_swapped():
    block = filled_block(5, 3)
    before = [row_of(block, row) for row in range(5)]
    block.swap([0, 2], [4, 3])
    block.swap([1], [4])
    assert [row_of(block, row) for row in range(5)] == before
    assert block.slot_of_row[4] == 0
    assert sorted(block.row_in_slot) == [0, 1, 2, 3, 4]


def test_copied_rows_land_where_they_should_and_follow_swaps():
    source = filled_block(3, 4)
    source.swap([0], [2])
    target = Block(2, 6)
    target.copy_rows([1, 0], source, [0, 2], 3, at=2)
    assert row_of(target, 1) == [0, 0, 0, 1, 2, 0]
    assert row_of(target, 0) == [0, 0, 8, 9, 10, 0]


def test_a_known_sequence_copies_its_trunk_and_then_its_branch():
    trunk, branch = filled_block(2, 3), filled_block(2, 4)
    sequence = KnownSequence((1, 2, 3, 4, 5), Trunk(trunk, 1, 3), branch, 1)
    target = Block(1, 5)
    sequence.copy_to(target, 0, 5)
    assert row_of(target, 0) == [3, 4, 5, 4, 5]


def test_the_longest_common_beginning_is_found_among_many():
    rng = random.Random(0)
    store = PrefixStore()
    sequences = [tuple(rng.choices((1, 2), k=rng.randrange(1, 12))) for _ in range(200)]
    for ids in sequences:
        store.add(known(ids))
    for _ in range(200):
        wanted = tuple(rng.choices((1, 2, 3), k=rng.randrange(0, 12)))
        best = max(common_length(wanted, ids) for ids in sequences)
        match = store.longest(wanted)
        assert (match.length if match else 0) == best
        if match:
            assert match.sequence.ids[:best] == wanted[:best]


def test_nothing_in_common_is_no_match():
    store = PrefixStore()
    assert store.longest((1, 2)) is None
    store.add(known((3, 4)))
    assert store.longest((1, 2)) is None
    assert store.longest(()) is None


def test_an_added_sequence_replaces_the_one_with_equal_ids():
    store = PrefixStore()
    store.add(known((1, 2)))
    newer = known((1, 2))
    store.add(newer)
    assert len(store) == 1
    assert store.longest((1, 2)).sequence is newer


def test_dropping_a_block_forgets_what_stands_on_it_and_nothing_else():
    store = PrefixStore()
    old, new = filled_block(1, 1), filled_block(1, 1)
    store.add(known((1, 2), block=old))
    store.add(known((3, 4), block=new))
    assert store.blocks() == [old, new]
    store.drop([old])
    assert store.longest((1, 2)) is None
    assert store.longest((3, 4)) is not None
