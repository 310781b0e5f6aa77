"""Dividing problems into training and test by what they share.

Problems that offer the same tools, or ask the same question, stay on one side: linked problems
form a cluster, and a hash of the seed and of the cluster decides. So a division depends on the
problems and the seed alone, not on their order, the machine or a random generator's version.
"""

from collections.abc import Iterable, Sequence

from mulligan.randomness import derive_seed

_SCALE = 2.0**63


def clusters(keys: Sequence[Iterable[str]]) -> list[str]:
    """Return the cluster of every problem, named by the smallest key in it.

    Two problems are in one cluster if they have a key in common, or are linked by others that do.

    Args:
        keys: The keys of every problem, at least one each.
    """
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = key = parents[parent]
        return key

    firsts = []
    for own in map(list, keys):
        firsts.append(own[0])
        for key in own[1:]:
            one, other = sorted((root(own[0]), root(key)))
            parents[other] = one
    return [root(first) for first in firsts]


def in_test(cluster: str, seed: int, test_share: float) -> bool:
    """Whether a cluster is held out; ``test_share`` of all clusters are, on average."""
    return derive_seed(seed, "test", cluster) / _SCALE < test_share
