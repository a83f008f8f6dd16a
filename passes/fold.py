"""Constant folding: compute at compile time what depends on constants only.

What enters: a primitive graph. What leaves: the same with constant subgraphs replaced by constants, evaluated by the ops' own
reference (the oracle), so the pass is exact. A result is folded only if it is not larger than what it was computed from: a
broadcast of one number stays a broadcast, which costs a kernel nothing. ::

    %1 = exp(0.0); %2 = mul(%x, broadcast(%1))   ->   %2 = mul(%x, broadcast(1.0))
"""

from __future__ import annotations

import numpy as np

from graphc import provenance
from graphc.ir import Graph, Node
from graphc.ops.sources import constant
from graphc.rewrite import Context

SMALL = 16  # elements that a constant may always have


def fold(graph: Graph, context: Context) -> Graph:
    """The graph with constant subgraphs evaluated; the same object if there are none."""

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        fresh = node.with_inputs(inputs)
        if not inputs or node.op.is_composite or not node.type.is_static:
            return fresh
        if any(i.op.name != "constant" for i in inputs):
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
