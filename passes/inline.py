"""What computing one root entails: the nodes it inlines, the values it loads and where, and what may not be inlined.

What enters: a root, and which values are in memory already. What leaves: a :class:`Plan`. Invariant: needed indices are
propagated users before operands, each node once, so that a plan costs as much as the nodes it inlines.

>>> # y = x / sum(x, axis=1): the sum is inlined at (i0), x is loaded at (i0, i1) and along the row, at (i0, k0)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod

from graphc.ir import Node
from graphc.loops.index import Index, Var
from graphc.ops import declare
from passes.access import IndexTuple, Minter, accesses, loop_variables, own_index
from passes.groups import elements, loops_of

RECOMPUTE = 2.5  # an expensive value may be computed this often, relative to its element count
EXPENSIVE = 8  # cost units from which a value counts as expensive


@dataclass
class Plan:
    """What computing one root entails.

    Attributes:
        members: the root and what it inlines. reads: stored values and the indices at which they are loaded.
        violators: nodes that may not be inlined, with the reason.
        rows: loop variables of each reduction along rows, with how many leading axes it keeps and its operand's shape.
        depth: the leading axes of the rows along which it reads values of the group that it joins.
    """

    root: Node
    members: dict[Node, None] = field(default_factory=dict)
    reads: dict[Node, set[IndexTuple]] = field(default_factory=dict)
    violators: dict[Node, str] = field(default_factory=dict)
    rows: dict[tuple[Var, ...], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    depth: int | None = None

    @property
    def contracts(self) -> bool:
        return any(isinstance(m.op.lowering, declare.Contraction) for m in self.members)

    @property
    def reduces(self) -> bool:
        return any(isinstance(m.op.lowering, (declare.Reduction, declare.Partial)) for m in self.members)

    def row_of(self, index: IndexTuple, shape: tuple[int, ...]) -> int | None:
        """How many leading axes are kept where ``index`` walks along a row of a value of that shape; None if it does not."""
        for loops, (depth, of) in self.rows.items():
            if of == shape and index[depth:] == tuple(Index.of(v) for v in loops):
                return depth
        return None


class Planner:
    """Makes plans, given what is in memory, what each value would cost and the views."""

    def __init__(
        self, stored: Callable[[Node], bool], views: dict[Node, Node], cost: dict[Node, int], small: int
    ) -> None:
        self.stored = stored
        self.small = small
        self.views = views
        self.cost = cost

    def plan(self, root: Node, again: Iterable[Node] = ()) -> Plan:
        """Propagate the needed indices from ``root`` down to stored values; ``again`` are stored values to recompute."""
        again = set(again)
        variables = loop_variables(_extents(root))
        mint = Minter()
        needs: dict[Node, dict[IndexTuple, None]] = {root: {own_index(variables, root): None}}
        heap = [-root.uid]
        by_uid = {root.uid: root}
        plan = Plan(root)
        while heap:
            node = by_uid[-heapq.heappop(heap)]
            plan.members[node] = None
            if node is not root:
                reason = self.violation(node, needs[node], variables)
                if reason:
                    plan.violators[node] = reason
                    continue
            for index in needs[node]:
                note_row(plan, node, index, variables, mint)
                for access in accesses(node, index, mint):
                    operand = access.operand
                    if operand.op.name == "constant" and operand.ndim == 0:
                        continue
                    if operand.op.is_source or (self.stored(operand) and operand not in again):
                        self.read(plan, operand, access.index)
                        continue
                    if operand not in needs:
                        needs[operand] = {}
                        by_uid[operand.uid] = operand
                        heapq.heappush(heap, -operand.uid)
                    needs[operand][access.index] = None
        return plan

    def read(self, plan: Plan, operand: Node, index: IndexTuple) -> None:
        """Record a load, of the value behind a view."""
        mint = Minter()
        while operand in self.views:  # views are reshapes: one operand, nothing minted
            (access,) = accesses(operand, index, mint)
            operand, index = access.operand, access.index
        plan.reads.setdefault(operand, set()).add(index)

    def violation(self, node: Node, indices: Iterable[IndexTuple], variables: tuple[Var, ...]) -> str:
        """Why ``node`` may not be inlined at these indices ("" if it may)."""
        lowering = node.op.lowering
        if isinstance(lowering, (declare.Template, declare.Partial)):
            return "a template op always writes its result to memory"
        if isinstance(lowering, (declare.Reduction, declare.Contraction)):
            return _reduction_violation(node, indices, variables, self.small)
        if self.cost[node] >= EXPENSIVE:
            runs = sum(_evaluations(index, variables) for index in indices)
            size = max(elements(node), 1)
            if runs > RECOMPUTE * size:
                return f"it would be computed {runs / size:.0f} times as often as it has elements"
        return ""


def _reduction_violation(node: Node, indices: Iterable[IndexTuple], variables: tuple[Var, ...], small: int) -> str:
    rank, shape = len(variables), loops_of(node)
    indices = tuple(indices)
    if isinstance(node.op.lowering, declare.Contraction) and len(indices) == 1 and _rearranges(indices[0], variables):
        return ""
    if len(shape) > rank or any(index != own_index(variables, node) for index in indices):
        return "its result is read at another index than the loops' leading variables: it would be recomputed"
    if not shape and rank > 0:
        size = max(elements(node.inputs[0]), prod(v.extent for v in variables))
        if isinstance(node.op.lowering, declare.Contraction) or size > small:
            return "a reduction to a scalar runs before the loops that read it, on one thread"
    if isinstance(node.op.lowering, declare.Contraction) and node.ndim != rank:
        return "a contraction keeps its register tile: its consumer has more loops"
    return ""


def _rearranges(index: IndexTuple, variables: tuple[Var, ...]) -> bool:
    """Whether each loop variable is one index, the last the last: rows of a tile are rows of the result, at other places."""
    loops = [Index.of(v) for v in variables if v.extent != 1]
    moving = [i for i in index if not i.is_const]
    last = bool(moving) and moving[-1:] == loops[-1:] and moving[-1] is index[-1]
    return last and len(index) == len(variables) and len(moving) == len(loops) and set(moving) == set(loops)


def note_row(plan: Plan, node: Node, index: IndexTuple, variables: tuple[Var, ...], mint: Minter) -> None:
    """Record a reduction over all trailing axes whose result is needed at the leading loop variables."""
    if isinstance(node.op.lowering, declare.Reduction):
        kept = row_depth(node)
        if kept is not None and len(loops_of(node)) <= len(variables) and index == own_index(variables, node):
            shape = node.inputs[0].type.static_shape
            plan.rows[mint.loops(node, index, shape[kept:])] = kept, shape


def row_depth(node: Node) -> int | None:
    """How many leading axes a reduction over trailing axes keeps; None for one over other axes, or with size 1 or 0 ones.

    >>> from graphc import ops
    >>> x = ops.input("x", (4, 5, 6))
    >>> row_depth(ops.sum(x, axis=2)), row_depth(ops.sum(x, axis=0))
    (2, None)
    """
    shape, axes = node.inputs[0].type.static_shape, node.attrs["axes"]
    kept = len(shape) - len(axes)
    trailing = bool(axes) and tuple(axes) == tuple(range(kept, len(shape)))
    return kept if trailing and all(extent > 1 for extent in shape[kept:]) and 0 not in shape else None


def _extents(root: Node) -> tuple[int, ...]:
    partial = isinstance(root.op.lowering, declare.Partial)
    return root.inputs[0].type.static_shape if partial else root.type.static_shape


def _evaluations(index: IndexTuple, variables: tuple[Var, ...]) -> int:
    """How often a value at ``index`` is computed: once for each iteration of the loops down to its deepest variable."""
    used = {v for i in index for v in i.variables}
    depth = max((n + 1 for n, v in enumerate(variables) if v in used), default=0)
    inner = [v.extent for v in used if v not in variables]
    return prod([v.extent for v in variables[:depth]]) * prod(inner)
