"""Flatten: what follows a product of merged rows is computed on those rows.

What enters: a primitive graph with static shapes. What leaves: the same, where a product over merged leading axes (``[batch, time, n]`` as
``[batch * time, n]``) hands its rows on as they are: the reshape that would split them again moves behind the elementwise ops and the
reductions that read them, so that bias, residual and activation fuse with the product, and rows are rows of one axis everywhere. ::

    %0: f32[1024,n] = matmul(...)                           %0: f32[1024,n] = matmul(...)
    %1: f32[8,128,n] = reshape(%0)                          %1: f32[1024,n] = broadcast(bias)
    %2: f32[8,128,n] = broadcast(bias)               ->     %2: f32[1024,n] = add(%0, %1)
    %3: f32[8,128,n] = add(%1, %2)                          %3: f32[8,128,n] = reshape(%2)

Invariant: equal bits; reshapes only ever merge or split leading axes, which moves no data. Reads of other operands go through such a view.
"""

from __future__ import annotations

from math import prod

from graphc import provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.ops.declare import CastTo, Elementwise, Reduction
from graphc.rewrite import Context
from graphc.types import Shape


def flatten(graph: Graph, context: Context) -> Graph:
    """Move reshapes behind what reads a product's rows; the same object if there is none."""
    if not any(_splits_a_product(node) for node in graph.nodes):
        return graph
    flat: set[Node] = set()  # products of merged rows, and what has been made of their rows

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        fresh = node.with_inputs(inputs)
        if fresh.op.name == "matmul" and fresh.ndim == 2:
            flat.add(fresh)
            return fresh
        if fresh.op.name == "reshape":
            return _through(fresh)
        if not isinstance(fresh.op.lowering, (Elementwise, CastTo, Reduction)):
            return fresh
        source = next((i for i in fresh.inputs if _splits(i) and i.inputs[0] in flat), None)
        if source is None:
            return fresh
        with provenance.deriving("flatten", "merge rows", (node,), node.primal, node.source):
            made = _on_rows(fresh, source.inputs[0])
            if made is None:
                return fresh
            flat.add(made)
            result = _view(made, fresh.shape)
        context.fire("merge rows", (node,), result)
        return result

    return graph.transform(visit)


def _splits_a_product(node: Node) -> bool:
    return _splits(node) and node.inputs[0].op.name == "matmul" and node.inputs[0].ndim == 2


def _splits(node: Node) -> bool:
    """Whether a node is a reshape that splits the first axis and keeps the others."""
    if node.op.name != "reshape":
        return False
    rows, split = node.inputs[0].shape, node.shape
    rest = len(rows) - 1
    return 0 < len(rows) < len(split) and split[len(split) - rest :] == rows[1:]


def _through(node: Node) -> Node:
    """A reshape of a reshape as one; nothing at all if it undoes it."""
    inner = node.inputs[0]
    if inner.op.name != "reshape":
        return node
    with provenance.deriving("flatten", "reshape of reshape", (node, inner), node.primal, node.source):
        return _view(inner.inputs[0], node.shape)


def _view(node: Node, shape: Shape) -> Node:
    """A node with another shape: through its reshapes, or itself."""
    while node.op.name == "reshape":
        node = node.inputs[0]
    return node if node.shape == shape else REGISTRY["reshape"](node, shape=shape)


def _on_rows(node: Node, rows: Node) -> Node | None:
    """An op on merged rows; None if it looks across the axes that were merged."""
    split = node.inputs[0].shape if isinstance(node.op.lowering, Reduction) else node.shape
    rest = len(rows.shape) - 1
    if split[len(split) - rest :] != rows.shape[1:] or prod(split) != prod(rows.shape):
        return None
    operands = [_rows_of(i, rows.shape, len(split) - rest) for i in node.inputs]
    if not isinstance(node.op.lowering, Reduction):
        return node.op(*operands, **node.attrs)
    lead = len(split) - rest
    axes = set(node.attrs.get("axes", ()))
    across = axes & set(range(lead))
    if set(node.attrs) != {"axes"} or (across and len(across) != lead):
        return None
    merged = tuple(sorted({0} if across else set()) + sorted(a - lead + 1 for a in axes if a >= lead))
    return node.op(*operands, axes=merged)


def _rows_of(node: Node, rows: Shape, lead: int) -> Node:
    """An operand with its leading axes merged; what is broadcast is broadcast to the rows."""
    if node.op.name == "broadcast":
        inner = node.inputs[0]
        full = (1,) * (node.ndim - inner.ndim) + tuple(inner.shape)
        front, back = full[:lead], full[lead:]
        if all(n == 1 for n in front) or front == node.shape[:lead]:
            merged = (prod(front), *back)
            trimmed = merged
            while trimmed and trimmed[0] == 1:
                trimmed = trimmed[1:]
            small = _view(inner, trimmed) if prod(trimmed) == prod(inner.shape) else inner
            return small if small.shape == rows else REGISTRY["broadcast"](small, shape=rows)
    return _view(node, rows)
