"""Causal: attention that sees no future is cut into shorter chunks of queries where nobody else needs its weights.

What enters: a graph with closed composites. What leaves: the same values up to rounding. A chunk of queries reads the keys up to its own
end only, so the shorter the chunks, the fewer products with weights that are 0. But each has kernels of its own, and a
gradient reads the weights as well: what is differentiated keeps the chunks that its derivative was written for, so that equal
subexpressions meet. ::

    %o = attention(%q, %k, %v) {causal=True}   ->   {causal=True, chunk=64}        if no softmax(%q %k^T) stands beside it
"""

from __future__ import annotations

from graphc import provenance
from graphc.ir import Graph, Node
from graphc.ops.attention_blocks import pieces
from graphc.rewrite import Context

CHUNK = 64  # queries: half a tile more work than needed on average, products long enough for registers and caches


def causal(graph: Graph, context: Context) -> Graph:
    """The graph with shorter chunks in the attention of inference; the same object if there is none."""
    shortened = {node for node in graph.nodes if _pays(node) and not _is_differentiated(graph, node)}
    if not shortened:
        return graph

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node not in shortened:
            return node.with_inputs(inputs)
        with provenance.deriving("causal", node.op.name, parents=(node,), source=node.source, primal=node.primal):
            short = node.op(*inputs, **node.attrs, chunk=CHUNK)
        context.fire("shorten causal chunks", (node,), short)
        return short.named(node.name) if node.name else short

    return graph.transform(visit)


def _pays(node: Node) -> bool:
    """Whether shorter chunks are more of them."""
    if node.op.name != "attention" or not node.attrs["causal"] or len(node.inputs) != 3 or "chunk" in node.attrs:
        return False
    t, s = node.inputs[0].shape[-2], node.inputs[1].shape[-2]
    return len(pieces(t, s, True, CHUNK)) > len(pieces(t, s, True))


def _is_differentiated(graph: Graph, node: Node) -> bool:
    """Whether something else multiplies the queries, or slices of them, with the keys."""
    queries = node.inputs[0]
    near = {queries, *(u for u in graph.users[queries] if u.op.name == "slice")}
    return any(user.op.name == "matmul" and user.inputs[0] in near for q in near for user in graph.users[q])
