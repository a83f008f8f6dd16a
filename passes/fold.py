"""Constant folding: compute at compile time what depends on constants only.

What enters: a primitive graph. What leaves: the same with constant subgraphs replaced by constants, evaluated by the ops' own
reference (the oracle), so the pass is exact. A result is folded only if it is not larger than what it was computed from: a
broadcast of one number stays a broadcast, which costs a kernel nothing; what moves or maps such values is one as well. An array
never becomes a number: numbers are part of the code, arrays are data beside it. ::

    %1 = exp(0.0); %2 = mul(%x, broadcast(%1))   ->   %2 = mul(%x, broadcast(1.0))
"""

from __future__ import annotations

import numpy as np

from graphc import provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.ops.declare import CastTo, Elementwise, Movement
from graphc.ops.sources import constant
from graphc.rewrite import Context

SMALL = 16  # elements that a constant may always have


def fold(graph: Graph, context: Context) -> Graph:
    """The graph with constant subgraphs evaluated; the same object if there are none."""

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        fresh = node.with_inputs(inputs)
        if not inputs or node.op.is_composite or not node.type.is_static or node.op.name == "scan":  # its value is a token
            return fresh
        number = _number(node, inputs)
        if number is not None and node.ndim:
            if fresh.op.name == "broadcast" and not inputs[0].ndim:
                return fresh
            with provenance.deriving("fold", node.op.name, parents=(node, *inputs), source=node.source):
                spread = REGISTRY["broadcast"](constant(number), shape=node.shape)
            context.fire(f"evaluate {node.op.name} once", (node, *inputs), spread)
            return spread
        if any(i.op.name != "constant" for i in inputs) or (not node.ndim and any(i.ndim for i in inputs)):
            return fresh
        size = int(np.prod(node.type.static_shape, dtype=np.int64))
        if size > max(SMALL, sum(int(np.prod(i.type.static_shape, dtype=np.int64)) for i in inputs)):
            return fresh
        value = node.op.reference(*(i.attrs["value"] for i in inputs), **node.attrs)
        with provenance.deriving("fold", node.op.name, parents=(node, *inputs), source=node.source):
            made = constant(np.asarray(value, dtype=node.dtype.numpy))
        context.fire(f"evaluate {node.op.name}", (node, *inputs), made)
        return made

    return graph.transform(visit)


def _number(node: Node, inputs: tuple[Node, ...]) -> np.ndarray | None:
    """The one number that all elements of a node are because all its operands are such; else None."""
    if not isinstance(node.op.lowering, (Elementwise, CastTo, Movement)):
        return None
    scalars = [_splat(i) for i in inputs]
    if any(s is None for s in scalars):
        return None
    if isinstance(node.op.lowering, Movement):
        return scalars[0]
    return np.asarray(node.op.reference(*scalars, **node.attrs), dtype=node.dtype.numpy)


def _splat(node: Node) -> np.ndarray | None:
    """The number behind a 0-d constant or its broadcast."""
    if node.op.name == "broadcast":
        node = node.inputs[0]
    value = node.attrs["value"] if node.op.name == "constant" and not node.ndim else None
    return None if value is None else np.asarray(value)
