"""Map a kernel's loops to a CPU: lanes, register tiles, threads.

What enters: a kernel of plain serial nests (``passes/lower.py``). What leaves: the same kernel with vector, unrolled and
parallel loops, and one sentence for each decision. Invariant: the meaning is kept up to reassociated reductions; any
extents, zero included, are handled by peeled loops, so no bounds are left in the inner loops.

A nest is a *band* of independent loops around a *leaf*. What is done to it depends on strides alone::

    a sum of products that reuses its factors (passes/contract.py)           blocked: blocking.py, template.py
    a band variable v has stride 1 in every store, 0 or 1 in every load      lanes run along v
    else the innermost loop in the leaf has stride 1                         lanes run along it (rows; dot products)
    else                                                                     lanes gather along the stores' stride 1

matrix product, 128 x 96 x 784, 16 lanes: ``register tile 8 x 48 (i unrolled, j in lanes)``, the loops are in the docstring of
``passes/template.py``. Source of the tile sizes: measured (see ``passes/tiles.py``).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import NamedTuple

from graphc.loops.dependence import Accesses, independent, inner_statements
from graphc.loops.index import Var
from graphc.loops.ir import For, If, Kernel, Let, ReadAccumulator, Stmt
from graphc.loops.schedule import PURE, Body, collapse_nests, without_unit_loops
from passes.bands import HEAVY, Generator, Nest, Plan, band_of, blocks, cost, innermost, reduction_band
from passes.blocking import describe, plan_blocks
from passes.contract import recognise
from passes.strides import Machine, Strides, values_read
from passes.template import Template
from passes.tiles import DOT_ROWS, INTERLEAVE, TILED_GAIN, Tiler

PARALLEL_WORK = 100_000
"""Work units (about a statement on one element, 0.05 ns) below which threads do not pay: some 5 microseconds."""


class Scheduled(NamedTuple):
    """A scheduled kernel, and why it looks as it does."""

    kernel: Kernel
    notes: tuple[str, ...]


def schedule_cpu(
    kernel: Kernel, *, vector_bits: int = 256, registers: int | None = None, threads: int = 1,
    kept: Set[str] = frozenset(),
) -> Scheduled:  # fmt: skip
    """Choose loop kinds and tiles for one kernel.

    Args:
        vector_bits: width of a vector register (512, 256, 128).
        registers: how many there are; 32 for 512 bits, otherwise 16, unless given.
        threads: parallel loops are only made for two and more.
        kept: parameters that will be copied once for many runs of the kernel.

    Returns:
        The kernel and the decisions, e.g. ``"register tile 8 x 48 (i0 unrolled, i1 in lanes)"``.
    """
    machine = Machine(vector_bits, registers or (32 if vector_bits >= 512 else 16), threads)
    collapsed, notes = collapse_nests(without_unit_loops(kernel))
    policy = _Policy(collapsed, machine, kept)
    body = policy.top(collapsed.body)
    return Scheduled(replace(collapsed, body=body), (*notes, *dict.fromkeys(policy.notes)))


class _Policy:
    """Schedules one kernel; collects the notes."""

    def __init__(self, kernel: Kernel, machine: Machine, kept: Set[str]) -> None:
        self.machine = machine
        self.notes: list[str] = []
        self.strides = Strides(kernel, machine, kept)
        self.tiles = Tiler(self.strides, self.notes)
        self.interleave = INTERLEAVE

    def top(self, body: Body) -> Body:
        """The kernel's own block: a nest each, or a leaf without a band (reductions to a scalar).

        A loop that reads the result of a reduction beside it has no threads: they would each repeat the reduction.
        """
        result: Body = ()
        reduced: set[str] = set()
        for stmt in body:
            reads = any(name in reduced for inner in inner_statements((stmt,)) for name in values_read(inner))
            if isinstance(stmt, ReadAccumulator) or (reads and isinstance(stmt, PURE)):
                reduced.add(stmt.name)
            result += self.statement(stmt, top=not reads)
        return result

    def leaf(self, body: Body) -> Body:
        """A block whose band gets no lanes: its loops are scheduled on their own."""
        return tuple(s for stmt in body for s in self.statement(stmt, top=False))

    def statement(self, stmt: Stmt, *, top: bool) -> Body:
        if isinstance(stmt, If):
            return (replace(stmt, body=self.leaf(stmt.body)),)
        if not isinstance(stmt, For):
            return (stmt,)
        if stmt.var.extent == 0:
            return ()
        if independent(stmt):
            return self.nest(band_of(stmt), top=top)
        if Accesses(stmt.body).accumulates and independent(stmt, reductions=True):
            return self.reduction(stmt)
        return self.serial(stmt, top=top)

    def serial(self, loop: For, *, top: bool) -> Body:
        """A loop that must stay in order; what is inside may still have lanes."""
        self.notes.append(f"{loop.var} stays serial: its iterations depend on one another")
        return (replace(loop, body=self.leaf(loop.body)),)

    def nest(self, nest: Nest, *, top: bool) -> Body:
        inner = any(isinstance(s, For) for s in inner_statements(nest.leaf))
        if any(loop.var.extent == 0 for loop in nest.band):
            return ()
        everything = nest.everything
        product = self.contraction(nest, top) if inner else None
        if product is not None:
            return product
        lane = next((loop.var for loop in reversed(nest.band) if self.strides.along(everything, loop.var)), None)
        plan = Plan(order=[loop.var for loop in nest.band])
        gain = 1
        if not inner:
            self.pointwise(nest, plan, lane)
        elif lane is not None and not self.rows_are_better(nest, lane):
            gain = self.tiles.across(nest, plan, lane)
        else:
            gain = self.within(nest, plan)
        work = cost(everything, plan) // gain
        return Generator(nest, plan, self.parallel_work(top), self.notes).run(work)

    def contraction(self, nest: Nest, top: bool) -> Body | None:
        """The nest as a blocked contraction, if it is one that gains by it."""
        found = recognise(nest, self.strides)
        if found is None:
            return None
        work = cost(nest.everything, Plan(order=[loop.var for loop in nest.band])) // TILED_GAIN
        blocking = plan_blocks(found, self.strides, work, self.parallel_work(top))
        if blocking is None:
            return None
        self.notes += describe(found, blocking, work)

        def finish(body: Body, threads: bool) -> Body:
            return tuple(s for stmt in body for s in self.statement(stmt, top=threads))

        return Template(found, blocking, self.strides, finish).write()

    def parallel_work(self, top: bool) -> float:
        return PARALLEL_WORK if top and self.machine.threads > 1 else float("inf")

    def rows_are_better(self, nest: Nest, lane: Var) -> bool:
        """Whether lanes along ``lane`` would be mostly idle while the loops of the leaf are long and contiguous."""
        if lane.extent * 2 > self.strides.lanes(nest.everything):
            return False
        inner = [s for s in nest.leaf if isinstance(s, For)]
        return all(s.var.extent > 4 * lane.extent and self.strides.along_loads(s.body, innermost(s).var) for s in inner)

    def pointwise(self, nest: Nest, plan: Plan, lane: Var | None) -> None:
        """Lanes along the stores' contiguous variable; rows are blocked where a load runs along another one."""
        body = nest.everything
        if lane is None:
            lane = self.strides.store_lane(nest)
        if lane is None:
            self.notes.append(f"{nest.band[-1].var} has no lanes: no store is contiguous in it")
            return
        lanes = self.strides.lanes(body)
        heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in body)
        loads, _ = self.strides.of(body, lane)
        strided = any(s not in (0, 1) for s in loads)
        vectors = 1 if strided else 2 if heavy else INTERLEAVE
        plan.cut[lane] = blocks(lane.extent, vectors * lanes)
        plan.kinds[lane] = "vector"
        how = "some loads gathered" if strided else "stride 1"
        self.notes.append(f"vectorised {lane} by {min(vectors * lanes, lane.extent)} ({how})")
        if strided:
            self.block_transposed(nest, plan, lane)

    def block_transposed(self, nest: Nest, plan: Plan, lane: Var) -> None:
        """Where a load is contiguous in another variable, run blocks of it so that a cache line is used while it is hot."""
        for loop in nest.band:
            loads, _ = self.strides.of(nest.everything, loop.var)
            if loop.var != lane and 1 in loads:
                plan.cut[loop.var] = blocks(loop.var.extent, 8)
                plan.kinds[loop.var] = "serial"
                self.notes.append(f"blocked {loop.var} by 8 (loads are contiguous in it)")
                return

    def within(self, nest: Nest, plan: Plan) -> int:
        """Lanes along the loops of the leaf: rows, and dot products with a tile of accumulators."""
        inner = [s for s in nest.leaf if isinstance(s, For)]
        contiguous = all(self.strides.along_loads(s.body, self.strides.lane_of(s)) for s in inner)
        lane = self.strides.store_lane(nest)
        short = all(s.var.extent < 2 * self.strides.lanes(nest.everything) for s in inner)
        if lane is not None and (not contiguous or short) and lane.extent >= self.strides.lanes(nest.everything) // 2:
            self.notes.append(f"loads along {lane} are gathered: nothing in the inner loops is contiguous for long")
            return self.tiles.across(nest, plan, lane)
        gain = self.tiles.dot_tile(nest, plan, inner) if len(inner) == 1 and contiguous else 1
        self.interleave = {1: INTERLEAVE, DOT_ROWS: 2}.get(
            gain, 1
        )  # a tile of dot products has enough chains in flight
        nest.leaf = self.leaf(nest.leaf)
        self.interleave = INTERLEAVE
        return gain

    def reduction(self, loop: For) -> Body:
        """A reduction's loops: the contiguous one innermost, in lanes inside a serial loop."""
        nest = reduction_band(loop)
        if any(isinstance(s, For) for s in inner_statements(nest.leaf)):
            return (replace(loop, body=self.leaf(loop.body)),)
        body = nest.everything
        lane = next((one.var for one in reversed(nest.band) if self.strides.along_loads(body, one.var)), None)
        if lane is None:
            self.notes.append(f"{nest.band[-1].var} stays serial: no load is contiguous in it")
            return (loop,)
        lanes = self.strides.lanes(body)
        heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in body)
        plan = Plan(order=[one.var for one in nest.band])
        vectors = min(self.interleave, 2) if heavy else self.interleave
        plan.cut[lane] = blocks(lane.extent, vectors * lanes)
        plan.kinds[lane] = "vector"
        self.notes.append(f"reduction over {lane} in {min(vectors * lanes, lane.extent)} lanes (stride 1)")
        return Generator(nest, plan, float("inf"), self.notes).run(0)
