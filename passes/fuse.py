"""Fusion: which nodes share a kernel, and which values never reach memory.

What enters: a primitive graph with static shapes. What leaves: a :class:`Fusion`, groups in launch order. A *root* is a node
whose value some kernel makes for others; every other node is inlined where it is read. A group has an iteration *domain*
(the loops i0, i1, ...); each of its roots has loops that are a prefix of the domain, so a row's statistics and the
row itself come out of one kernel.

Rules, in the order they are applied to a node:

1. Outputs, updates, operands of contractions and templates, tables of gathers are roots; so is a value with
   several readers unless it is free to recompute. A contraction reads slices and transposes where they lie if their
   rows are rows in memory, too (the heads of a packed query, key and value).
2. A reduction or contraction may be inlined only where its result is read at the leading loop variables (i0, ..., ik), so
   that it is computed once (a contraction also where a transpose stores its rows elsewhere: heads that are merged);
   likewise an expensive value may not be computed much more often than it has elements.
3. A root joins the group of its latest operand, or else a group with the same domain that reads the same data, when all
   it needs from that group is at the identity index, or along whole rows of the group's domain (reductions over its
   trailing axes), or cheap enough to compute again, and all else comes from earlier groups. Two groups of one domain that
   a root reads are merged where no other group lies between them. A contraction keeps its register tile: only pointwise
   roots of its own shape join it.
4. What one kernel's results alone go into, and takes the place of two or more of them in memory, is a root, too: it joins
   their kernel (the slope of a GELU is kept for the backward pass, not the input and the probability it is made of).
5. A root that nobody outside of its group reads is not stored. (A row that is needed in several passes is computed again or
   kept in a scratch row: ``passes/rows.py`` decides.)

Every refusal is recorded with its reason. Cost is near-linear: a node is looked at once for each group that inlines it,
and group size is bounded by :data:`LIMIT`.
"""

from __future__ import annotations

from math import prod

from graphc.ir import Graph, Node
from graphc.loops.index import Var
from graphc.ops import declare
from graphc.rewrite import Context
from passes.access import Minter, accesses, loop_variables, own_index
from passes.groups import Fusion, Group, base_of, loops_of, own_cost
from passes.inline import Plan, Planner
from passes.narrow import Narrowing

LIMIT = 256  # nodes inlined in one group; bounds kernel size and compile time
SMALL = 16_384  # elements below which threads do not pay, and one kernel is better than two
FEW_ROWS = 8  # rows are spread over threads: fewer of them than this make a kernel of their own for each pass


def fuse(graph: Graph, context: Context | None = None, *, enabled: bool = True, small: int = SMALL) -> Fusion:
    """Partition a primitive graph into kernels (see the module's docstring).

    Args:
        enabled: False gives one kernel a node.
        small: a kernel of so few elements may make scalars before the loops that read them (0 where a kernel is a grid).
    """
    return _Fuser(graph, context, enabled, small).run()


