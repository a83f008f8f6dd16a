"""Layout: let every contraction read its operands where they lie, and give every output memory of its own.

What enters: a primitive graph with static shapes. What leaves: the same, where

- ``matmul(transpose(a), b)`` reads ``a`` itself, through its ``transpose_a`` flag (the target's schedule copies what it must,
  block by block, into panels);
- an output or update that *is* an input, a variable or another output is a copy of it, so that no two results share memory
  and none aliases an input.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc import provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.rewrite import Context


def layout(graph: Graph, context: Context) -> Graph:
    """Transposes absorbed by contractions, explicit copies for aliased results."""
    return separate_results(graph.transform(lambda n, i: _flagged_operands(n, i, context)), context)


def _flagged_operands(node: Node, inputs: tuple[Node, ...], context: Context) -> Node:
    fresh = node.with_inputs(inputs)
    return _absorb_transposes(fresh, context) if fresh.op.name == "matmul" else fresh


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
