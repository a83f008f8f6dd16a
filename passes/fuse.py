"""Fusion: which nodes share a kernel, and which values never reach memory.

What enters: a primitive graph with static shapes. What leaves: a :class:`Fusion`, groups in launch order. A *root* is a node
whose value some kernel makes for others; every other node is inlined where it is read. A group has an iteration *domain*
(the loops i0, i1, ...); each of its roots has a shape that is a prefix of the domain, so a row's statistics and the
row itself come out of one kernel.

Rules, in the order they are applied to a node:

1. Outputs, updates, operands of contractions and templates, tables of gathers are roots; so is a value with
   several readers unless it is free to recompute.
2. A reduction or contraction may be inlined only where its result is read at the leading loop variables (i0, ..., ik), so
   that it is computed once; likewise an expensive value may not be computed much more often than it has elements.
3. A root joins the group of its latest operand, or else a group with the same domain that reads the same data, when all
   it needs from that group is at the identity index (or cheap enough to compute again) and all else comes from earlier
   groups. A contraction keeps its register tile: only pointwise roots of its own shape join it.
4. A root that nobody outside of its group reads is not stored.

Every refusal is recorded with its reason. Cost is near-linear: a node is looked at once for each group that inlines it,
and group size is bounded by :data:`LIMIT`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from graphc.ir import Graph, Node
from graphc.loops.index import Var
from graphc.ops import declare
from graphc.rewrite import Context
from passes.access import IndexTuple, Minter, accesses, identity_index, loop_variables

LIMIT = 256  # nodes inlined in one group; bounds kernel size and compile time
RECOMPUTE = 2.5  # an expensive value may be computed this often, relative to its element count
EXPENSIVE = 8  # cost units from which a value counts as expensive
_COST = {
    "exp": 10, "log": 12, "tanh": 12, "sigmoid": 12, "erf": 14, "pow": 30, "sin": 12, "cos": 12, "log1p": 14, "expm1": 14,
    "div": 4, "sqrt": 5, "mod": 10, "floordiv": 10, "tan": 30, "asin": 30, "acos": 30, "atan": 30, "atan2": 30,
    "sinh": 30, "cosh": 30,
}  # fmt: skip


@dataclass
class Group:
    """Nodes that one kernel computes.

    Attributes:
        number: place in the launch order.
        domain: extents of the loops.
        roots: the nodes it makes, operands first. stored: those that reach memory.
        members: roots and inlined nodes (provenance).
        reads: node outside of the group -> the indices at which it is loaded.
        template: the template's name for a materialising op, else "".
    """

    number: int
    domain: tuple[int, ...]
    roots: list[Node]
    members: dict[Node, None] = field(default_factory=dict)
    reads: dict[Node, set[IndexTuple]] = field(default_factory=dict)
    stored: tuple[Node, ...] = ()
    template: str = ""
    contraction: bool = False
    reduces: bool = False

    @property
    def variables(self) -> tuple[Var, ...]:
        return loop_variables(self.domain)

    def reads_at_identity(self, node: Node) -> bool:
        """Whether every read of ``node`` is of the element that the same iteration would write."""
        return self.reads.get(node, set()) <= {identity_index(self.variables, node.ndim)}


@dataclass(frozen=True)
class Fusion:
    """The graph, its groups in launch order, and views (reshapes of stored values that cost nothing)."""

    graph: Graph
    groups: tuple[Group, ...]
    views: dict[Node, Node]

    def text(self) -> str:
        """One line a group: domain, roots, what is inlined."""
        lines = []
        for g in self.groups:
            stored = ", ".join(f"{n.op.name}: {n.type}" + (f" ({n.source})" if n.source else "") for n in g.stored)
            inlined = [n.op.name for n in g.members if n not in g.stored]
            what = g.template or ("contraction" if g.contraction else "reduction" if g.reduces else "pointwise")
            lines.append(f"group {g.number} [{', '.join(map(str, g.domain))}] {what}: makes {stored}")
            if inlined:
                lines.append(f"    inlines {', '.join(inlined)}")
        return "\n".join(lines)


def base_of(views: dict[Node, Node], node: Node) -> Node:
    """The stored value behind a chain of views."""
    while node in views:
        node = views[node]
    return node


def fuse(graph: Graph, context: Context | None = None, *, enabled: bool = True) -> Fusion:
    """Partition a primitive graph into kernels (see the module's docstring); not ``enabled`` gives one kernel a node."""
    return _Fuser(graph, context, enabled).run()


@dataclass
class _Plan:
    """What computing one root entails."""

    members: dict[Node, None]
    reads: dict[Node, set[IndexTuple]]
    violators: dict[Node, str]


class _Fuser:
    def __init__(self, graph: Graph, context: Context | None, enabled: bool) -> None:
        self.enabled = enabled
        self.graph = graph
        self.context = context
        self.must = {n for n in graph.roots if not n.op.is_source}
        self.groups: list[Group] = []
        self.group_of: dict[Node, Group] = {}
        self.views: dict[Node, Node] = {}
        self.recent: dict[tuple[int, ...], Group] = {}
        self.inlined_size: dict[Node, int] = {}
        self.cost: dict[Node, int] = {}

    def run(self) -> Fusion:
        for node in self.graph.nodes:
            if _outside(node):
                continue
            inlined = [i for i in node.inputs if not self.is_stored(i) and not _outside(i)]
            self.inlined_size[node] = 1 + sum(self.inlined_size[i] for i in inlined)
            self.cost[node] = _own_cost(node) + sum(self.cost[i] for i in inlined)
            if self.wants_root(node):
                self.place(node)
        self.mark_stored()
        return Fusion(self.graph, tuple(self.groups), self.views)

    def is_stored(self, node: Node) -> bool:
        return node in self.group_of or node in self.views

    def wants_root(self, node: Node) -> bool:
        if not self.enabled and not isinstance(node.op.lowering, declare.Movement):
            return True
        if node in self.must or isinstance(node.op.lowering, declare.Template) or self.inlined_size[node] > LIMIT:
            return True
        users = self.graph.users[node]
        for user in users:
            match user.op.lowering:
                case declare.Template() | declare.Contraction():
                    return True
                case declare.Gather() if user.inputs[0] is node:
                    return True
        return len(set(users)) > 1 and not self.is_free(node)

    def is_free(self, node: Node) -> bool:
        """Whether computing it again costs less than a load and a store."""
        match node.op.lowering:
            case declare.Movement() | declare.CastTo() | declare.Iota() | declare.Guarded():
                return all(_outside(i) or self.is_stored(i) or self.is_free(i) for i in node.inputs)
            case declare.Elementwise():
                return self.cost[node] <= 2 and all(_outside(i) or self.is_stored(i) for i in node.inputs)
        return False

    # --- making a root -------------------------------------------------------------------------------------------

    def place(self, node: Node) -> None:
        """Make ``node`` a root: find what it inlines, settle what may not be inlined, choose a group."""
        if self.is_stored(node) or _outside(node):
            return
        if node.op.name == "reshape" and node not in self.must:
            self.place(node.inputs[0])
            self.views[node] = node.inputs[0]
            return
        if isinstance(node.op.lowering, declare.Template):
            self.place_template(node)
            return
        plan = self.plan(node)
        while plan.violators:
            for violator in sorted(plan.violators, key=lambda n: n.uid):
                self.refuse(f"inline {violator.op.name} into {node.op.name}", plan.violators[violator], violator, node)
                self.place(violator)
            plan = self.plan(node)
        if not self.join(node, plan):
            self.open_group(node, plan)

    def place_template(self, node: Node) -> None:
        for operand in node.inputs:
            self.place(operand)
        reads: dict[Node, set[IndexTuple]] = {}
        for operand in node.inputs:
            reads.setdefault(base_of(self.views, operand), set()).add(())  # () is no identity index: never in place
        name = node.op.lowering.name
        group = Group(len(self.groups), node.type.static_shape, [node], {node: None}, reads, template=name)
        self.groups.append(group)
        self.group_of[node] = group

    def plan(self, root: Node, again: Iterable[Node] = ()) -> _Plan:
        """Propagate the needed indices from ``root`` down to stored values; ``again`` are stored values to recompute."""
        again = set(again)
        variables = loop_variables(root.type.static_shape)
        mint = Minter()
        needs: dict[Node, dict[IndexTuple, None]] = {root: {identity_index(variables, root.ndim): None}}
        heap = [-root.uid]
        by_uid = {root.uid: root}
        plan = _Plan({}, {}, {})
        while heap:
            node = by_uid[-heapq.heappop(heap)]
            plan.members[node] = None
            if node is not root:
                reason = self.violation(node, needs[node], variables)
                if reason:
                    plan.violators[node] = reason
                    continue
            for index in needs[node]:
                for access in accesses(node, index, mint):
                    operand = access.operand
                    if operand.op.name == "constant" and operand.ndim == 0:
                        continue
                    if _outside(operand) or (self.is_stored(operand) and operand not in again):
                        self.read(plan, operand, access.index)
                        continue
                    if operand not in needs:
                        needs[operand] = {}
                        by_uid[operand.uid] = operand
                        heapq.heappush(heap, -operand.uid)
                    needs[operand][access.index] = None
        return plan

    def read(self, plan: _Plan, operand: Node, index: IndexTuple) -> None:
        base = base_of(self.views, operand)
        # a view is read at another multi-index than its base: never the identity, unless the shapes agree
        plan.reads.setdefault(base, set()).add(index if base is operand else ())

    def violation(self, node: Node, indices: Iterable[IndexTuple], variables: tuple[Var, ...]) -> str:
        """Why ``node`` may not be inlined at these indices ("" if it may)."""
        lowering = node.op.lowering
        rank = len(variables)
        if isinstance(lowering, declare.Template):
            return "a template op always writes its result to memory"
        if isinstance(lowering, (declare.Reduction, declare.Contraction)):
            if any(index != identity_index(variables, node.ndim) for index in indices):
                return "its result is read at another index than the loops' leading variables: it would be recomputed"
            if node.ndim == 0 and rank > 0:
                return "a reduction to a scalar runs before the loops that read it"
            if isinstance(lowering, declare.Contraction) and node.ndim != rank:
                return "a contraction keeps its register tile: its consumer has more loops"
            return ""
        if self.cost[node] >= EXPENSIVE:
            runs = sum(_evaluations(index, variables) for index in indices)
            size = max(prod(node.type.static_shape), 1)
            if runs > RECOMPUTE * size:
                return f"it would be computed {runs / size:.0f} times as often as it has elements"
        return ""

    # --- choosing a group ----------------------------------------------------------------------------------------

    def open_group(self, node: Node, plan: _Plan) -> None:
        group = Group(len(self.groups), node.type.static_shape, [])
        self.groups.append(group)
        self.add(group, node, plan)

    def add(self, group: Group, node: Node, plan: _Plan) -> None:
        group.roots.append(node)
        group.members.update(plan.members)
        inside = set(group.roots)
        for read, indices in plan.reads.items():
            if read not in inside:
                group.reads.setdefault(read, set()).update(indices)
        group.contraction |= any(isinstance(m.op.lowering, declare.Contraction) for m in plan.members)
        group.reduces |= any(isinstance(m.op.lowering, declare.Reduction) for m in plan.members)
        if node.ndim > len(group.domain):
            group.domain = node.type.static_shape
        self.group_of[node] = group
        self.recent[group.domain] = group

    def join(self, node: Node, plan: _Plan) -> bool:
        """Put ``node`` into an existing group if rule 3 allows."""
        if not self.enabled:
            return False
        latest = max((self.group_of[r].number for r in plan.reads if r in self.group_of), default=-1)
        candidates = []
        if latest >= 0:
            candidates.append(self.groups[latest])
        sibling = self.recent.get(node.type.static_shape)
        if sibling is not None and sibling.number > latest and (set(sibling.reads) & set(plan.reads)):
            candidates.append(sibling)
        for group in candidates:
            usable = self.fitting_plan(group, node, plan)
            if usable is not None:
                self.add(group, node, usable)
                return True
        return False

    def fitting_plan(self, group: Group, node: Node, plan: _Plan) -> _Plan | None:
        what = f"join {node.op.name} to group {group.number}"
        reason = self.mismatch(group, node, plan)
        if reason:
            self.refuse(what, reason, node)
            return None
        inside = set(group.roots)
        variables = loop_variables(max(group.domain, node.type.static_shape, key=len))
        elsewhere = [
            r for r in plan.reads if r in inside and plan.reads[r] != {identity_index(variables, r.ndim)}
        ]  # fmt: skip
        if not elsewhere:
            return plan
        if any(not isinstance(r.op.lowering, declare.Elementwise) for r in elsewhere) or any(
            () in plan.reads[r] for r in elsewhere
        ):
            self.refuse(what, "it reads other elements of a value that the group itself makes", node, *elsewhere)
            return None
        again = self.plan(node, elsewhere)
        if any(isinstance(m.op.lowering, declare.Gather) and m.inputs[0] in again.members for m in again.members):
            self.refuse(what, "a gather reads its table from memory", node, *elsewhere)
            return None
        bad = again.violators or any(
            again.reads[r] != {identity_index(variables, r.ndim)} for r in again.reads if r in inside
        )
        if bad or any(isinstance(m.op.lowering, declare.Contraction) for m in again.members):
            self.refuse(what, "computing the group's value again at another index costs too much", node, *elsewhere)
            return None
        return again

    def mismatch(self, group: Group, node: Node, plan: _Plan) -> str:
        shape, domain = node.type.static_shape, group.domain
        if group.template:
            return "the group is a template"
        common = min(len(shape), len(domain))
        if shape[:common] != domain[:common] or (common == 0 and len(shape) != len(domain)):
            return f"loops differ, {list(shape)} against {list(domain)}"
        contracts = any(isinstance(m.op.lowering, declare.Contraction) for m in plan.members)
        reduces = any(isinstance(m.op.lowering, declare.Reduction) for m in plan.members)
        if contracts:
            return "a contraction opens a kernel of its own"
        if group.contraction and (reduces or shape != domain):
            return "the group's contraction keeps its register tile"
        if len(group.members) + len(plan.members) > LIMIT:
            return f"the kernel would hold more than {LIMIT} nodes"
        return ""

    def refuse(self, what: str, reason: str, *nodes: Node) -> None:
        if self.context is not None:
            self.context.refuse(what, reason, nodes)

    def mark_stored(self) -> None:
        """Rule 4: keep in memory only what other groups read or the caller wants."""
        wanted = set(self.must)
        wanted |= {base_of(self.views, n) for n in self.must}
        for group in self.groups:
            wanted.update(group.reads)
        for group in self.groups:
            group.stored = tuple(r for r in group.roots if r in wanted)


def _outside(node: Node) -> bool:
    return node.op.is_source


def _own_cost(node: Node) -> int:
    match node.op.lowering:
        case declare.Elementwise(primitive):
            return _COST.get(primitive, 1)
        case declare.Reduction() | declare.Contraction():
            return 100
        case declare.Gather():
            return 2
    return 0


def _evaluations(index: IndexTuple, variables: tuple[Var, ...]) -> int:
    """How often a value at ``index`` is computed: once for each iteration of the loops down to its deepest variable."""
    used = {v for i in index for v in i.variables}
    depth = max((n + 1 for n, v in enumerate(variables) if v in used), default=0)
    inner = [v.extent for v in used if v not in variables]
    return prod([v.extent for v in variables[:depth]]) * prod(inner)
