import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.episodes.epochs import batch_positions, shuffled
from mulligan.randomness import derive_seed


def test_batches_are_fixed_for_good():
    # A run that is resumed with a later version must see the same failures.
    assert batch_positions(10, 7, 2, 4).tolist() == [9, 8, 5, 6]
    assert batch_positions(150, 3, 5, 100)[:4].tolist() == [63, 148, 97, 41]
    assert batch_positions(4096, 7, 123, 100)[:4].tolist() == [463, 3556, 3320, 703]
    assert batch_positions(1_000_000, 7, 12_345, 4).tolist() == [690965, 448627, 531859, 3523]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_epoch_sees_everything_once_and_no_batch_anything_twice(data):
    count = data.draw(st.integers(1, 60))
    size = data.draw(st.integers(1, count))
    seed = data.draw(st.integers(0, 2**62))
    steps = 5 * count // size + 1
    batches = [batch_positions(count, seed, step, size).tolist() for step in range(steps)]
    assert all(len(set(batch)) == size for batch in batches)
    seen = [position for batch in batches for position in batch]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(batch_positions(20, seed, step, 20)) for seed in range(5) for step in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000, 4096, 4097, 10_001, 65_537])
def test_a_permutation_reaches_every_place_once(count):
    assert sorted(shuffled(count, seed=3).tolist()) == list(range(count))


def chi_square(table, expected):
    return float(((table - expected) ** 2 / expected).sum())


def test_every_thing_is_equally_likely_at_every_place():
    count, seeds = 10, 3000
    table = np.zeros((count, count))
    for seed in range(seeds):
        table[np.arange(count), shuffled(count, derive_seed(seed))] += 1
    # 81 degrees of freedom: mean 81, standard deviation 12.7; 150 is 5.4 of them away.
    assert chi_square(table, seeds / count) < 150


def test_every_part_of_a_large_store_is_equally_likely_in_every_part_of_an_epoch():
    count, table = 100_000, np.zeros((10, 10))
    for seed in range(5):
        things = shuffled(count, derive_seed(seed))
        np.add.at(table, (np.arange(count) * 10 // count, things * 10 // count), 1)
    assert chi_square(table, 5 * count / 100) < 150


@pytest.mark.parametrize("count", [4000, 40_000])
def test_neighbours_in_the_store_do_not_stay_neighbours(count):
    order = shuffled(count, seed=0)
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.1
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01
