"""Layout: give every contraction operands that can be read along their rows, and every output memory of its own.

What enters: a primitive graph with static shapes. What leaves: the same, where

- ``matmul(a, b, transpose_b=True)`` reads an explicit transpose of ``b`` when the product is large enough to pay for the
  copy: vectors then run along the rows of the second operand (its columns would need gathers);
- an output or update that *is* an input, a variable or another output is a copy of it, so that no two results share memory
  and none aliases an input.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc import provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.rewrite import Context

ROWS_TO_PAY = 4  # rows of a that share one transpose of b


def layout(graph: Graph, context: Context) -> Graph:
    """Explicit transposes for contractions, explicit copies for aliased results."""
    return separate_results(graph.transform(lambda n, i: _row_major_operands(n, i, context)), context)


def _row_major_operands(node: Node, inputs: tuple[Node, ...], context: Context) -> Node:
    fresh = node.with_inputs(inputs)
    if node.op.name != "matmul":
        return fresh
    fresh = _absorb_transposes(fresh, context)
    if not fresh.attrs["transpose_b"] or node.type.static_shape[-2] < ROWS_TO_PAY:
        return fresh
    a, b = fresh.inputs
    axes = (*range(b.ndim - 2), b.ndim - 1, b.ndim - 2)
    with provenance.deriving("layout", "transpose operand", parents=(node,), source=node.source, primal=node.primal):
        turned = REGISTRY["transpose"](b, axes=axes)
        made = node.op(a, turned, transpose_a=fresh.attrs["transpose_a"], transpose_b=False)
    context.fire("transpose the second operand once", (node,), made)
    return made


def _absorb_transposes(node: Node, context: Context) -> Node:
    """``matmul(transpose(a), b)`` reads ``a`` through its ``transpose_a`` flag instead."""
    operands, flags = [], []
    for operand, flag in zip(node.inputs, ("transpose_a", "transpose_b"), strict=True):
        turned = node.attrs[flag]
        swap = (*range(operand.ndim - 2), operand.ndim - 1, operand.ndim - 2)
        while operand.op.name == "transpose" and tuple(operand.attrs["axes"]) == swap:
            operand, turned = operand.inputs[0], not turned
        operands.append(operand)
        flags.append(turned)
    if all(a is b for a, b in zip(operands, node.inputs, strict=True)):
        return node
    with provenance.deriving("layout", "absorb transpose", (node, *node.inputs), node.primal, node.source):
        made = node.op(*operands, transpose_a=flags[0], transpose_b=flags[1])
    context.fire("absorb transpose", (node, *node.inputs), made)
    return made


def separate_results(graph: Graph, context: Context) -> Graph:
    """Copy results that would alias an input, a variable or another result."""
    taken: set[Node] = set()

    def own(node: Node, rule: str) -> Node:
        if node.op.is_source or node in taken:
            with provenance.deriving("layout", rule, parents=(node,), source=node.source):
                copied = REGISTRY["reshape"](node, shape=node.shape)
            context.fire(rule, (node,), copied)
            node = copied
        taken.add(node)
        return node

    updates: Mapping[Node, Node] = {p: own(v, "copy into the variable") for p, v in graph.updates.items()}
    outputs = {name: own(node, "copy the result") for name, node in graph.outputs.items()}
    same = all(outputs[k] is v for k, v in graph.outputs.items()) and all(
        updates[k] is v for k, v in graph.updates.items()
    )
    return graph if same else Graph(graph.name, outputs, updates, graph.declared_inputs)
