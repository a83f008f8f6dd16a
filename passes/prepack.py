"""Prepack: what a kernel copies out of a constant is copied once, when the program is compiled.

What enters: a scheduled :class:`LoopProgram`. What leaves: the same, where the panels that a product packs from constant weights (a
frozen program's) are constants themselves, laid out as they are read. Invariant: the same values are combined in the same order; only
where they lie changes, so results are equal to the last bit. ::

    for jo parallel {                                            for jo parallel {
      alloc local p                                                for io { for k { load w_packed[jo, k, jj] } }
      for k { for jj vector { p[k, jj] = w[k, 16*jo+jj] } }  ->  }
      for io { for k { load p[k, jj] } }                         constant w_packed: f32[32,784,16]
    }

Two ways: a local buffer that is filled from constants alone is hoisted out of all loops around it; an operand that is read in place
(a product with one row) is laid out in the order of its loops, lanes innermost, so that each thread streams through memory. The new
constants are made by running their loops on the loop IR's own interpreter. A constant keeps its old form where another launch reads it so.

Source: Goto, van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), section 4, with the packing done ahead of time,
as oneDNN's weights in a blocked format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import prod

import numpy as np

from graphc.loops.dependence import inner_statements
from graphc.loops.index import Index, Var, row_major
from graphc.loops.interpreter import run_kernel
from graphc.loops.ir import (
    Accumulate,
    Alloc,
    Buffer,
    BufferSlot,
    For,
    If,
    Kernel,
    Launch,
    Load,
    LoopProgram,
    Stmt,
    Store,
)
from graphc.loops.schedule import indices_of
from graphc.types import TensorType
from graphc.variables import aligned_empty
from passes.nests import nested

SMALLEST = 1 << 14  # bytes of a constant from which on its place matters
GROWTH = 1.5  # bytes of all panels of an operand over its own, at most


@dataclass(frozen=True)
class Panel:
    """A constant to be made: ``recipe`` writes its parameter ``name`` from the parameters of the kernel that it reads."""

    name: str
    recipe: Kernel

    @property
    def type(self) -> TensorType:
        return next(p.type for p in self.recipe.params if p.name == self.name)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.recipe.params if p.name != self.name)


def large_constants(program: LoopProgram) -> set[str]:
    """Names of the constants whose place matters."""
    return {slot.name for slot in program.role("constant") if slot.type.nbytes >= SMALLEST}


def given_constants(kernel: Kernel, launch: Launch, large: set[str]) -> frozenset[str]:
    """The parameters that a launch gives one of the ``large`` constants, from its beginning."""
    given = zip(kernel.params, launch.placed(), strict=True)
    return frozenset(p.name for p, (buffer, offset) in given if buffer in large and not offset)


def always_constant(program: LoopProgram) -> dict[str, frozenset[str]]:
    """By kernel, the parameters that every launch gives a constant whose place matters."""
    large = large_constants(program)
    found: dict[str, frozenset[str]] = {}
    for launch in program.launches:
        names = given_constants(program.kernels[launch.kernel], launch, large)
        found[launch.kernel] = found.get(launch.kernel, names) & names
    return found


def prepack(program: LoopProgram) -> LoopProgram:
    """Pack constants ahead of time; the same program if there is nothing to pack."""
    large = large_constants(program)
    if not large:
        return program
    build = _Program(program)
    for launch in program.launches:
        build.add(launch, large)
    return build.finish() if build.made else program


class _Program:
    """The new program while it is made."""

    def __init__(self, program: LoopProgram) -> None:
        self.program = program
        self.kernels: dict[str, Kernel] = {}
        self.launches: list[Launch] = []
        self.made: dict[tuple[object, ...], BufferSlot] = {}
        self._plans: dict[tuple[str, frozenset[str]], tuple[Kernel, tuple[Panel, ...]]] = {}

    def add(self, launch: Launch, large: set[str]) -> None:
        """A launch of the packed form of its kernel, or as it was."""
        kernel = self.program.kernels[launch.kernel]
        placed = dict(zip((p.name for p in kernel.params), launch.placed(), strict=True))
        fixed = given_constants(kernel, launch, large)
        packed, panels = self._plan(kernel, fixed)
        self.kernels[packed.name] = packed
        if not panels:
            self.launches.append(launch)
            return
        for panel in panels:
            placed[panel.name] = (self._constant(panel, {s: placed[s][0] for s in panel.sources}), 0)
        rows = [placed[p.name] for p in packed.params]
        offsets = tuple(offset for _, offset in rows) if launch.offsets else ()
        self.launches.append(
            replace(launch, kernel=packed.name, buffers=tuple(buffer for buffer, _ in rows), offsets=offsets)
        )

    def _plan(self, kernel: Kernel, fixed: frozenset[str]) -> tuple[Kernel, tuple[Panel, ...]]:
        key = (kernel.name, fixed)
        if key not in self._plans:
            packed, panels = pack_kernel(kernel, fixed) if fixed else (kernel, ())
            if panels:
                packed = replace(packed, name=self._free_name(f"{kernel.name}_packed"))
            self._plans[key] = packed, panels
        return self._plans[key]

    def _free_name(self, wanted: str) -> str:
        taken = {k.name for k, _ in self._plans.values()} | self.program.kernels.keys()
        names = (wanted, *(f"{wanted}{n}" for n in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)

    def _constant(self, panel: Panel, sources: dict[str, str]) -> str:
        """The name of the constant that a panel becomes for these sources."""
        key = (panel.recipe.key(), tuple(sources.values()))
        if key not in self.made:
            arrays = {param: np.asarray(self.program.buffers[name].data) for param, name in sources.items()}
            shaped = {p.name: arrays[p.name].reshape(p.shape) for p in panel.recipe.params if p.name in arrays}
            data = aligned_empty(panel.type.static_shape, panel.type.dtype)
            data[...] = run_kernel(panel.recipe, shaped)[panel.name]
            data.setflags(write=False)
            first = self.program.buffers[next(iter(sources.values()))]
            name = f"{first.name}_packed{len(self.made)}"
            self.made[key] = BufferSlot(name, panel.type, "constant", data=data, nodes=first.nodes)
        return self.made[key].name

    def finish(self) -> LoopProgram:
        used = {name for launch in self.launches for name in launch.buffers}
        buffers = {n: s for n, s in self.program.buffers.items() if s.role != "constant" or n in used}
        buffers |= {slot.name: slot for slot in self.made.values()}
        return replace(self.program, buffers=buffers, kernels=self.kernels, launches=tuple(self.launches))


def pack_kernel(kernel: Kernel, fixed: frozenset[str]) -> tuple[Kernel, tuple[Panel, ...]]:
    """A kernel that reads panels instead of the parameters that are ``fixed``, and the panels; none where nothing is gained."""
    fixed_params = {p.name: p for p in kernel.params if p.name in fixed and p.access == "in"}
    taken = {p.name for p in kernel.params}
    hoist = _Hoist(fixed_params, taken)
    body = hoist.block(kernel.body, ())
    order = _InOrder(fixed_params, body, taken)
    body = order.block(body, ())
    panels = (*hoist.panels, *order.panels.values())
    if not panels:
        return kernel, ()
    read = {s.buffer for s in inner_statements(body) if isinstance(s, (Load, Store))}
    kept = tuple(p for p in kernel.params if p.name not in fixed_params or p.name in read)
    return replace(kernel, params=(*kept, *(Buffer(p.name, p.type) for p in panels)), body=body), panels


class _Hoist:
    """Takes local buffers that are filled from constants alone out of a kernel."""

    def __init__(self, params: Mapping[str, Buffer], taken: set[str]) -> None:
        self.params = params
        self.taken = taken  # names of the kernel's parameters, and of the panels made so far
        self.panels: list[Panel] = []

    def block(self, body: Sequence[Stmt], loops: tuple[For, ...]) -> tuple[Stmt, ...]:
        result = list(body)
        for stmt in body:
            if isinstance(stmt, Alloc):
                result = self._without(stmt, result, loops)
        return tuple(self._inside(stmt, loops) for stmt in result)

    def _inside(self, stmt: Stmt, loops: tuple[For, ...]) -> Stmt:
        if isinstance(stmt, For):
            return replace(stmt, body=self.block(stmt.body, (*loops, stmt)))
        return replace(stmt, body=self.block(stmt.body, loops)) if isinstance(stmt, If) else stmt

    def _without(self, alloc: Alloc, body: list[Stmt], loops: tuple[For, ...]) -> list[Stmt]:
        """The block without the buffer and what fills it; the block itself if that needs more than constants."""
        local = alloc.buffer
        fills = [stmt for stmt in body if stores_to(stmt, local.name)]
        if not fills or not all(self._is_fill(stmt, local.name) for stmt in fills):
            return body
        outer = tuple(loop.var for loop in loops if any(loop.var in i.variables for i in indices_of(fills)))
        type_ = TensorType(local.dtype, (*(v.extent for v in outer), *local.shape))
        read = [p for p in self.params.values() if reads(fills, p.name)]
        if not read or type_.nbytes > GROWTH * sum(p.type.nbytes for p in read):
            return body
        name = new_name("packed", self.taken)
        before = tuple(map(Index.of, outer))
        recipe = nested(outer, moved(fills, local.name, name, before))
        params = (*(replace(p, space="global") for p in read), Buffer(name, type_, "out"))
        self.panels.append(Panel(name, Kernel("pack", params, recipe)))
        dropped = {id(alloc), *map(id, fills)}
        return list(moved([s for s in body if id(s) not in dropped], local.name, name, before))

    def _is_fill(self, stmt: Stmt, local: str) -> bool:
        """Whether a statement does nothing but copy constants into a local buffer."""
        for inner in inner_statements((stmt,)):
            match inner:
                case Load(buffer=buffer):
                    fits = buffer in self.params
                case Store(buffer=buffer, mode=mode):
                    fits = buffer == local and mode == "set"
                case For() | If():
                    fits = True
                case _:
                    fits = False
            if not fits or any(i.values for i in indices_of((inner,))):
                return False
        return True


class _InOrder:
    """Lays out operands that a product reads in place in the order of its loops, lanes innermost."""

    def __init__(self, params: Mapping[str, Buffer], body: Sequence[Stmt], taken: set[str]) -> None:
        self.params = params
        self.taken = taken
        self.panels: dict[tuple[object, ...], Panel] = {}
        sites: dict[str, list[tuple[Load, tuple[For, ...]]]] = {}
        for stmt, loops in Kernel("", (), tuple(body)).statements():
            if isinstance(stmt, Load) and stmt.buffer in params:
                sites.setdefault(stmt.buffer, []).append((stmt, loops))
        self.chosen = {name for name, found in sites.items() if self._pays(params[name], found)}

    def _pays(self, param: Buffer, sites: list[tuple[Load, tuple[For, ...]]]) -> bool:
        """Whether all reads are plain, some of them jump, and the copies take not much more room than the operand."""
        total, jumps = 0, False
        for load, loops in sites:
            flat = row_major(load.index, param.shape)
            order = walk_order(flat, loops)
            if load.bounds or flat.values or not is_summed(load, loops) or not order:
                return False
            total += prod(v.extent for v in order)
            jumps |= flat != row_major(tuple(map(Index.of, order)), tuple(v.extent for v in order))
        return jumps and total <= GROWTH * prod(param.shape)

    def block(self, body: Sequence[Stmt], loops: tuple[For, ...]) -> tuple[Stmt, ...]:
        result: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, For):
                result.append(replace(stmt, body=self.block(stmt.body, (*loops, stmt))))
            elif isinstance(stmt, If):
                result.append(replace(stmt, body=self.block(stmt.body, loops)))
            elif isinstance(stmt, Load) and stmt.buffer in self.chosen:
                result.append(self._redirected(stmt, loops))
            else:
                result.append(stmt)
        return tuple(result)

    def _redirected(self, load: Load, loops: tuple[For, ...]) -> Load:
        order = walk_order(row_major(load.index, self.params[load.buffer].shape), loops)
        key = (load.buffer, load.index, order)
        index = tuple(map(Index.of, order))
        if key not in self.panels:
            name = new_name("ordered", self.taken)
            params = (
                self.params[load.buffer],
                Buffer(name, TensorType(load.dtype, tuple(v.extent for v in order)), "out"),
            )
            copy = (load, Store(name, index, load.name))
            self.panels[key] = Panel(name, Kernel("pack", params, nested(order, copy)))
        return replace(load, buffer=self.panels[key].name, index=index)


def new_name(prefix: str, taken: set[str]) -> str:
    """The prefix with the first number that is free; from now on it is taken.

    >>> new_name("packed", {"b1", "packed0"})
    'packed1'
    """
    name = next(name for n in count() if (name := f"{prefix}{n}") not in taken)
    taken.add(name)
    return name


def walk_order(flat: Index, loops: tuple[For, ...]) -> tuple[Var, ...]:
    """The variables of an address as its loops run: serial before unrolled before lanes, outer before inner."""
    depth = {"unrolled": 1, "vector": 2}
    around = sorted(loops, key=lambda loop: depth.get(loop.kind, 0))
    return tuple(loop.var for loop in around if loop.var in flat.variables)


def is_summed(load: Load, loops: tuple[For, ...]) -> bool:
    """Whether a value is read under the loop of a sum (the operand of a product, not its bias)."""
    return any(isinstance(stmt, Accumulate) for stmt in loops[-1].body) if loops else False


def stores_to(stmt: Stmt, buffer: str) -> bool:
    """Whether a statement, or one within, writes a buffer."""
    return any(isinstance(s, Store) and s.buffer == buffer for s in inner_statements((stmt,)))


def reads(body: Sequence[Stmt], buffer: str) -> bool:
    """Whether a statement of a block reads a buffer."""
    return any(isinstance(s, Load) and s.buffer == buffer for s in inner_statements(body))


def moved(body: Sequence[Stmt], old: str, new: str, before: tuple[Index, ...]) -> tuple[Stmt, ...]:
    """A block whose accesses to a buffer go to another one, under leading indices."""
    result: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, (For, If)):
            result.append(replace(stmt, body=moved(stmt.body, old, new, before)))
        elif isinstance(stmt, (Load, Store)) and stmt.buffer == old:
            result.append(replace(stmt, buffer=new, index=(*before, *stmt.index)))
        else:
            result.append(stmt)
    return tuple(result)
