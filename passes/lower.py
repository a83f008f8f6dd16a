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

from graphc.ir import Graph, Node
from graphc.loops import ir
from graphc.ops import declare
from graphc.rewrite import Context
from passes.access import identity_index, loop_variables
from passes.fuse import fuse
from passes.groups import Fusion, Group, base_of
from passes.kernels import GroupLowering
from passes.nests import nested
from passes.reuse import shape_of
from passes.rows import SCRATCH
from passes.scopes import Params, Site
from passes.templates import TEMPLATES


def lower(fusion: Fusion, context: Context | None = None, *, scratch: int = SCRATCH) -> ir.LoopProgram:
    """Kernels, buffers and launches of a fused graph; equal kernels are made once.

    ``scratch``: bytes that a kernel may keep of a row between its passes (0 where a row is spread over threads).

    Raises:
        CompileError: a node has no lowering.
    """
    slots = _Buffers(fusion)
    kernels = Kernels(slots, scratch, context)
    launches = [launch for group in fusion.groups for launch in group_launches(group, fusion, slots.names, kernels)]
    for parameter, value in fusion.graph.updates.items():
        if slots.names[value] != slots.names[parameter]:  # its old value was still read: it could not be overwritten
            launches.append(kernels.copy(value, slots.names[value], slots.names[parameter]))
    return ir.LoopProgram(fusion.graph.name, slots.slots, kernels.made, tuple(launches), 0, tuple(kernels.sites))


def group_launches(group: Group, fusion: Fusion, names: Mapping[Node, str], kernels: Kernels) -> list[ir.Launch]:
    """What runs a group: one launch, or for a loop those of all its steps; the loop's results have no group of work."""
    if group.template == "scan":
        return loop_launches(group.roots[0], fusion, names, kernels)
    return [] if group.template == "scan_result" else [kernels.launch(group, fusion, names)]


class Kernels:
    """The kernels of a program, each once, however many groups ask for it; and the guards of all launches."""

    def __init__(self, slots: _Buffers, scratch: int, context: Context | None) -> None:
        self.slots = slots
        self.scratch = scratch
        self.context = context
        self.made: dict[str, ir.Kernel] = {}
        self.sites: list[Site] = []
        self.names: dict[object, str] = {}
        self.known: dict[object, tuple[str, tuple[int, ...], tuple[tuple[int, int], ...], ir.Kernel]] = {}

    def launch(self, group: Group, fusion: Fusion, names: Mapping[Node, str]) -> ir.Launch:
        """The launch of a group on buffers named by ``names``."""
        shape = shape_of(group, fusion, names)
        if shape.key not in self.known:
            kernel, buffers, found = lower_group(group, fusion, names, self.scratch, self.context)
            name = self.add(kernel, _label(group), shape.nodes)
            places = tuple(shape.buffers.index(b) for b in buffers)
            guards = tuple((shape.nodes.index(s.node), s.extent) for s in found)
            self.known[shape.key] = (name, places, guards, replace(kernel, nodes=shape.nodes))
        name, places, guards, lowered = self.known[shape.key]
        buffers = tuple(shape.buffers[p] for p in places)
        launch = ir.Launch(name, buffers, len(self.sites), shape.nodes, lowered=lowered)
        self.sites.extend(Site(shape.nodes[node], extent) for node, extent in guards)
        return launch

    def add(self, kernel: ir.Kernel, label: str, nodes: tuple[Node, ...]) -> str:
        """The name of a kernel, which is kept if it is new."""
        name = self.names.setdefault(kernel.key(), f"k{len(self.made)}_{label}")
        if name not in self.made:
            self.made[name] = replace(kernel, name=name, nodes=nodes)
        return name

    def copy(self, value: Node, source: str, target: str) -> ir.Launch:
        """A launch that copies one buffer to another of the same type."""
        variables = loop_variables(value.type.static_shape)
        index = identity_index(variables, len(variables))
        looped = tuple(v for v in variables if v.extent != 1)
        body = nested(looped, (ir.Load("v0", "b0", index, value.dtype, nodes=(value,)), ir.Store("b1", index, "v0", nodes=(value,))))
        params = (ir.Buffer("b0", value.type, "in"), ir.Buffer("b1", value.type, "out"))
        kernel = ir.Kernel("", params, body, (value,))
        return ir.Launch(self.add(kernel, "copy", (value,)), (source, target), nodes=(value,), lowered=kernel)


def _is_data(node: Node, graph: Graph) -> bool:
    """Whether a node is a constant that lies in memory: an array, or a number that a loop over time begins with."""
    if node.op.name != "constant":
        return False
    return node.ndim > 0 or any(user.op.name == "scan" for user in graph.users[node])


# --- loops ---------------------------------------------------------------------------------------------------------


