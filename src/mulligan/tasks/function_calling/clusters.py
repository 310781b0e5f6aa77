"""Clusters of problems that share something, so that a division can keep them together.

Problems that offer the same tools, or ask the same question, are linked; linked problems form a
cluster, which is in one split as a whole.
"""

from collections.abc import Iterable, Sequence


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
