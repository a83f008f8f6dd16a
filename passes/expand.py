"""Expand: open composites (softmax, cross_entropy, gelu, ...) into primitives.

What enters: any graph. What leaves: a graph without composites; the invariant "primitive" that fold, fuse and lower need.
Each new node remembers the composite it came from (its parent), so pictures can close it again. A composite may expand
into composites: sweeps repeat until none is left, and each sweep is linear. ::

    %1 = sigmoid_cross_entropy(%x, %y)   ->   %1 = maximum(%x, 0); %2 = mul(%x, %y); ...
"""

from __future__ import annotations

from graphc import provenance
from graphc.errors import PassError
from graphc.ir import Graph, Node
from graphc.rewrite import Context

DEPTH = 32  # composites nest a few levels; more means that one expands into itself


def expand(graph: Graph, context: Context) -> Graph:
    """The graph in primitives.

    Raises:
        PassError: an op expands into itself.
    """

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        fresh = node.with_inputs(inputs)
        if not node.op.is_composite:
            return fresh
        assert node.op.expand is not None
        with provenance.deriving("expand", node.op.name, parents=(node,), source=node.source, primal=node.primal):
            opened = node.op.expand(*inputs, **node.attrs)
        context.fire(f"expand {node.op.name}", (node,), opened)
        return opened.named(node.name) if node.name and not opened.op.is_source else opened

    for _ in range(DEPTH):
        if not any(n.op.is_composite for n in graph.nodes):
            return graph
        graph = graph.transform(visit)
    stuck = next(n for n in graph.nodes if n.op.is_composite)
    raise PassError(f"op {stuck.op.name} expands into itself", source=stuck.source, token=stuck.op.name)
