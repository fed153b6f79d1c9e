"""Path: which operations a forward pass waits for.

Most runtimes run one operation after the other (ONNX Runtime unless it is told otherwise, torch,
a stream of a GPU), so that a forward pass takes the sum. One that runs branches side by side takes
as long as the longest path through the graph does; what lies beside that path is hidden behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]


def critical_path(graph: Graph, seconds: Mapping[str, float], *, parallel: bool) -> list[str]:
    """The nodes that the result waits for, in order.

    Args:
        graph: of a `ModelGraph`: nodes in execution order, an edge for every activation.
        seconds: time of every node.
        parallel: whether the runtime runs branches side by side.
    """
    if graph.number_of_nodes() == 0:
        return []
    schedule: Graph = nx.DiGraph()
    schedule.add_nodes_from(graph)
    schedule.add_edges_from(graph.edges if parallel else pairwise(graph))
    # The time of a node stands on the edges that leave it; a last node collects them.
    end = object()
    weighted: nx.DiGraph[object] = nx.DiGraph()
    weighted.add_weighted_edges_from(
        (node, after, seconds.get(node, 0.0))
        for node in schedule
        for after in (*schedule.successors(node), end)
    )
    longest = nx.dag_longest_path(weighted, weight="weight")
    return [str(node) for node in longest[:-1]]
