"""Once: what every step of a loop copies out of the same array is copied before the loop.

What enters: a lowered :class:`LoopProgram` without a memory plan. What leaves: the same, where a product that many launches make with one
operand (a recurrent net's weights, step by step) reads panels of it that a launch of their own has packed, on all threads. Invariant: the
same values are combined in the same order; nothing writes the operand between the copy and its last reader. ::

    launch k3(h0, u, x0, y0)             launch k3_panel(u, u_packed)
    launch k3(h1, u, x1, y1)      ->     launch k3_packed(h0, x0, y0, u_packed)
    launch k3(h2, u, x2, y2)             launch k3_packed(h1, x1, y1, u_packed) ...

How panels lie is known once a kernel is mapped to vectors and threads, so these kernels are mapped here, before all others.
Constants are left to :mod:`passes.prepack`, which packs them when compiling, by the same rewriting of the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import replace

from graphc.ir import Node
from graphc.loops.dependence import independent
from graphc.loops.ir import BufferSlot, For, Kernel, Launch, LoopProgram, Stmt
from graphc.ops.declare import Contraction
from passes.prepack import SMALLEST, Panel, pack_kernel

STEPS = 4  # launches that read one operand from which on a copy for all of them pays

Key = tuple[str, int, str]  # kernel, position of a parameter, the buffer that it is given


def pack_once(program: LoopProgram, mapped: Callable[[Kernel, Set[str]], Kernel]) -> LoopProgram:
    """Pack operands that many launches read; the same program if there are none.

    Args:
        mapped: schedules a kernel for the target; some of its parameters will be copied once.
    """
    repeated = _repeated(program)
    if not repeated:
        return program
    build = _Program(program, mapped)
    for launch in program.launches:
        build.add(launch, repeated)
    return build.finish()


def is_mapped(kernel: Kernel) -> bool:
    """Whether a kernel's loops are scheduled already."""
    return any(loop.kind != "serial" for _, loops in kernel.statements() for loop in loops)


def _repeated(program: LoopProgram) -> set[Key]:
    """Operands of products that at least so many launches read, unwritten in between."""
    uses: dict[Key, list[int]] = {}
    written: dict[str, list[int]] = {}
    count = Counter(launch.kernel for launch in program.launches)
    for number, launch in enumerate(program.launches):
        params = program.kernels[launch.kernel].params
        product = count[launch.kernel] >= STEPS and any(_is_product(n) for n in launch.nodes)
        for at, (param, (buffer, offset)) in enumerate(zip(params, launch.placed(), strict=True)):
            slot = program.buffers[buffer]
            if param.access != "in":
                written.setdefault(buffer, []).append(number)
            elif product and not offset and slot.role != "constant" and slot.type.nbytes >= SMALLEST:
                uses.setdefault((launch.kernel, at, buffer), []).append(number)
    return {
        key
        for key, numbers in uses.items()
        if len(numbers) >= STEPS and not any(numbers[0] <= n <= numbers[-1] for n in written.get(key[2], ()))
    }


def _is_product(node: object) -> bool:
    return isinstance(node, Node) and isinstance(node.op.lowering, Contraction)


class _Program:
    """The new program while it is made."""

    def __init__(self, program: LoopProgram, mapped: Callable[[Kernel, Set[str]], Kernel]) -> None:
        self.program = program
        self.mapped = mapped
        self.kernels: dict[str, Kernel] = {}
        self.launches: list[Launch] = []
        self.made: dict[tuple[object, ...], BufferSlot] = {}
        self._plans: dict[tuple[str, frozenset[str]], tuple[Kernel, tuple[Panel, ...]]] = {}

    def add(self, launch: Launch, repeated: set[Key]) -> None:
        """A launch of the packed form of its kernel, behind those that pack for it; or as it was."""
        kernel = self.program.kernels[launch.kernel]
        placed = dict(zip((p.name for p in kernel.params), launch.placed(), strict=True))
        fixed = frozenset(
            p.name
            for at, (p, buffer) in enumerate(zip(kernel.params, launch.buffers, strict=True))
            if (launch.kernel, at, buffer) in repeated and not placed[p.name][1]
        )
        packed, panels = self._plan(kernel, fixed)
        for number, panel in enumerate(panels):
            sources = tuple(placed[s][0] for s in panel.sources)
            recipe = spread(panel.recipe) if has_threads(packed) else panel.recipe
            name = f"{kernel.name}_panel{number}"
            placed[panel.name] = (self._panel(name, replace(panel, recipe=recipe), sources, launch), 0)
        self.kernels[packed.name] = packed
        rows = [placed[p.name] for p in packed.params]
        offsets = tuple(offset for _, offset in rows) if launch.offsets else ()
        buffers = tuple(buffer for buffer, _ in rows)
        self.launches.append(replace(launch, kernel=packed.name, buffers=buffers, offsets=offsets))

    def _plan(self, kernel: Kernel, fixed: frozenset[str]) -> tuple[Kernel, tuple[Panel, ...]]:
        """The kernel that reads panels, and the panels; the plain kernel where nothing is gained."""
        key = (kernel.name, fixed)
        if key not in self._plans:
            packed, panels = pack_kernel(self.mapped(kernel, fixed), fixed) if fixed else (kernel, ())
            name = f"{kernel.name}_packed{len(self._plans)}"
            self._plans[key] = (replace(packed, name=name), panels) if panels else (kernel, ())
        return self._plans[key]

    def _panel(self, name: str, panel: Panel, sources: tuple[str, ...], launch: Launch) -> str:
        """The buffer with the panel of these sources; its launch, where it is new."""
        recipe = panel.recipe
        key = (recipe.key(), sources)
        if key not in self.made:
            first = self.program.buffers[sources[0]]
            slot = BufferSlot(f"{first.name}/packed{len(self.made)}", panel.type, "arena", nodes=first.nodes)
            self.made[key] = slot
            kernel = replace(recipe, name=name, nodes=launch.nodes)
            known = next((k.name for k in self.kernels.values() if k.key() == kernel.key()), name)
            self.kernels.setdefault(known, kernel)
            given = dict(zip(panel.sources, sources, strict=True))
            buffers = tuple(given.get(p.name, slot.name) for p in recipe.params)
            self.launches.append(Launch(known, buffers, launch.site_base, launch.nodes))
        return self.made[key].name

    def finish(self) -> LoopProgram:
        if not self.made:
            return self.program
        buffers = {**self.program.buffers, **{slot.name: slot for slot in self.made.values()}}
        return replace(self.program, buffers=buffers, kernels=self.kernels, launches=tuple(self.launches))


def has_threads(kernel: Kernel) -> bool:
    """Whether threads share a loop of a kernel."""
    return any(loop.kind == "parallel" for _, loops in kernel.statements() for loop in loops)


def spread(recipe: Kernel) -> Kernel:
    """A recipe whose outermost loops are shared by threads: each iteration writes a part of its own of the panel."""
    return replace(recipe, body=tuple(_shared(stmt) for stmt in recipe.body))


def _shared(stmt: Stmt) -> Stmt:
    if not isinstance(stmt, For) or stmt.kind != "serial" or stmt.var.extent < 2 or not independent(stmt):
        return stmt
    return replace(stmt, kind="parallel")