def loop_launches(node: Node, fusion: Fusion, names: Mapping[Node, str], kernels: Kernels) -> list[ir.Launch]:
    """The launches of all steps of a scan: those of its body, each on its step's part of the sequences and stacks.

    Carried values alternate between two buffers; the first step reads their first values where they are, and the last
    one writes the results. Nothing is copied from step to step.
    """
    body, length, carries = node.attrs["body"], int(node.attrs["length"]), node.attrs["carries"]
    results = {
        n.attrs["index"]: names[n] for n in fusion.graph.users[node] if n.op.name == "scan_result" and n in names
    }  # fmt: skip
    given = [names[base_of(fusion.views, i)] for i in node.inputs]
    steps = _Steps(body, given, carries, node.attrs["sequences"], results, kernels)
    if length == 0:
        outs = list(body.outputs.values())
        return [kernels.copy(outs[k], given[k], target) for k, target in results.items() if k < carries]
    inner = fuse(body, kernels.context)
    local = steps.names(inner)
    launches = [launch for group in inner.groups for launch in group_launches(group, inner, local, kernels)]
    order = reversed(range(length)) if node.attrs["reverse"] else range(length)
    return [steps.place(launch, step, t, length) for step, t in enumerate(order) for launch in launches]


class _Steps:
    """Where the buffers of a loop's body are in each step."""

    def __init__(
        self, body: Graph, given: list[str], carries: int, sequences: int, results: Mapping[int, str], kernels: Kernels
    ) -> None:
        self.body = body
        self.given = given
        self.carries = carries
        self.sequences = sequences
        self.results = results
        self.slots = kernels.slots
        self.prefix = f"loop{len(self.slots.slots)}"
        self.moving: dict[str, tuple[str, int]] = {}  # name in the body -> what it is, and its number
        self.spare: dict[int, tuple[str, str]] = {}

    def names(self, fusion: Fusion) -> dict[Node, str]:
        """A name for each value of the body: of a buffer, or of something that moves from step to step."""
        found: dict[Node, str] = {}
        for k, node in enumerate(self.body.declared_inputs):
            kind = "in" if k < self.carries else "x" if k < self.carries + self.sequences else ""
            found[node] = self.name(kind, k) if kind else self.given[k]
        for k, node in enumerate(self.body.outputs.values()):
            found[node] = self.name("out" if k < self.carries else "y", k)
            if k < self.carries or k not in self.results:
                self.spare[k] = (self.slots.scratch(node), self.slots.scratch(node))
        for node in fusion.graph.nodes:
            if _is_data(node, fusion.graph):
                found[node] = self.slots.constant(node)
        for group in fusion.groups:
            for root in group.stored:
                if root not in found:
                    found[root] = self.slots.scratch(root)
        return found

    def name(self, kind: str, k: int) -> str:
        name = f"{self.prefix}.{kind}{k}"
        self.moving[name] = (kind, k)
        return name

    def place(self, launch: ir.Launch, step: int, t: int, length: int) -> ir.Launch:
        """The launch of one step, ``t`` being the place in the sequences."""
        placed = [self.where(name, step, t, length) for name in launch.buffers]
        inner = launch.offsets or (0,) * len(placed)
        offsets = tuple(a + b for (_, a), b in zip(placed, inner, strict=True))
        return replace(launch, buffers=tuple(name for name, _ in placed), offsets=offsets)

    def where(self, name: str, step: int, t: int, length: int) -> tuple[str, int]:
        """The buffer, and the byte in it, that a name of the body stands for in one step."""
        if name not in self.moving:
            return name, 0
        kind, k = self.moving[name]
        match kind:
            case "in":
                return (self.given[k], 0) if step == 0 else (self.spare[k][(step - 1) % 2], 0)
            case "x":
                return self.given[k], t * self.body.declared_inputs[k].type.nbytes
            case "out":
                last = step == length - 1 and k in self.results
                return (self.results[k], 0) if last else (self.spare[k][step % 2], 0)
        if k not in self.results:
            return self.spare[k][0], 0
        return self.results[k], t * list(self.body.outputs.values())[k].type.nbytes


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
            if _is_data(node, graph):
                self.constant(node)
        for group in fusion.groups:
            for root in group.stored:
                if root not in self.names:
                    self.scratch(root)

    def constant(self, node: Node) -> str:
        """A buffer for a constant's data."""
        if node not in self.names:
            self.add(node, f"const{len(self.slots)}", "constant", data=node.attrs["value"])
        return self.names[node]

    def scratch(self, node: Node) -> str:
        """A buffer of a node's type in the arena."""
        self.add(node, f"t{len(self.slots)}", "arena")
        return f"t{len(self.slots) - 1}"

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
