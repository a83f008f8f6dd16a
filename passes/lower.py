"""Lower fused groups to kernels of the loop IR.

What enters: a :class:`passes.groups.Fusion`. What leaves: a :class:`LoopProgram` whose kernels are plain serial nests (a
target's schedule maps the loops), with buffers not yet placed in the arena (``passes/memory.py`` does that). Invariant: a value
is computed in the outermost loop in which its index is known, once for each index at which it is needed, and every
statement names the graph nodes it computes.

The loops of one group are written by ``passes/kernels.py``; this file makes the program around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphc.ir import Node
from graphc.loops import ir
from graphc.ops import declare
from graphc.rewrite import Context
from passes.access import identity_index, loop_variables
from passes.groups import Fusion, Group
from passes.kernels import GroupLowering
from passes.reuse import shape_of
from passes.rows import SCRATCH
from passes.scopes import Params, Site
from passes.templates import TEMPLATES, nest


def lower(fusion: Fusion, context: Context | None = None, *, scratch: int = SCRATCH) -> ir.LoopProgram:
    """Kernels, buffers and launches of a fused graph; equal kernels are made once.

    ``scratch``: bytes that a kernel may keep of a row between its passes (0 where a row is spread over threads).

    Raises:
        CompileError: a node has no lowering.
    """
    slots = _Buffers(fusion)
    kernels: dict[str, ir.Kernel] = {}
    names: dict[object, str] = {}
    launches: list[ir.Launch] = []
    sites: list[Site] = []
    known: dict[object, tuple[str, tuple[int, ...], tuple[tuple[int, int], ...]]] = {}
    for group in fusion.groups:
        shape = shape_of(group, fusion, slots.names)
        if shape.key not in known:
            kernel, buffers, found = lower_group(group, fusion, slots.names, scratch, context)
            name = names.setdefault(kernel.key(), f"k{len(kernels)}_{_label(group)}")
            if name not in kernels:
                kernels[name] = replace(kernel, name=name, nodes=shape.nodes)
            places = tuple(shape.buffers.index(b) for b in buffers)
            known[shape.key] = (name, places, tuple((shape.nodes.index(s.node), s.extent) for s in found))
        name, places, guards = known[shape.key]
        launches.append(ir.Launch(name, tuple(shape.buffers[p] for p in places), len(sites), shape.nodes))
        sites.extend(Site(shape.nodes[node], extent) for node, extent in guards)
    for kernel, buffers in _late_updates(fusion, slots.names):
        name = names.setdefault(kernel.key(), f"k{len(kernels)}_copy")
        kernels.setdefault(name, replace(kernel, name=name))
        launches.append(ir.Launch(name, buffers, nodes=kernel.nodes))
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
    reductions = [n.op.name for n in group.members if isinstance(n.op.lowering, (declare.Reduction, declare.Partial))]
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
    group: Group,
    fusion: Fusion,
    names: Mapping[Node, str],
    scratch: int = SCRATCH,
    context: Context | None = None,
) -> tuple[ir.Kernel, tuple[str, ...], tuple[Site, ...]]:
    """The kernel of a group, the buffers it is launched on, and its guard sites."""
    if group.template:
        return _lower_template(group, fusion, names)
    return GroupLowering(group, fusion, names, scratch, context).run()


def _lower_template(
    group: Group, fusion: Fusion, names: Mapping[Node, str]
) -> tuple[ir.Kernel, tuple[str, ...], tuple[Site, ...]]:
    (node,) = group.roots
    params = Params(names, fusion.views)
    sources = [params.use(i, "in") for i in node.inputs]
    target = params.use(node, "out")
    made = TEMPLATES[group.template](node, sources, target)
    sites = tuple(Site(node, extent) for extent in made.extents)
    kernel = ir.Kernel("", tuple(params.params.values()), made.body, (node,))
    return kernel, params.buffers, sites
