"""Connected components of an undirected graph."""

from __future__ import annotations

from collections.abc import Iterable


def connected_components(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `n` nodes, the smallest node of its connected component.

    >>> connected_components(5, [(3, 1), (4, 3)])
    [0, 1, 2, 1, 1]

    Args:
        n: number of nodes, which are 0 to n - 1.
        pairs: the edges.
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
