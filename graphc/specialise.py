"""Specialisation: symbolic sizes become numbers.

What enters: a graph over ``batch`` and the like, and sizes. What leaves: the graph with every dimension in types and
attributes substituted, and ``size(batch)`` nodes turned into constants. Invariant: nodes correspond one to one, with
their names, sources and origins; a graph without those symbols comes back as the same object.

    %0: f32[n,10] = broadcast(%b) {shape=(n, 10)}    -- n = 32 -->    %0: f32[32,10] = broadcast(%b) {shape=(32, 10)}
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphc.errors import GraphError, ShapeError
from graphc.ir import REGISTRY, Graph, Node
from graphc.types import SymDim, TensorType, substitute


def specialise(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """``graph`` with symbolic sizes replaced; sizes that are not named stay symbolic.

    Raises:
        GraphError: a size is negative.
        ShapeError: a size makes a dimension negative, as of ``x[5:]`` for three rows.

    >>> from graphc.ops.sources import input
    >>> specialise(Graph("f", {"y": input("x", ("n", 2))}), {"n": 3}).outputs["y"].shape
    (3, 2)
    """
    return graph.replace(specialise_nodes(graph, sizes))


def specialise_nodes(graph: Graph, sizes: Mapping[str, int]) -> dict[Node, Node]:
    """Node of ``graph`` -> the node that takes its place (itself where nothing changed)."""
    for name, size in sizes.items():
        if size < 0:
            raise GraphError(f"size {name} cannot be negative, got {size}")
    mapping: dict[Node, Node] = {}
    for node in graph.nodes:
        inputs = tuple([mapping[i] for i in node.inputs])
        settled = not node.attrs and node.type.is_static and inputs == node.inputs
        mapping[node] = node if settled else _specialised(node, inputs, sizes)
    return mapping


def _specialised(node: Node, inputs: tuple[Node, ...], sizes: Mapping[str, int]) -> Node:
    attrs = {
        key: specialise(value, sizes) if isinstance(value, Graph) else substitute(value, sizes)
        for key, value in node.attrs.items()
    }  # a graph inside of an op (scan's body) has the same sizes
    same = all(attrs[key] is value or _equal(attrs[key], value) for key, value in node.attrs.items())
    type_: TensorType = node.type if node.type.is_static else substitute(node.type, sizes)
    if type_ is not node.type and any(isinstance(d, int) and d < 0 for d in type_.shape):
        raise ShapeError(
            f"{node.op.name}: {node.type} is {type_} for {', '.join(f'{k} = {v}' for k, v in sizes.items())}",
            source=node.source,
            token=node.op.name,
            notes=tuple(f"{i.name or f'operand {k}'}: {i.type}" for k, i in enumerate(inputs)),
            help="give larger arrays, or take less of them here",
        )
    unmoved = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
    if node.op.name == "size" and not isinstance(attrs["dim"], SymDim):
        value = np.array(attrs["dim"], node.dtype.numpy)
        value.setflags(write=False)
        constant = REGISTRY["constant"]
        return Node(
            constant, (), {"value": value}, type_, name=node.name, source=node.source, origins=node.origins, copied=node.lineage
        )
    if same and unmoved and type_ == node.type:
        return node
    kept = node.attrs if same else attrs
    return Node(
        node.op, inputs, kept, type_, name=node.name, source=node.source, origins=node.origins, copied=node.lineage
    )


def _equal(a: object, b: object) -> bool:
    return not isinstance(b, np.ndarray) and a == b
