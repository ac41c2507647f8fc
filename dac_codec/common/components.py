"""Connected components of an undirected graph."""

from __future__ import annotations

from collections.abc import Iterable


def connected_components(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of the nodes 0 to n - 1, the smallest node of its connected component; `pairs` are the edges.

    >>> connected_components(5, [(3, 1), (4, 3)])
    [0, 1, 2, 1, 1]
    """
    parents = list(range(n))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = node = parents[parents[node]]
        return node

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parents[high] = low
    return [root(node) for node in range(n)]
