"""Lower fused groups to kernels of the loop IR.

What enters: a :class:`passes.fuse.Fusion`. What leaves: a :class:`LoopProgram` whose kernels are plain serial nests (a
target's schedule maps the loops), with buffers not yet placed in the arena (``passes/memory.py`` does that). Invariant: a value
is computed in the outermost loop in which its index is known, once for each index at which it is needed, and every
statement names the graph nodes it computes.

Method, pull style: from the group's roots the needed indices are propagated down to stored values (users before
operands), then statements are emitted (operands before users). A reduction opens a scope of its own loop variables::

    softmax rows          for i0 in 128 {
                            acc %a0 = maximum;  for k0 in 10 { load; %a0 maximum= }     placed at depth 1
                            acc %a1 = add;      for k1 in 10 { load; exp(x - max); %a1 add= }
                            for i1 in 10 { load; exp(x - max) / sum; store }            placed at depth 2
                          }
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphc.errors import CompileError
from graphc.ir import Node
from graphc.loops import ir
from graphc.loops.index import Var
from graphc.ops import declare
from graphc.rewrite import Context
from graphc.types import TensorType, int64
from passes.access import IndexTuple, Minter, accesses, identity_index, loop_variables
from passes.fuse import Fusion, Group, base_of
from passes.templates import TEMPLATES, nest


@dataclass(frozen=True)
class Site:
    """A guard of the program: the node whose index is checked and the size of the axis."""

    node: Node
    extent: int

    @property
    def source(self) -> object:
        return self.node.source

    def message(self) -> str:
        """What to tell the user when the guard is violated."""
        return f"{self.node.op.name}: an index is out of range for an axis of size {self.extent}"


@dataclass(eq=False)
class Scope:
    """A block under construction: its loop variable (None at the top) and its statements."""

    var: Var | None
    parent: Scope | None
    depth: int
    body: list[ir.Stmt] = field(default_factory=list)


def lower(fusion: Fusion, context: Context | None = None) -> ir.LoopProgram:
    """Kernels, buffers and launches of a fused graph; equal kernels are made once.

    Raises:
        CompileError: a node has no lowering.
    """
    slots = _Buffers(fusion)
    kernels: dict[str, ir.Kernel] = {}
    names: dict[object, str] = {}
    launches: list[ir.Launch] = []
    sites: list[Site] = []
    for group in fusion.groups:
        kernel, buffers, group_sites = lower_group(group, fusion, slots.names)
        name = names.setdefault(kernel.key(), f"k{len(kernels)}_{_label(group)}")
        if name not in kernels:
            kernels[name] = replace(kernel, name=name)
        launches.append(ir.Launch(name, buffers, len(sites)))
        sites.extend(group_sites)
    for kernel, buffers in _late_updates(fusion, slots.names):
        name = names.setdefault(kernel.key(), f"k{len(kernels)}_copy")
        kernels.setdefault(name, replace(kernel, name=name))
        launches.append(ir.Launch(name, buffers))
    return ir.LoopProgram(fusion.graph.name, slots.slots, kernels, tuple(launches), 0, tuple(sites))


def _late_updates(fusion: Fusion, names: Mapping[Node, str]) -> list[tuple[ir.Kernel, tuple[str, ...]]]:
    """Copies of new values into variables that could not be overwritten while their old value was still read."""
    copies: list[tuple[ir.Kernel, tuple[str, ...]]] = []
    for parameter, value in fusion.graph.updates.items():
        if names[value] == names[parameter]:
            continue
        variables = loop_variables(value.type.static_shape)
        index = identity_index(variables, len(variables))
        looped = tuple(v for v in variables if v.extent != 1)
        body = nest(looped, (ir.Load("v0", "b0", index, value.dtype), ir.Store("b1", index, "v0")))
        params = (ir.Buffer("b0", value.type, "in"), ir.Buffer("b1", value.type, "out"))
        copies.append((ir.Kernel("", params, body, (value,)), (names[value], names[parameter])))
    return copies


def _label(group: Group) -> str:
    if group.template:
        return group.template
    contraction = [n.op.name for n in group.members if isinstance(n.op.lowering, declare.Contraction)]
    reductions = [n.op.name for n in group.members if isinstance(n.op.lowering, declare.Reduction)]
    names = [*contraction, *dict.fromkeys(reductions)] or [group.roots[-1].op.name]
    return "_".join(names[:3])


# --- buffers -------------------------------------------------------------------------------------------------------


class _Buffers:
    """One slot for each stored value; a parameter's next value shares the parameter's slot when that is safe."""

    def __init__(self, fusion: Fusion) -> None:
        self.fusion = fusion
        self.slots: dict[str, ir.BufferSlot] = {}
        self.names: dict[Node, str] = {}
        graph = fusion.graph
        for node in graph.inputs:
            self.add(node, node.name, "input")
        for node in graph.parameters:
            self.add(node, node.name, "parameter", variable=node.attrs["variable"])
        in_place = updates_in_place(fusion)
        for parameter, value in graph.updates.items():
            if value in in_place:
                self.names[value] = self.names[parameter]
        for name, node in graph.outputs.items():
            self.add(node, f"out.{name}", "output")
        for node in graph.nodes:
            if node.op.name == "constant" and node.ndim > 0:
                self.add(node, f"const{len(self.slots)}", "constant", data=node.attrs["value"])
        for group in fusion.groups:
            for root in group.stored:
                if root not in self.names:
                    self.add(root, f"t{len(self.slots)}", "arena")

    def add(self, node: Node, name: str, role: str, **fields: object) -> None:
        self.slots[name] = ir.BufferSlot(name, node.type, role, nodes=(node,), **fields)  # type: ignore[arg-type]
        self.names[node] = name


def updates_in_place(fusion: Fusion) -> set[Node]:
    """The new values that may overwrite their parameter: nobody reads the old value later or at another element.

    >>> # w - lr * g is written over w; w.T + 1 is not
    """
    last_read: dict[Node, int] = {}
    for group in fusion.groups:
        for node in group.reads:
            last_read[node] = group.number
    made_in = {root: group for group in fusion.groups for root in group.stored}
    safe = set()
    for parameter, value in fusion.graph.updates.items():
        maker = made_in.get(value)
        if maker is None or maker.template or value.type != parameter.type:
            continue
        if last_read.get(parameter, -1) <= maker.number and maker.reads_at_identity(parameter):
            safe.add(value)
    return safe


# --- one group -----------------------------------------------------------------------------------------------------


def lower_group(
    group: Group, fusion: Fusion, names: Mapping[Node, str]
) -> tuple[ir.Kernel, tuple[str, ...], tuple[Site, ...]]:
    """The kernel of a group, the buffers it is launched on, and its guard sites."""
    if group.template:
        return _lower_template(group, fusion, names)
    return _GroupLowering(group, fusion, names).run()


class _Params:
    """Parameters b0, b1, ... of one kernel, one for each buffer; reading and writing one buffer makes it inout."""

    def __init__(self, names: Mapping[Node, str], views: dict[Node, Node]) -> None:
        self.names = names
        self.views = views
        self.params: dict[tuple[str, TensorType], ir.Buffer] = {}

    def use(self, node: Node, access: str) -> ir.Buffer:
        key = (self.names[base_of(self.views, node)], node.type)
        old = self.params.get(key)
        if old is None:
            made = ir.Buffer(f"b{len(self.params)}", node.type, access)  # type: ignore[arg-type]
        else:
            made = old if old.access == access else replace(old, access="inout")
        self.params[key] = made
        return made

    @property
    def buffers(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.params)


class _GroupLowering:
    def __init__(self, group: Group, fusion: Fusion, names: Mapping[Node, str]) -> None:
        self.group = group
        self.fusion = fusion
        self.params = _Params(names, fusion.views)
        self.mint = Minter()
        self.inside = set(group.members)
        self.order: list[tuple[Node, IndexTuple]] = []
        self.values: dict[tuple[Node, IndexTuple], ir.Operand] = {}
        self.scopes: dict[Var, Scope] = {}
        self.value_scope: dict[str, Scope] = {}
        self.reduced: dict[tuple[Var, ...], Scope] = {}
        self.sites: list[Site] = []
        self.count = 0
        self.top = Scope(None, None, 0)
        self.main = [self.top]
        for var in group.variables:
            if var.extent == 1:
                self.main.append(self.main[-1])
                continue
            scope = Scope(var, self.main[-1], self.main[-1].depth + 1)
            self.scopes[var] = scope
            self.main.append(scope)

    def run(self) -> tuple[ir.Kernel, tuple[str, ...], tuple[Site, ...]]:
        for node, index in self.propagate():
            if self.is_computed(node):
                self.values[node, index] = self.emit(node, index)
        for root in self.group.stored:
            index = identity_index(self.group.variables, root.ndim)
            buffer = self.params.use(root, "out")
            store = ir.Store(buffer.name, index, self.values[root, index], nodes=(root,))
            self.main[root.ndim].body.append(store)
        chain = list(dict.fromkeys(self.main))
        for outer, inner in zip(reversed(chain[:-1]), reversed(chain[1:]), strict=True):
            assert inner.var is not None
            if inner.body:
                outer.body.append(ir.For(inner.var, "serial", tuple(inner.body)))
        params = tuple(self.params.params.values())
        kernel = ir.Kernel("", params, tuple(self.top.body), tuple(self.group.members))
        return kernel, self.params.buffers, tuple(self.sites)

    # --- which (node, index) pairs are needed, operands first ----------------------------------------------------

    def propagate(self) -> list[tuple[Node, IndexTuple]]:
        needs: dict[Node, dict[IndexTuple, None]] = {}
        heap: list[int] = []
        by_uid: dict[int, Node] = {}

        def need(node: Node, index: IndexTuple) -> None:
            if node not in needs:
                needs[node] = {}
                by_uid[node.uid] = node
                heapq.heappush(heap, -node.uid)
            needs[node][index] = None

        for root in self.group.roots:
            need(root, identity_index(self.group.variables, root.ndim))
        order: list[tuple[Node, IndexTuple]] = []
        while heap:
            node = by_uid[-heapq.heappop(heap)]
            for index in needs[node]:
                order.append((node, index))
                if self.is_computed(node):
                    for access in accesses(node, index, self.mint):
                        self.open_loops(access.reduced, index)
                        if not any(i.values - self.known(index) for i in access.index):
                            need(access.operand, access.index)
        return order[::-1]

    def known(self, index: IndexTuple) -> frozenset[str]:
        """Run-time values that an index already reads (a gather's own table is loaded by the gather itself)."""
        return frozenset().union(*(i.values for i in index))

    def is_computed(self, node: Node) -> bool:
        return node in self.inside

    def open_loops(self, loops: tuple[Var, ...], index: IndexTuple) -> None:
        """Scopes of a reduction's loops, inside the scope of the index at which its result is needed."""
        if not loops or loops in self.reduced:
            return
        outer = self.scope_of(index)
        for var in loops:
            inner = Scope(var, outer, outer.depth + 1)
            self.scopes[var] = inner
            outer = inner
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

    # --- statements ----------------------------------------------------------------------------------------------

    def fresh(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count - 1}"

    def operands(self, node: Node, index: IndexTuple) -> tuple[ir.Operand, ...]:
        return tuple(self.value(a.operand, a.index) for a in accesses(node, index, self.mint))

    def value(self, node: Node, index: IndexTuple) -> ir.Operand:
        """The operand of a value; stored values are loaded at first use, so that none waits in a register for long."""
        found = self.values.get((node, index))
        if found is None:
            found = self.values[node, index] = self.load(node, index)
        return found

    def emit(self, node: Node, index: IndexTuple) -> ir.Operand:
        """Emit the statements of one value and return the operand that names it."""
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
                return self.reduction(node, index, combiner, self.operands(node, index)[0])
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
        if 0 in node.type.static_shape:
            return ir.Lit(
                node.dtype.numpy.type(0).item(), node.dtype
            )  # there is no element: the loops around are empty
        buffer = self.params.use(node, "in")
        scope = self.scope_of(index)
        scope.body.append(ir.Load(name := self.fresh(), buffer.name, index, node.dtype, nodes=(node,)))
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

    def reduction(self, node: Node, index: IndexTuple, combiner: str, value: ir.Operand) -> ir.Operand:
        loops = self.mint.reductions[node, index]
        return self.fold(node, index, loops, combiner, value)

    def contraction(self, node: Node, index: IndexTuple) -> ir.Operand:
        loops = self.mint.reductions[node, index]
        a, b = self.operands(node, index)
        if not loops:
            inner = self.scope_of(index)
        else:
            inner = self.reduced[loops]
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


def _lower_template(
    group: Group, fusion: Fusion, names: Mapping[Node, str]
) -> tuple[ir.Kernel, tuple[str, ...], tuple[Site, ...]]:
    (node,) = group.roots
    params = _Params(names, fusion.views)
    sources = [params.use(i, "in") for i in node.inputs]
    target = params.use(node, "out")
    made = TEMPLATES[group.template](node, sources, target)
    sites = tuple(Site(node, extent) for extent in made.extents)
    kernel = ir.Kernel("", tuple(params.params.values()), made.body, (node,))
    return kernel, params.buffers, sites
