from mulligan.tasks.function_calling.clusters import clusters


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
