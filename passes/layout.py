"""Layout: let every contraction read its operands where they lie, and give every output memory of its own.

What enters: a primitive graph with static shapes. What leaves: the same, where

- ``matmul(transpose(a), b)`` reads ``a`` itself, through its ``transpose_a`` flag (the target's schedule copies what it must,
  block by block, into panels); where other axes change places, too, what is left of the transpose keeps rows as rows;
- an output or update that *is* an input, a variable or another output is a copy of it, so that no two results share memory
  and none aliases an input.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc import provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.rewrite import Context

FLAGS = ("transpose_a", "transpose_b")


def layout(graph: Graph, context: Context) -> Graph:
    """Transposes absorbed by contractions, explicit copies for aliased results."""
    return separate_results(graph.transform(lambda n, i: _flagged_operands(n, i, context)), context)


def _flagged_operands(node: Node, inputs: tuple[Node, ...], context: Context) -> Node:
    fresh = node.with_inputs(inputs)
    return _absorb_transposes(fresh, context) if fresh.op.name == "matmul" else fresh


def _absorb_transposes(node: Node, context: Context) -> Node:
    """``matmul(transpose(a), b)`` reads ``a`` through its ``transpose_a`` flag instead."""
    read = [_rows(operand, node.attrs[flag]) for operand, flag in zip(node.inputs, FLAGS, strict=True)]
    if all(operand is before for (operand, _, _), before in zip(read, node.inputs, strict=True)):
        return node
    with provenance.deriving("layout", "absorb transpose", (node, *node.inputs), node.primal, node.source):
        operands = [operand if axes is None else REGISTRY["transpose"](operand, axes=axes) for operand, axes, _ in read]
        made = node.op(*operands, transpose_a=read[0][2], transpose_b=read[1][2])
    context.fire("absorb transpose", (node, *node.inputs), made)
    return made


def _rows(operand: Node, turned: bool) -> tuple[Node, tuple[int, ...] | None, bool]:
    """What a product reads, transposed by which axes (None: as it lies), and its flag: rows stay rows wherever they can."""
    last = operand.ndim - 1
    swap = (*range(last - 1), last, last - 1)
    while operand.op.name == "transpose" and tuple(operand.attrs["axes"]) == swap:
        operand, turned = operand.inputs[0], not turned
    axes = tuple(operand.attrs["axes"]) if operand.op.name == "transpose" else ()
    if len(axes) > 2 and axes[-2] == last:  # the heads of a transposed key
        return operand.inputs[0], (*axes[:-2], axes[-1], last), not turned
    return operand, None, turned


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