class _Fuser:
    def __init__(self, graph: Graph, context: Context | None, enabled: bool, small: int) -> None:
        self.enabled = enabled
        self.small = small
        self.graph = graph
        self.context = context
        self.must = {n for n in graph.roots if not n.op.is_source}
        self.groups: list[Group] = []
        self.group_of: dict[Node, Group] = {}
        self.views: dict[Node, Node] = {}
        self.recent: dict[tuple[int, ...], Group] = {}
        self.inlined_size: dict[Node, int] = {}
        self.cost: dict[Node, int] = {}
        self.narrowing = Narrowing(graph, self.group_of, self.must)
        self.planner = Planner(self.is_stored, self.views, self.cost, small)

    def run(self) -> Fusion:
        for node in self.graph.nodes:
            if node.op.is_source:
                continue
            inlined = [i for i in node.inputs if not self.is_stored(i) and not i.op.is_source]
            self.inlined_size[node] = 1 + sum(self.inlined_size[i] for i in inlined)
            self.cost[node] = own_cost(node) + sum(self.cost[i] for i in inlined)
            self.narrowing.trace(node)
            if self.wants_root(node) or (self.enabled and self.narrowing.pays(node, self.inlined_size[node], LIMIT)):
                self.place(node)
        self.mark_stored()
        groups = [g for g in self.groups if g.roots]
        for number, group in enumerate(groups):
            group.number = number
        return Fusion(self.graph, tuple(groups), self.views)

    def is_stored(self, node: Node) -> bool:
        return node in self.group_of or node in self.views

    def wants_root(self, node: Node) -> bool:
        if not self.enabled and not isinstance(node.op.lowering, declare.Movement):
            return True
        if isinstance(node.op.lowering, (declare.Template, declare.Partial)):
            return True
        if node in self.must or self.inlined_size[node] > LIMIT:
            return True
        users = self.graph.users[node]
        for user in users:
            match user.op.lowering:
                case declare.Template():
                    return True
                case declare.Contraction():
                    if not self.is_window(node):
                        return True
                case declare.Gather() if user.inputs[0] is node:
                    return True
        return len(set(users)) > 1 and not self.is_free(node)

    def is_free(self, node: Node) -> bool:
        """Whether computing it again costs less than a load and a store."""
        match node.op.lowering:
            case declare.Movement() | declare.CastTo() | declare.Iota() | declare.Guarded():
                return all(i.op.is_source or self.is_stored(i) or self.is_free(i) for i in node.inputs)
            case declare.Elementwise():
                return self.cost[node] <= 2 and all(
                    i.op.is_source
                    or self.is_stored(i)
                    or (isinstance(i.op.lowering, (declare.Movement, declare.Iota)) and self.is_free(i))
                    for i in node.inputs
                )
        return False

    def is_window(self, node: Node) -> bool:
        """Whether a contraction reads ``node`` where it lies: slices and transposes whose rows stay rows in memory."""
        if node in self.must or not isinstance(node.op.lowering, declare.Movement) or not self.is_free(node):
            return False
        variables = loop_variables(node.type.static_shape)
        index, mint = own_index(variables, node), Minter()
        while isinstance(node.op.lowering, declare.Movement) and node not in self.group_of:
            (access,) = accesses(node, index, mint)
            node, index = access.operand, access.index
        used = [v for i in index for v in i.variables]
        return (
            len(used) == len(set(used)) == sum(v.extent != 1 for v in variables)
            and all(i.is_affine_in(v) for i in index for v in variables)
            and index[-1].coefficient(variables[-1]) == 1
        )

    # --- making a root -------------------------------------------------------------------------------------------

    def place(self, node: Node) -> None:
        """Make ``node`` a root: find what it inlines, settle what may not be inlined, choose a group."""
        if self.is_stored(node) or node.op.is_source:
            return
        if node.op.name == "reshape" and node not in self.must:
            self.place(node.inputs[0])
            self.views[node] = node.inputs[0]
            return
        if isinstance(node.op.lowering, declare.Template):
            self.place_template(node)
            return
        plan = self.planner.plan(node)
        while plan.violators:
            for violator in sorted(plan.violators, key=lambda n: n.uid):
                self.refuse(f"inline {violator.op.name} into {node.op.name}", plan.violators[violator], violator, node)
                self.place(violator)
            plan = self.planner.plan(node)
        if not self.join(node, plan):
            group = Group(len(self.groups), loops_of(node), [])
            self.groups.append(group)
            self.add(group, node, plan)

    def place_template(self, node: Node) -> None:
        group = Group(len(self.groups), node.type.static_shape, [node], {node: None}, template=node.op.lowering.name)
        for operand in node.inputs:
            self.place(operand)
            base = base_of(self.views, operand)
            group.reads.setdefault(base, set()).add(())  # () is no identity index: never in place
        group.number = len(self.groups)
        self.groups.append(group)
        self.group_of[node] = group

    # --- choosing a group ----------------------------------------------------------------------------------------

    def add(self, group: Group, node: Node, plan: Plan) -> None:
        group.roots.append(node)
        group.members.update(plan.members)
        inside = set(group.roots)
        for read, indices in plan.reads.items():
            if read not in inside:
                group.reads.setdefault(read, set()).update(indices)
        group.contraction |= plan.contracts
        group.reduces |= plan.reduces
        loops = loops_of(node)
        if len(loops) > len(group.domain):
            group.domain = loops
        if group.depth is None and not group.contraction:
            for depth, shape in plan.rows.values():
                if _rows_fit(group, depth, shape) and plan.depth in (None, depth):
                    group.depth, group.domain = depth, shape
                    break
        if isinstance(node.op.lowering, declare.Partial):
            group.blocks = node.type.static_shape[0]
        self.group_of[node] = group
        self.recent[group.domain] = self.recent[loops] = group

    def join(self, node: Node, plan: Plan) -> bool:
        """Put ``node`` into an existing group if rule 3 allows."""
        if not self.enabled:
            return False
        latest, candidates = self.latest(node, plan), []
        if latest >= 0:
            candidates.append(self.groups[latest])
        for loops in dict.fromkeys((loops_of(node), *(shape for _, shape in plan.rows.values()))):
            sibling = self.recent.get(loops)
            if sibling is not None and sibling.number > latest and (set(sibling.reads) & set(plan.reads)):
                candidates.append(sibling)
        for group in candidates:
            usable = self.fitting_plan(group, node, plan)
            if usable is not None:
                self.add(group, node, usable)
                return True
        return False

    def latest(self, node: Node, plan: Plan) -> int:
        """The last group that the plan reads from (-1: none), after merging it into earlier ones where that is possible."""
        made = sorted({self.group_of[r].number for r in plan.reads if r in self.group_of})
        while len(made) > 1 and not plan.contracts:
            reason = self.unmergeable(self.groups[made[-2]], self.groups[made[-1]])
            if reason:
                self.refuse(f"merge group {made[-1]} into group {made[-2]}", reason, node)
                break
            self.merge(self.groups[made[-2]], self.groups[made.pop()])
        return made[-1] if made else -1

    def unmergeable(self, early: Group, late: Group) -> str:
        """Why a group cannot run in the loops of an earlier one ("" if it can)."""
        if early.domain != late.domain:
            return f"loops differ, {list(late.domain)} against {list(early.domain)}"
        if early.contraction or late.contraction or early.template or late.template:
            return "a contraction or template keeps its own loops"
        if None not in (early.depth, late.depth) and early.depth != late.depth:
            return "their rows differ"
        if early.blocks and late.blocks and early.blocks != late.blocks:
            return "their blocks differ"
        if len(early.members) + len(late.members) > LIMIT:
            return f"the kernel would hold more than {LIMIT} nodes"
        depth = late.depth if early.depth is None else early.depth
        ranks = {len(loops_of(r)) for r in (*early.roots, *late.roots)}
        if depth is not None and any(depth < rank < len(early.domain) for rank in ranks):
            return "some loops would end within the rows"
        for read, indices in late.reads.items():
            maker = self.group_of.get(read)
            if maker is not None and maker.number > early.number:
                return f"it reads what group {maker.number} makes in between"
            if maker is early and indices != {own_index(early.variables, read)}:
                return "it reads other elements of what the earlier group makes"
        return ""

    def merge(self, early: Group, late: Group) -> None:
        """Move all of a group into an earlier one; it is left without roots."""
        early.roots = sorted([*early.roots, *late.roots], key=lambda n: n.uid)
        early.members.update(late.members)
        for read, indices in late.reads.items():
            if self.group_of.get(read) is not early:
                early.reads.setdefault(read, set()).update(indices)
        early.reduces |= late.reduces
        early.depth = late.depth if early.depth is None else early.depth
        early.blocks = early.blocks or late.blocks
        for root in late.roots:
            self.group_of[root] = early
            if self.recent.get(loops_of(root)) is late:
                self.recent[loops_of(root)] = early
        if self.recent.get(late.domain) is late:
            self.recent[late.domain] = early
        late.roots, late.reads = [], {}

    def fitting_plan(self, group: Group, node: Node, plan: Plan) -> Plan | None:
        what = f"join {node.op.name} to group {group.number}"
        reason = self.mismatch(group, node, plan)
        if reason:
            self.refuse(what, reason, node)
            return None
        inside = [r for r in group.roots if r in plan.reads]
        variables = loop_variables(max(group.domain, loops_of(node), key=len))
        elsewhere = [r for r in inside if not self.reachable(group, r, plan, variables)]
        if not elsewhere:
            return plan
        if any(not isinstance(r.op.lowering, declare.Elementwise) for r in elsewhere):
            self.refuse(what, "it reads other elements of a value that the group itself makes", node, *elsewhere)
            return None
        again = self.planner.plan(node, elsewhere)
        if any(isinstance(m.op.lowering, declare.Gather) and m.inputs[0] in again.members for m in again.members):
            self.refuse(what, "a gather reads its table from memory", node, *elsewhere)
            return None
        bad = again.violators or any(
            not self.reachable(group, r, again, variables) for r in again.reads if r in set(inside)
        )
        if bad or again.contracts:
            self.refuse(what, "computing the group's value again at another index costs too much", node, *elsewhere)
            return None
        return again

    def reachable(self, group: Group, root: Node, plan: Plan, variables: tuple[Var, ...]) -> bool:
        """Whether every element of ``root`` that the plan reads is in reach of the same iteration, or of the same row."""
        own = own_index(variables, root) if len(loops_of(root)) <= len(variables) else None
        for index in plan.reads[root] - {own}:
            shape = root.type.static_shape
            depth = plan.row_of(index, shape)
            if depth is None or index[:depth] != own_index(variables[:depth] + (_NONE,) * len(shape), root)[:depth]:
                return False
            if group.contraction or not _rows_fit(group, depth, shape) or plan.depth not in (None, depth):
                return False
            plan.depth = depth
        return True

    def mismatch(self, group: Group, node: Node, plan: Plan) -> str:
        """Why a root cannot share the group's loops ("" if it can)."""
        loops, domain = loops_of(node), group.domain
        if group.template:
            return "the group is a template"
        common = min(len(loops), len(domain))
        if loops[:common] != domain[:common]:
            return f"loops differ, {list(loops)} against {list(domain)}"
        if common == 0 and loops != domain and max(prod(loops), prod(domain)) > self.small:
            return "a scalar is made before the loops that read it, on one thread"
        if plan.contracts:
            return "a contraction opens a kernel of its own"
        if group.contraction and (plan.reduces or loops != domain):
            return "the group's contraction keeps its register tile"
        if group.depth is not None and group.depth < len(loops) < len(domain):
            return "its loops end within the rows of the group"
        if len(group.members) + len(plan.members) > LIMIT:
            return f"the kernel would hold more than {LIMIT} nodes"
        return _block_mismatch(group, node)

    def refuse(self, what: str, reason: str, *nodes: Node) -> None:
        if self.context is not None:
            self.context.refuse(what, reason, nodes)

    def mark_stored(self) -> None:
        """Rule 5: keep in memory only what other groups read or the caller wants."""
        wanted = set(self.must)
        wanted |= {base_of(self.views, n) for n in self.must}
        for group in self.groups:
            wanted.update(group.reads)
        for group in self.groups:
            group.stored = tuple(r for r in group.roots if r in wanted)


_NONE = Var("", 1)


def _rows_fit(group: Group, depth: int, shape: tuple[int, ...]) -> bool:
    """Whether a group can run over rows: axes ``depth`` and on of ``shape``."""
    if group.depth is not None:
        return (group.depth, group.domain) == (depth, shape)
    if prod(shape[:depth]) < FEW_ROWS and prod(shape) > SMALL:
        return False
    same = group.domain == shape or (len(group.domain) <= depth and group.domain == shape[: len(group.domain)])
    return same and all(len(loops_of(r)) <= depth or loops_of(r) == shape for r in group.roots)


def _block_mismatch(group: Group, node: Node) -> str:
    """Why a group cannot make partial results ("" if the root is none, or it can)."""
    if not isinstance(node.op.lowering, declare.Partial):
        return ""
    if not group.domain or loops_of(node) != group.domain or group.depth == 0:
        return "partial results are made in all loops of a kernel"
    if group.blocks and group.blocks != node.type.static_shape[0]:
        return f"the kernel's blocks differ, {node.type.static_shape[0]} against {group.blocks}"
    return ""
