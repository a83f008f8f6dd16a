"""Freezing: parameters that a program never updates become constants of it.

What enters: a graph and a snapshot of its variables. What leaves: the graph with those parameters as constants, so that folding
computes once what depends on them alone (transposed, cast or multiplied weights). Invariant: the values are data of the program and
never part of its code: a frozen scalar is a constant of one element, reshaped, because a 0-d constant is a literal of kernels. ::

    %w: f32[3,2] = parameter w;  %t = transpose(%w);  matmul(%x, %t)   ->   %t: f32[2,3] = constant;  matmul(%x, %t)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphc.ir import REGISTRY, Graph, Node
from graphc.variables import Variable, aligned_empty

Snapshot = Mapping[Variable, np.ndarray]


def snapshot(graph: Graph) -> Snapshot:
    """Read-only copies of the values of all variables that ``graph`` reads and does not update.

    >>> from graphc.ops import parameter
    >>> w = parameter("w", (2,), 1.0)
    >>> [v.tolist() for v in snapshot(Graph("f", {"y": w + w})).values()]
    [[1.0, 1.0]]
    """
    updated = {node.attrs["variable"] for node in graph.updates}
    kept: dict[Variable, np.ndarray] = {}
    for node in graph.parameters:
        variable = node.attrs["variable"]
        if variable not in updated and variable not in kept:
            kept[variable] = aligned_empty(variable.type.static_shape, variable.type.dtype)
            kept[variable][...] = variable.value
            kept[variable].setflags(write=False)
    return kept


def freeze(graph: Graph, values: Snapshot) -> Graph:
    """``graph`` with the parameters that ``values`` names as constants; the same object if there are none."""

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        value = values.get(node.attrs["variable"]) if node.op.name == "parameter" else None
        return node.with_inputs(inputs) if value is None else _constant(node, value)

    return graph.transform(visit)


def _constant(node: Node, value: np.ndarray) -> Node:
    """A constant in the place of a parameter, with its name and its line."""
    array = np.atleast_1d(value)
    array.setflags(write=False)
    type_ = node.type if node.ndim else type(node.type)(node.dtype, array.shape)
    made = Node(
        REGISTRY["constant"], (), {"value": array}, type_, name=node.name, source=node.source, origins=node.origins,
        copied=node.lineage,
    )  # fmt: skip
    if node.ndim:
        return made
    return Node(
        REGISTRY["reshape"], (made,), {"shape": ()}, node.type, source=node.source, origins=node.origins, copied=node.lineage
    )
