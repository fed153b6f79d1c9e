"""A forward pass takes the sum of its operations, or the longest path where branches overlap."""

from __future__ import annotations

import itertools

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.cost.path import critical_path

DIAMOND = {"a": 1.0, "b": 5.0, "c": 2.0, "d": 1.0}


def diamond() -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(DIAMOND)
    graph.add_edges_from([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    return graph


@pytest.mark.parametrize(("parallel", "expected"), [(False, list("abcd")), (True, list("abd"))])
def test_a_branch_is_hidden_where_branches_overlap(parallel: bool, expected: list[str]) -> None:
    assert critical_path(diamond(), DIAMOND, parallel=parallel) == expected


def test_nothing_takes_no_time() -> None:
    assert critical_path(nx.DiGraph(), {}, parallel=True) == []


times = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


@given(seconds=times, edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_the_path_is_the_longest(seconds: list[float], edges: set[tuple[int, int]]) -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    own = {str(index): value for index, value in enumerate(seconds)}
    graph.add_nodes_from(own)
    graph.add_edges_from((str(a), str(b)) for a, b in edges if a < b < len(seconds))
    path = critical_path(graph, own, parallel=True)
    assert all(graph.has_edge(*pair) for pair in itertools.pairwise(path))
    every = [
        chain
        for size in range(1, len(own) + 1)
        for chain in itertools.combinations(own, size)
        if all(graph.has_edge(*pair) for pair in itertools.pairwise(chain))
    ]
    longest = max(sum(own[node] for node in chain) for chain in every)
    assert sum(own[node] for node in path) == pytest.approx(longest)
    in_turn = critical_path(graph, own, parallel=False)
    assert in_turn == list(own)
