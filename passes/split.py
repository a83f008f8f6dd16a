"""Split: large reductions over leading axes become partial results of blocks, and a small reduction over the blocks.

What enters: a primitive graph with static shapes. What leaves: the same, where ``sum(x)`` and ``sum(x, axis=0)`` of many elements
are ``sum(partial(x), axis=0)``. The partial results are accumulated by the kernel that makes ``x``, row by row, so that a
total costs no second pass over memory, a column sum needs no transposing, and both run on all threads. Invariant: blocks
depend on the shape alone, so results are the same bits for any number of threads. ::

    %1: f32[] = sum(%0) {axes=(0, 1)}        %1: f32[32] = partial(%0) {combiner="add", axes=(0, 1), size=128}
                                             %2: f32[] = sum(%1) {axes=(0,)}
"""

from __future__ import annotations

from math import prod

from graphc import provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.ops.declare import Reduction
from graphc.rewrite import Context

BLOCKS = 32  # enough to balance the threads of usual machines
TOTAL = 1 << 15  # elements from which a total is split: some 5 microseconds
COLUMNS = 1 << 18  # elements from which column sums are: below, lanes across the columns stay in the cache
LANES = 64  # blocks of a long vector start at multiples of this


def split(graph: Graph, context: Context) -> Graph:
    """Partial results for large reductions over leading axes."""
    return graph.transform(lambda node, inputs: _split(node, inputs, context))


def _split(node: Node, inputs: tuple[Node, ...], context: Context) -> Node:
    fresh = node.with_inputs(inputs)
    size = block_size(node)
    if not size:
        return fresh
    assert isinstance(node.op.lowering, Reduction)
    with provenance.deriving("split", "partial results", parents=(node,), source=node.source, primal=node.primal):
        partial = REGISTRY["partial"](inputs[0], combiner=node.op.lowering.combiner, axes=node.attrs["axes"], size=size)
        made = node.op(partial, axes=(0,))
    context.fire("partial results of blocks", (node,), made)
    return made


def block_size(node: Node) -> int:
    """Rows of a block, 0 where a reduction stays whole.

    >>> from graphc import ops
    >>> block_size(ops.sum(ops.input("x", (4096, 768)), axis=0)), block_size(ops.sum(ops.input("y", (100,))))
    (128, 0)
    """
    if not isinstance(node.op.lowering, Reduction):
        return 0
    shape, axes = node.inputs[0].type.static_shape, tuple(node.attrs["axes"])
    if not axes or axes != tuple(range(len(axes))) or shape[0] < BLOCKS:
        return 0
    total = len(axes) == len(shape)
    if prod(shape) < (TOTAL if total else COLUMNS) or not (total or node.op.lowering.combiner == "add"):
        return 0
    size = -(-shape[0] // BLOCKS)
    return -(-size // LANES) * LANES if len(shape) == 1 else size
