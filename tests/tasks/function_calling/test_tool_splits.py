from collections import Counter

from mulligan.tasks.function_calling.tool_splits import clusters, in_test


def test_problems_with_a_key_in_common_are_in_one_cluster_and_others_are_not():
    found = clusters([["a", "x"], ["b"], ["c", "x"], ["c", "y"], ["d"]])
    assert found[0] == found[2] == found[3]
    assert len(set(found)) == 3


def test_a_cluster_is_named_by_its_smallest_key_whatever_the_order():
    keys = [["m", "k"], ["k", "b"], ["z", "m"]]
    assert clusters(keys) == clusters(keys[::-1]) == ["b", "b", "b"]


def test_a_long_chain_is_one_cluster():
    keys = [[str(i), str(i + 1)] for i in range(20_000)]
    assert len(set(clusters(keys))) == 1


def test_the_share_held_out_is_the_one_asked_for():
    held_out = Counter(in_test(f"cluster {i}", seed=3, test_share=0.3) for i in range(10_000))
    assert 0.28 < held_out[True] / 10_000 < 0.32
    assert not any(in_test(str(i), 0, 0.0) for i in range(100))
    assert all(in_test(str(i), 0, 1.0) for i in range(100))


def test_the_division_is_the_same_everywhere():
    names = [f"cluster {i}" for i in range(12)]
    held_out = [name for name in names if in_test(name, 0, 0.5)]
    assert held_out == [f"cluster {i}" for i in (0, 2, 3, 4, 5, 6, 7, 9, 11)]
