"""Dead code elimination: what no output and no real update needs goes away.

What enters: any graph. What leaves: a graph without updates that write a variable's own value back. Nodes that nothing
reads are unreachable from the roots and so are gone from the graph's node list by construction; declared inputs stay,
because they are the calling convention. ::

    update %w = %w   ->   (nothing)
"""

from __future__ import annotations

from graphc.ir import Graph, Node
from graphc.rewrite import Context


def dce(graph: Graph, context: Context) -> Graph:
    """The graph without no-op updates; the same object if there are none."""
    kept: dict[Node, Node] = {}
    for parameter, value in graph.updates.items():
        if value.op.name == "parameter" and value.attrs["variable"] is parameter.attrs["variable"]:
            context.fire("drop update of a variable with itself", (parameter,), value)
        else:
            kept[parameter] = value
    if len(kept) == len(graph.updates):
        return graph
    return Graph(graph.name, graph.outputs, kept, graph.declared_inputs)
