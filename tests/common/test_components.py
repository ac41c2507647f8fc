"""Connected components."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dac_codec.common.components import connected_components


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_each_node_gets_the_smallest_one_that_it_can_reach(graph: tuple[int, list[tuple[int, int]]]) -> None:
    n, pairs = graph
    smallest = list(range(n))
    for _ in range(n):
        for one, other in pairs:
            smallest[one] = smallest[other] = min(smallest[one], smallest[other])
    assert connected_components(n, pairs) == smallest
