from types import SimpleNamespace

import torch

from mulligan.engines.local.layout import Groups, Layout, NewTokens, SharedTrunks, Stream
from mulligan.engines.local.prefix_cache import Block

CPU = torch.device("cpu")
MODEL = SimpleNamespace(device=CPU, dtype=torch.float32)
HIDDEN = -torch.inf


def test_rows_of_different_lengths_form_one_stream():
    stream = Stream.of(NewTokens(2, starts=[0, 4], counts=[3, 1]), CPU)
    assert (stream.rows, stream.width) == (slice(2, 4), 3)
    assert stream.slots_N.tolist() == [2, 2, 2, 3]
    assert stream.columns_N.tolist() == [0, 1, 2, 4]
    assert stream.packed_N.tolist() == [0, 1, 2, 3]
    assert stream.padded_BS.tolist()[:4] == [0, 1, 2, 3]


def test_one_token_a_row_needs_no_padding():
    stream = Stream.of(NewTokens(0, starts=[5, 2], counts=[1, 1]), CPU)
    assert stream.padded_BS is None
    assert stream.packed_N is None


def test_rows_of_a_trunk_are_laid_side_by_side():
    block = Block(4, 8)
    groups = Groups.of(SharedTrunks(block, slot_of_row=[3, 2, 3], lengths=[8, 6, 8]), CPU)
    assert (groups.slots, groups.size) == (slice(2, 4), 2)
    assert groups.ungrouped_B.tolist() == [2, 0, 3]
    assert [groups.grouped_GR.tolist()[place] for place in (0, 2, 3)] == [1, 0, 2]


def test_rows_that_are_in_the_order_of_their_trunks_are_not_moved():
    groups = Groups.of(SharedTrunks(Block(2, 8), [0, 0, 1, 1], [8, 8, 8, 8]), CPU)
    assert (groups.size, groups.grouped_GR, groups.ungrouped_B) == (2, None, None)


def test_a_token_sees_its_trunk_and_what_stands_before_it_in_its_own_row():
    own, trunk = Block(2, 4), Block(1, 3)
    new = NewTokens(0, starts=[0, 1], counts=[2, 1])
    layout = Layout.build(own, new, MODEL, SharedTrunks(trunk, [0, 0], [3, 2]))
    assert layout.positions_N.tolist() == [3, 4, 3]
    assert (layout.trunk_columns, layout.columns) == (3, 2)
    assert layout.bias_BSK.tolist() == [
        [[0, 0, 0, 0, HIDDEN], [0, 0, 0, 0, 0]],
        [[0, 0, HIDDEN, 0, 0], [0, 0, HIDDEN, 0, 0]],
    ]


def test_long_rows_that_nothing_precedes_leave_the_mask_to_the_fused_kernel():
    layout = Layout.build(Block(1, 1), NewTokens(0, [0], [768]), MODEL)
    assert layout.bias_BSK is None
    assert Layout.build(Block(1, 1), NewTokens(0, [0], [767]), MODEL).bias_BSK is not None
