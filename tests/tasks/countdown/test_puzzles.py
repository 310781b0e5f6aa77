"""The splits that never change, and training that never meets them."""

from collections import Counter
from itertools import islice

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.countdown.task import Countdown
from mulligan.tasks.splits import first_problems

WIDE = {
    "counts": {2: 0.75, 3: 0.2, 4: 0.05},
    "largest_number": 60,
    "largest_target": 200,
    "operators": "+-*",
    "pair_operators": {"+": 0.48, "-": 0.4, "*": 0.12},
    "fixed_splits": True,
    "test_size": 400,
    "dev_size": 200,
}
SMALL = {
    "counts": {2: 0.75, 3: 0.25},
    "largest_number": 9,
    "largest_target": 20,
    "fixed_splits": True,
    "test_size": 20,
    "dev_size": 10,
}
SEEDS = (0, 1, 2, 3, 11, 12, 13, 14, 15, 16, 99, 2**40)


def key(problem):
    return (*sorted(problem.given["numbers"]), problem.given["target"])


def ids(problems):
    return [problem.id for problem in problems]


def test_training_has_3000_different_problems_beside_a_test_of_400_and_a_dev_set_of_200():
    task = Countdown(**WIDE)
    keys = {split: [key(p) for p in task.problems(split)] for split in ("dev", "test")}
    keys["train"] = [key(p) for p in first_problems(task, "train", 3000)]
    assert {split: len(set(found)) for split, found in keys.items()} == {
        "train": 3000,
        "dev": 200,
        "test": 400,
    }
    assert len(set().union(*keys.values())) == 3600


def test_dev_and_test_are_the_same_for_all_seeds_and_training_is_not():
    first, *others = (Countdown(**SMALL, seed=seed) for seed in SEEDS)
    for split in ("dev", "test"):
        assert all(ids(task.problems(split)) == ids(first.problems(split)) for task in others)
    assert len({tuple(ids(task.problems("train"))) for task in (first, *others)}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_training_and_demonstrations_never_meet_dev_or_test(seed):
    task = Countdown(**SMALL, seed=seed)
    held_out = {key(p) for split in ("dev", "test") for p in task.problems(split)}
    assert len(held_out) == 30
    assert not held_out & {key(p) for p in task.problems("train")}
    assert not held_out & {key(d.problem) for d in task.demonstrations(300, seed)}


def test_how_many_training_problems_there_are_does_not_depend_on_the_seed():
    assert len({len(list(Countdown(**SMALL, seed=s).problems("train"))) for s in SEEDS}) == 1


def test_what_is_too_much_for_one_seed_is_too_much_for_all():
    size = len(list(Countdown(**SMALL).problems("train")))
    for seed in SEEDS:
        task = Countdown(**SMALL, seed=seed)
        assert len(first_problems(task, "train", size)) == size
        with pytest.raises(MulliganError, match=rf"has {size} train problems"):
            first_problems(task, "train", size + 1)
        with pytest.raises(MulliganError, match=r"only \d+ different test problems"):
            Countdown(**{**SMALL, "test_size": 150}, seed=seed).problems("test")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sizes_of_the_demo_start_with_every_seed(seed):
    task = Countdown(**WIDE, seed=seed)
    assert len(first_problems(task, "test", 400)) == 400
    assert len(first_problems(task, "dev", 200)) == 200
    assert len(first_problems(task, "train", 300)) == 300


def test_held_out_splits_have_the_exact_mix_and_training_has_it_at_any_length():
    task = Countdown(**WIDE)
    test = Counter(len(p.given["numbers"]) for p in task.problems("test"))
    assert test == {2: 300, 3: 80, 4: 20}
    train = Counter(len(p.given["numbers"]) for p in islice(task.problems("train"), 100))
    assert train == {2: 75, 3: 20, 4: 5}


def test_operators_are_mixed_alike_in_every_split_and_no_easier_than_in_the_demo():
    task = Countdown(**WIDE)
    for split, length in (("test", 400), ("dev", 200), ("train", 3000)):
        pairs = [p for p in first_problems(task, split, length) if len(p.given["numbers"]) == 2]
        shares = Counter(next(c for c in p.reference if c in "+-*") for p in pairs)
        for operator, share in WIDE["pair_operators"].items():
            assert shares[operator] / len(pairs) == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pair_operators": {"/": 1}}, "'pair_operators' has '/', which operators does not allow"),
        ({"fixed_splits": False, "dev_size": 5}, "'pair_operators' needs fixed_splits"),
    ],
)
def test_operators_of_pairs_are_checked(options, said):
    with pytest.raises(MulliganError, match=said):
        Countdown(**{**WIDE, **options})


def test_a_longer_dev_split_changes_neither_the_test_nor_what_it_had():
    short, long = Countdown(**SMALL), Countdown(**{**SMALL, "dev_size": 20})
    assert ids(short.problems("test")) == ids(long.problems("test"))
    assert set(ids(short.problems("dev"))) < set(ids(long.problems("dev")))


def test_the_fixed_test_set_stays_the_same_between_versions():
    assert ids(Countdown(**WIDE).problems("test"))[0] == "2fbb18259faa2916"


def test_rows_are_divided_by_the_fixed_seed_too(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"nums": [{n}, 3], "target": {n + 3}}}\n' for n in range(10, 50)))
    options = {"rows": str(rows), "fixed_splits": True, "test_size": 8, "dev_size": 4}
    one, other = Countdown(**options), Countdown(**options, seed=5)
    keys = {split: {key(p) for p in one.problems(split)} for split in one.splits}
    assert {split: len(found) for split, found in keys.items()} == {
        "train": 28,
        "dev": 4,
        "test": 8,
    }
    assert keys == {split: {key(p) for p in other.problems(split)} for split in other.splits}
    assert ids(one.problems("train")) != ids(other.problems("train"))


@pytest.mark.parametrize("fixed", [True, False])
def test_training_on_two_and_three_numbers_can_be_tested_on_four(fixed):
    splits = {"fixed_splits": True} if fixed else {"dev_share": 0.2}
    task = Countdown(counts=[2, 3], held_out_counts={4: 1.0}, test_size=30, dev_size=20, **splits)
    sizes = {
        split: {len(problem.given["numbers"]) for problem in islice(task.problems(split), 30)}
        for split in ("train", "dev", "test")
    }
    assert sizes == {"train": {2, 3}, "dev": {4}, "test": {4}}
    shown = islice(task.demonstrations(30, seed=1), 30)
    assert {len(each.problem.given["numbers"]) for each in shown} == {2, 3}
