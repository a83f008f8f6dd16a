"""Narrowing: what a kernel stores for later is cut at the narrowest place.

What enters: nodes in order, and the groups that fusion has made so far. What leaves: for a pointwise node, whether its kernel should
be that of the values it is made of. Invariant: a node is only pulled into a group that already makes all that it reads, at the same
index, so nothing is computed more often. The slope of a GELU, read by the backward pass::

    forward:   x = a @ w + b;  p = cdf(x);  y = x * p;  store x, p, y          store s, y
    backward:  s = p + x * pdf(x);  dx = dy * s         load x, p        ->    load s

Source: Jiang et al., Min-cut rematerialization (PyTorch's partitioner, 2022), where both sides of the cut are one kernel each.
"""

from __future__ import annotations

from graphc.ir import Graph, Node
from graphc.ops import declare
from passes.groups import Group, loops_of

FEWEST = 2  # results of a kernel, no longer stored, from which on it pays to make in it what they are read for


class Narrowing:
    """Follows pointwise values back to the results of one kernel.

    Args:
        graph: the graph being fused. group_of: the group of each root so far (fusion adds to it). must: values that are stored in any case.
    """

    def __init__(self, graph: Graph, group_of: dict[Node, Group], must: set[Node]) -> None:
        self.graph = graph
        self.group_of = group_of
        self.must = must
        self.made_of: dict[Node, frozenset[Node]] = {}

    def trace(self, node: Node) -> None:
        """Note which results of one kernel ``node`` is made of, element by element; nothing where it reads anything else."""
        if node.op.name == "broadcast" and _is_number(node.inputs[0]):
            self.made_of[node] = frozenset()
        if not isinstance(node.op.lowering, declare.Elementwise):
            return
        leaves: set[Node] = set()
        for operand in node.inputs:
            if operand in self.group_of:
                leaves.add(operand)
            elif operand in self.made_of:
                leaves |= self.made_of[operand]
            elif not _is_number(operand):
                return
        if len({self.group_of[leaf].number for leaf in leaves}) <= 1:
            self.made_of[node] = frozenset(leaves)

    def pays(self, node: Node, size: int, limit: int) -> bool:
        """Whether storing ``node``, which inlines ``size`` nodes, saves storing two or more results of the kernel that can make it."""
        leaves = self.made_of.get(node, frozenset())
        if len(leaves) < FEWEST:
            return False
        group = self.group_of[next(iter(leaves))]
        if group.template or loops_of(node) != group.domain or len(group.members) + size > limit:
            return False
        if node.type.dtype.itemsize > min(leaf.type.dtype.itemsize for leaf in leaves):
            return False
        inside = self._inlined(node, leaves)

        def private(value: Node) -> bool:
            return all(user in inside or user in group.members for user in self.graph.users[value])

        if not all(private(made) for made in inside if made is not node and self.made_of[made]):
            return False
        return sum(leaf not in self.must and private(leaf) for leaf in leaves) >= FEWEST

    def _inlined(self, node: Node, leaves: frozenset[Node]) -> set[Node]:
        """``node`` and all between it and the leaves."""
        inside, pending = {node}, [node]
        while pending:
            for operand in pending.pop().inputs:
                if operand in self.made_of and operand not in leaves and operand not in inside:
                    inside.add(operand)
                    pending.append(operand)
        return inside


def _is_number(node: Node) -> bool:
    return node.op.name == "constant" and node.ndim == 0
