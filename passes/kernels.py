"""Lower one fused group to a kernel of the loop IR: plain serial nests.

What enters: a :class:`passes.groups.Group`. What leaves: a kernel, the buffers it is launched on and its guard sites. Invariant:
a value is computed in the outermost loop in which its index is known, once for each index and each pass over the row in
which it is needed, and every statement names the graph nodes it computes.

Method, pull style: from the group's roots the needed indices are propagated down to stored values (users before operands),
then statements are emitted (operands before users). Reductions along the rows of the group share the loops of their
pass (``passes/rows.py``); any other reduction opens a scope of its own loop variables::

    softmax rows          for i0 in 128 {
                            acc %a0 = maximum;  for i1 in 10 { load; %a0 maximum= }                  pass 0
                            acc %a1 = add;      for i1 in 10 { load; exp(x - max); %a1 add=; keep }  pass 1
                            for i1 in 10 { load what was kept; divide; store }                       pass 2
                          }

Partial results cut the outermost loop into blocks::

    column sums           for block in 16 { store p[block, :] = 0
                            for row in 256 { for i1 in 768 { load x[256*block+row, i1]; store p[block, i1] += x } } }
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from graphc.errors import CompileError
from graphc.ir import Node
from graphc.loops import ir
from graphc.loops.index import Index, Var
from graphc.ops import declare
from graphc.rewrite import Context
from graphc.types import TensorType, int64
from passes.access import Access, IndexTuple, Minter, accesses, own_index
from passes.groups import Fusion, Group, base_of, computed_in_order, loops_of
from passes.inline import row_depth
from passes.rows import Item, RowPlan, plan_rows
from passes.scopes import Params, Scope, Site, block_var, in_blocks


class GroupLowering:
    """Lowers one group (see the module's docstring)."""

    def __init__(
        self, group: Group, fusion: Fusion, names: Mapping[Node, str], memory: int, context: Context | None = None
    ) -> None:
        self.memory = memory
        self.context = context
        self.group = group
        self.views = fusion.views
        self.params = Params(names, fusion.views)
        self.mint = Minter()
        self.inside = set(group.members)
        self.roots = set(group.roots)
        self.operands_of: dict[Item, list[Item]] = {}
        self.values: dict[Item, ir.Operand] = {}
        self.row_values: dict[Item, ir.Operand] = {}
        self.scopes: dict[Var, Scope] = {}
        self.value_scope: dict[str, Scope] = {}
        self.reduced: dict[tuple[Var, ...], Scope] = {}
        self.sites: list[Site] = []
        self.count = 0
        self.now = 0
        variables = group.variables
        depth = len(variables) if group.depth is None else group.depth
        self.row_vars = variables[depth:]
        self.moving = set(self.row_vars)  # with the loops of reductions inside of the row
        self.top = Scope(None, None, 0)
        self.main = [self.top]
        for var in variables[:depth]:
            if var.extent == 1:
                self.main.append(self.main[-1])
                continue
            scope = self.scopes[var] = Scope(var, self.main[-1], self.main[-1].depth + 1)
            self.main.append(scope)
        self.ends: list[tuple[Item, str, str]] = []  # row reductions of this pass: element, accumulator, combiner
        self.partials: list[tuple[Node, str]] = []  # partial results: node, accumulator ("" where kept axes are left)
        self.scratch: dict[Item, ir.Buffer] = {}

    def run(self) -> tuple[ir.Kernel, tuple[str, ...], tuple[Site, ...]]:
        order = self.collect()
        row = {item for item in order if self.is_of_row(item[1])}
        ends = {item for item in order if self.is_row_reduction(*item)}
        stored = {(r, own_index(self.group.variables, r)) for r in self.group.stored}
        extents = tuple(v.extent for v in self.row_vars)
        known = set(self.group.variables)
        inner = {item for item in order if any(not i.variables <= known for i in item[1])}
        plan = plan_rows(order, self.operands_of, row, ends, stored, inner, extents, self.memory)
        for number, item in enumerate(plan.kept):
            buffer = self.scratch[item] = ir.Buffer(
                f"row{number}", TensorType(item[0].dtype, extents), "inout", "local"
            )
            self.main[-1].body.append(ir.Alloc(buffer))
        if self.context is not None:
            for what, reason, node in plan.notes:
                self.context.refuse(what, reason, (node,))
        for number in range(plan.count):
            self.one_pass(number, order, plan, row)
        body = self.whole()
        params = tuple(self.params.params.values())
        kernel = ir.Kernel("", params, body, tuple(self.group.members))
        return kernel, self.params.buffers, tuple(self.sites)

    # --- which elements are needed, operands first -----------------------------------------------------------------

    def collect(self) -> list[Item]:
        needs: dict[Node, dict[IndexTuple, None]] = {}
        heap: list[int] = []
        computed = computed_in_order(self.group, self.views)
        place = {node: n for n, node in enumerate(computed)}

        def need(node: Node, index: IndexTuple) -> None:
            if node not in needs:
                needs[node] = {}
                heapq.heappush(heap, -place[node])
            needs[node][index] = None

        for root in self.group.roots:
            need(root, own_index(self.group.variables, root))
        order: list[Item] = []
        while heap:
            node = computed[-heapq.heappop(heap)]
            for index in needs[node]:
                order.append((node, index))
                read = self.operands_of[node, index] = []
                for access in self.accesses(node, index):
                    unknown = any(i.values - _run_time(index) for i in access.index)
                    if not unknown and self.is_computed(access.operand):
                        need(access.operand, access.index)
                        read.append((access.operand, access.index))
        return order[::-1]

    def accesses(self, node: Node, index: IndexTuple) -> tuple[Access, ...]:
        if self.is_row_reduction(node, index):
            self.mint.reductions[node, index] = self.row_vars
        found = accesses(node, index, self.mint)
        loops = self.mint.reductions.get((node, index), ())
        if loops != self.row_vars and self.is_of_row(index):
            self.moving.update(loops)
        return found

    def is_computed(self, node: Node) -> bool:
        """Whether the kernel makes the value; a view of what it makes is looked through."""
        return node in self.inside or (node in self.views and base_of(self.views, node) in self.roots)

    def is_of_row(self, index: IndexTuple) -> bool:
        return any(not i.variables.isdisjoint(self.moving) for i in index)

    def is_row_reduction(self, node: Node, index: IndexTuple) -> bool:
        """Whether a reduction runs over the rows of the group, in the loops that all such reductions of a pass share."""
        if not self.row_vars or not isinstance(node.op.lowering, declare.Reduction):
            return False
        shape = node.inputs[0].type.static_shape
        same = shape == self.group.domain and row_depth(node) == self.group.depth
        return same and index == own_index(self.group.variables, node)

    # --- one pass --------------------------------------------------------------------------------------------------

    def one_pass(self, number: int, order: list[Item], plan: RowPlan, row: set[Item]) -> None:
        """Emit what runs in a pass: values, then stores, then the loops around them."""
        self.now, self.row_values, self.ends = number, {}, []
        inner = self.main[-1]
        for var in self.row_vars:
            inner = self.scopes[var] = Scope(var, inner, inner.depth + 1)
        items = [item for item in order if number in plan.runs[item]]
        for node, index in reversed(items):
            loops = self.mint.reductions.get((node, index), ())
            if loops and not self.is_row_reduction(node, index):
                self.open_loops(loops, index)
        for item in items:
            value = self.emit(*item)
            if value is not None:
                (self.row_values if item in row else self.values)[item] = value
        for item in items:
            self.store_result(item, plan.natural[item] == number)
        self.close_rows(inner)

    def store_result(self, item: Item, first: bool) -> None:
        node, index = item
        if not first or isinstance(node.op.lowering, declare.Partial):
            return
        if item in self.scratch:
            buffer = self.scratch[item]
            store = ir.Store(buffer.name, index[len(index) - len(self.row_vars) :], self.value(*item), nodes=(node,))
            self.scope_of(index).body.append(store)
        if node in self.group.stored and index == own_index(self.group.variables, node):
            if self.is_row_reduction(*item):
                return  # after the loops of its pass
            self.store_root(node, index)

    def store_root(self, node: Node, index: IndexTuple) -> None:
        loops = loops_of(node)
        scope = self.scope_of(index) if len(loops) >= len(self.main) else self.main[len(loops)]
        buffer = self.params.use(node, "out")
        scope.body.append(ir.Store(buffer.name, index, self.value(node, index), nodes=(node,)))

    def close_rows(self, inner: Scope) -> None:
        """Put the loops of a pass into the loop around them, its accumulators before and their results after."""
        outer = self.main[-1]
        for (node, _), accumulator, combiner in self.ends:
            outer.body.append(ir.Accumulator(accumulator, combiner, node.dtype, (node,)))
        while inner is not outer:
            assert inner.var is not None and inner.parent is not None
            if inner.body:
                inner.parent.body.append(ir.For(inner.var, "serial", tuple(inner.body)))
            inner = inner.parent
        for item, accumulator, _ in self.ends:
            node = item[0]
            outer.body.append(ir.ReadAccumulator(name := self.fresh(), accumulator, node.dtype, (node,)))
            self.values[item] = name
            if node in self.group.stored:
                self.store_root(*item)

    def whole(self) -> tuple[ir.Stmt, ...]:
        """The main loops closed, and the outermost one cut into blocks if there are partial results."""
        chain = list(dict.fromkeys(self.main))
        for outer, inner in zip(reversed(chain[:-1]), reversed(chain[1:]), strict=True):
            assert inner.var is not None
            if outer is self.top and self.partials:
                outer.body.extend(in_blocks(inner.var, tuple(inner.body), self.partials, self.params, self.fresh))
            elif inner.body:
                outer.body.append(ir.For(inner.var, "serial", tuple(inner.body)))
        return tuple(self.top.body)

    # --- partial results -------------------------------------------------------------------------------------------

    def partial(self, node: Node, index: IndexTuple) -> None:
        """Accumulate an element into its block's partial result."""
        value = self.operands(node, index)[0]
        kept = index[len(node.attrs["axes"]) :]
        body = self.scope_of(index).body
        if kept:
            buffer = self.params.use(node, "out")
            body.append(ir.Store(buffer.name, (Index.of(block_var(node)), *kept), value, "add", nodes=(node,)))
            self.partials.append((node, ""))
        else:
            accumulator = self.fresh("a")
            body.append(ir.Accumulate(accumulator, value, (node,)))
            self.partials.append((node, accumulator))

    # --- scopes ----------------------------------------------------------------------------------------------------

    def open_loops(self, loops: tuple[Var, ...], index: IndexTuple) -> None:
        """Scopes of a reduction's loops, inside the scope of the index at which its result is needed."""
        outer = self.scope_of(index)
        for var in loops:
            outer = self.scopes[var] = Scope(var, outer, outer.depth + 1)
        self.reduced[loops] = outer

    def scope_of(self, index: IndexTuple) -> Scope:
        """The outermost scope in which every variable and run-time value of the index is known."""
        best = self.top
        for i in index:
            for var in i.variables:
                best = max(best, self.scopes[var], key=lambda s: s.depth)
            for name in i.values:
                best = max(best, self.value_scope.get(name, self.top), key=lambda s: s.depth)
        return best

    # --- statements ------------------------------------------------------------------------------------------------

    def fresh(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count - 1}"

    def operands(self, node: Node, index: IndexTuple) -> tuple[ir.Operand, ...]:
        return tuple(self.value(a.operand, a.index) for a in accesses(node, index, self.mint))

    def value(self, node: Node, index: IndexTuple) -> ir.Operand:
        """The operand of a value; stored values are loaded at first use, so that none waits in a register for long."""
        item = (node, index)
        found = self.row_values.get(item, self.values.get(item))
        if found is None:
            found = self.load(node, index)
            (self.row_values if self.is_of_row(index) or self.in_row(index) else self.values)[item] = found
        return found

    def in_row(self, index: IndexTuple) -> bool:
        """Whether a run-time index is known inside the row only."""
        return bool(self.row_vars) and self.scope_of(index).depth > self.main[-1].depth

    def emit(self, node: Node, index: IndexTuple) -> ir.Operand | None:
        """Emit the statements of one value and return the operand that names it (None: it has no name yet)."""
        body = self.scope_of(index).body
        match node.op.lowering:
            case declare.Elementwise(primitive):
                args = self.operands(node, index)
                body.append(ir.Let(name := self.fresh(), primitive, args, node.dtype, (node,)))
                return name
            case declare.CastTo():
                args = self.operands(node, index)
                body.append(ir.Let(name := self.fresh(), "cast", args, node.dtype, (node,)))
                return name
            case declare.Movement():
                return self.operands(node, index)[0]
            case declare.Literal(value_of):
                return ir.Lit(node.dtype.numpy.type(value_of(node)).item(), node.dtype)
            case declare.Iota():
                return self.iota(node, index, body)
            case declare.Reduction(combiner):
                return self.reduction(node, index, combiner)
            case declare.Partial():
                self.partial(node, index)
                return None
            case declare.Contraction():
                return self.contraction(node, index)
            case declare.Gather():
                return self.gather(node, index)
            case declare.Guarded(extent):
                value, wide = self.operands(node, index)[0], self.fresh("c")
                self.guard(node, value, node.inputs[0], extent(node), self.scope_of(index), wide)
                body.append(ir.Let(name := self.fresh(), "cast", (wide,), node.dtype, (node,)))
                return name
        raise CompileError(f"{node.op.name} cannot be lowered", source=node.source, token=node.op.name)

    def load(self, node: Node, index: IndexTuple) -> ir.Operand:
        if node.op.name == "constant" and node.ndim == 0:
            return ir.Lit(node.attrs["value"].item(), node.dtype)
        if 0 in node.type.static_shape:  # there is no element: the loops around are empty
            return ir.Lit(node.dtype.numpy.type(0).item(), node.dtype)
        name, body = self.fresh(), self.scope_of(index).body
        if (node, index) in self.scratch:
            buffer = self.scratch[node, index]
            body.append(ir.Load(name, buffer.name, index[len(index) - len(self.row_vars) :], node.dtype, nodes=(node,)))
            return name
        buffer = self.params.use(node, "in")
        body.append(ir.Load(name, buffer.name, index, node.dtype, nodes=(node,)))
        return name

    def gather(self, node: Node, index: IndexTuple) -> ir.Operand:
        """Guard the run-time index, then load the table's element there (the table is always in memory)."""
        table, position = accesses(node, index, self.mint)
        value = self.mint.gathered[node, index]
        scope = self.scope_of(position.index)
        self.value_scope[value.name] = scope
        self.guard(node, self.value(position.operand, position.index), node.inputs[1], value.extent, scope, value.name)
        return self.value(table.operand, table.index)

    def iota(self, node: Node, index: IndexTuple, body: list[ir.Stmt]) -> ir.Operand:
        position = index[node.attrs["axis"]]
        body.append(ir.IndexValue(wide := self.fresh(), position, int64, (node,)))
        if node.dtype == int64:
            return wide
        body.append(ir.Let(name := self.fresh(), "cast", (wide,), node.dtype, (node,)))
        return name

    def guard(self, node: Node, value: ir.Operand, operand: Node, extent: int, scope: Scope, name: str) -> None:
        """Check that an integer value is an index; name the checked i64 value."""
        site = len(self.sites)
        self.sites.append(Site(node, extent))
        scope.body.append(ir.Guard(name, value, operand.dtype, extent, site, int64, (node,)))

    def reduction(self, node: Node, index: IndexTuple, combiner: str) -> ir.Operand | None:
        value = self.operands(node, index)[0]
        if self.is_row_reduction(node, index):
            accumulator = self.fresh("a")
            self.scopes[self.row_vars[-1]].body.append(ir.Accumulate(accumulator, value, (node,)))
            self.ends.append(((node, index), accumulator, combiner))
            return None
        return self.fold(node, index, self.mint.reductions[node, index], combiner, value)

    def contraction(self, node: Node, index: IndexTuple) -> ir.Operand:
        loops = self.mint.reductions[node, index]
        a, b = self.operands(node, index)
        inner = self.reduced[loops] if loops else self.scope_of(index)
        inner.body.append(ir.Let(product := self.fresh(), "mul", (a, b), node.dtype, (node,)))
        return self.fold(node, index, loops, "add", product) if loops else product

    def fold(
        self, node: Node, index: IndexTuple, loops: tuple[Var, ...], combiner: str, value: ir.Operand
    ) -> ir.Operand:
        """Close a reduction's loops: declare the accumulator before them, read it after them."""
        outer = self.scope_of(index)
        accumulator, name = self.fresh("a"), self.fresh()
        outer.body.append(ir.Accumulator(accumulator, combiner, node.dtype, (node,)))
        accumulate: ir.Stmt = ir.Accumulate(accumulator, value, (node,))
        if loops:
            scope: Scope | None = self.reduced[loops]
            assert scope is not None
            scope.body.append(accumulate)
            for var in reversed(loops):
                assert scope is not None and scope.parent is not None
                scope.parent.body.append(ir.For(var, "serial", tuple(scope.body)))
                scope = scope.parent
        else:
            outer.body.append(accumulate)
        outer.body.append(ir.ReadAccumulator(name, accumulator, node.dtype, (node,)))
        return name


def _run_time(index: IndexTuple) -> frozenset[str]:
    """Run-time values that an index already reads (a gather's own table is loaded by the gather itself)."""
    return frozenset().union(*(i.values for i in index))
