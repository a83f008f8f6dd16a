"""Map a kernel's loops to a CPU: lanes, register tiles, threads.

What enters: a kernel of plain serial nests (``passes/lower.py``). What leaves: the same kernel with vector, unrolled and
parallel loops, and one sentence for each decision. Invariant: the meaning is kept up to reassociated reductions; any
extents, zero included, are handled by peeled loops, so no bounds are left in the inner loops.

A nest is a *band* of independent loops around a *leaf*. What is done to it depends on strides alone::

    a band variable v has stride 1 in every store, 0 or 1 in every load      lanes run along v
      ... and other loads do not move with v, nor some with another one, u   register tile: u unrolled, v vector
    else the innermost loop in the leaf has stride 1                         lanes run along it (rows; dot products)
    else                                                                     lanes gather along the stores' stride 1

matrix product, 128 x 96 x 784, 16 lanes::

    for i0_o in 16 parallel { for i1_o in 2 { for i0_i in 8 unrolled { for i1_i in 48 vector {
      acc %a; for k0 in 784 { %a add= x[8*i0_o+i0_i, k0] * w[k0, 48*i1_o+i1_i] }; store y[...] } } } }

Source of the tile sizes: measured on AVX-512 (see ``register_tile``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from graphc.loops.dependence import Accesses, independent, inner_statements
from graphc.loops.index import Index, Var, row_major
from graphc.loops.ir import (
    Accumulate,
    For,
    Guard,
    If,
    IndexValue,
    Kernel,
    Let,
    Load,
    LoopKind,
    ReadAccumulator,
    Stmt,
    Store,
)
from graphc.loops.schedule import (
    PURE,
    Body,
    accumulators_in,
    collapse_nests,
    substitute,
    without_unit_loops,
)

INTERLEAVE = 4
"""Vectors in flight in a loop without transcendental functions; two with them (their polynomials need registers)."""
PARALLEL_WORK = 100_000
"""Work units (about a statement on one element, 0.05 ns) below which threads do not pay: some 5 microseconds."""
PANEL_BYTES = 256 * 1024
"""From this size on a panel of the vector operand is kept in cache while the rows pass by."""
HEAVY = frozenset(
    [
        "exp",
        "log",
        "log1p",
        "expm1",
        "tanh",
        "sigmoid",
        "erf",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "asin",
        "acos",
        "atan",
        "atan2",
        "pow",
        "floordiv",
        "mod",
    ]
)
TILED_GAIN = 8
"""How much cheaper a unit of work is in a register tile."""


class Scheduled(NamedTuple):
    """A scheduled kernel, and why it looks as it does."""

    kernel: Kernel
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """What the policy must know of a CPU: bits and number of its vector registers, and the threads to use."""

    vector_bits: int
    registers: int
    threads: int

    def lanes(self, itemsize: int) -> int:
        return max(1, self.vector_bits // (8 * itemsize))


def schedule_cpu(
    kernel: Kernel, *, vector_bits: int = 256, registers: int | None = None, threads: int = 1
) -> Scheduled:
    """Choose loop kinds and tiles for one kernel.

    Args:
        vector_bits: width of a vector register (512, 256, 128).
        registers: how many there are; 32 for 512 bits, otherwise 16, unless given.
        threads: parallel loops are only made for two and more.

    Returns:
        The kernel and the decisions, e.g. ``"register tile 8 x 48 (i0 unrolled, i1 in lanes)"``.
    """
    machine = Machine(vector_bits, registers or (32 if vector_bits >= 512 else 16), threads)
    collapsed, notes = collapse_nests(without_unit_loops(kernel))
    policy = _Policy(collapsed, machine)
    body = policy.top(collapsed.body)
    return Scheduled(replace(collapsed, body=body), (*notes, *dict.fromkeys(policy.notes)))


# --- what a nest looks like ----------------------------------------------------------------------------------------


@dataclass
class Nest:
    """A band of independent loops, the pure statements in front of each inner one, and the leaf."""

    band: list[For]
    prefixes: list[Body]  # prefixes[m] stands in band[m], before band[m+1]; the last one is empty
    leaf: Body

    @property
    def everything(self) -> Body:
        return tuple(s for p in self.prefixes for s in p) + self.leaf


def band_of(loop: For) -> Nest:
    """The largest band that a loop opens.

    A loop joins while it is all that follows pure statements in the loop before it, and its iterations are independent.
    """
    nest = Nest([loop], [], loop.body)
    while nest.leaf and isinstance(inner := nest.leaf[-1], For):
        before = nest.leaf[:-1]
        if not all(isinstance(s, PURE) for s in before) or not independent(inner):
            break
        nest.prefixes.append(before)
        nest.band.append(inner)
        nest.leaf = inner.body
    nest.prefixes.append(())
    return nest


@dataclass(frozen=True)
class Segment:
    """``count`` blocks of ``size`` iterations, the first at ``start``."""

    start: int
    count: int
    size: int


def blocks(extent: int, size: int) -> list[Segment]:
    """Whole blocks and one shorter one.

    >>> blocks(10, 4)
    [Segment(start=0, count=2, size=4), Segment(start=8, count=1, size=2)]
    """
    size = max(1, min(size, extent))
    count, rest = divmod(extent, size)
    return [Segment(0, count, size)] + ([Segment(count * size, 1, rest)] if rest else [])


def even_blocks(extent: int, size: int) -> list[Segment]:
    """As few blocks as ``size`` allows, of sizes that differ by one at most.

    >>> even_blocks(17, 6)
    [Segment(start=0, count=2, size=6), Segment(start=12, count=1, size=5)]
    """
    tiles = -(-extent // max(1, size))
    each, larger = divmod(extent, tiles)
    result = [Segment(0, larger, each + 1)] if larger else []
    return [*result, Segment(larger * (each + 1), tiles - larger, each)]


@dataclass
class Plan:
    """How a band's variables are cut, in which order the blocks run, and what runs inside a block."""

    cut: dict[Var, list[Segment]] = field(default_factory=dict)
    kinds: dict[Var, LoopKind] = field(default_factory=dict)
    order: list[Var] = field(default_factory=list)  # of the loops over blocks


def register_tile(rows: int, columns: int, lanes: int, registers: int, accumulators: int = 1) -> tuple[int, int]:
    """Rows and vectors of the register tile that does an outer product of ``rows`` x ``columns`` in the fewest cycles.

    A step of an r x v tile takes max(r*v/2 multiply-adds, (r+v)/2 loads, 4 cycles of latency). The accumulators, v vectors
    and one broadcast must fit the registers; beyond 27 accumulators the compiler spills (measured). Tiles of several
    vectors stay within 8 rows and 4 vectors, where all good measurements lie.

    >>> register_tile(512, 480, 16, 32), register_tile(512, 512, 8, 16), register_tile(1, 1024, 16, 32)
    ((8, 3), (6, 2), (1, 8))
    """
    most = 27 if registers >= 32 else registers - 3
    best, choice = float("inf"), (1, 1)
    for vectors in range(1, 5 if rows >= 4 else 9):
        if vectors > 1 and (vectors - 1) * lanes >= columns:
            break
        for height in range(1, min(rows, 8 if vectors > 1 else 13) + 1):
            if height * vectors * accumulators > most or (height * accumulators + 1) * vectors >= registers:
                continue
            cost = _tile_cost(rows, columns, lanes, height, vectors)
            if cost < best - 1e-9:
                best, choice = cost, (height, vectors)
    return choice


def _tile_cost(rows: int, columns: int, lanes: int, height: int, vectors: int) -> float:
    total = 0.0
    for row in even_blocks(rows, height):
        for column in blocks(columns, vectors * lanes):
            wide = -(-column.size // lanes)
            step = max(row.size * wide / 2, (row.size + wide) / 2, 4.0)
            loads = 0.025 * (row.size + 2 * wide)  # the share of the loads' time that is not hidden
            total += row.count * column.count * (step + loads + 0.05)
    variants = len(even_blocks(rows, height)) + len(blocks(columns, vectors * lanes)) - 2
    return total * (1 + 0.003 * variants)


# --- the policy ----------------------------------------------------------------------------------------------------


class _Policy:
    """Schedules one kernel; collects the notes."""

    def __init__(self, kernel: Kernel, machine: Machine) -> None:
        self.shapes = {p.name: p.shape for p in kernel.params}
        self.dtypes = {p.name: p.dtype for p in kernel.params}
        self.machine = machine
        self.notes: list[str] = []
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

    # --- strides ---------------------------------------------------------------------------------------------------

    def accesses(self, body: Body) -> Iterator[tuple[Load | Store, Index]]:
        for stmt in inner_statements(body):
            if isinstance(stmt, (Load, Store)) and stmt.buffer in self.shapes:
                yield stmt, row_major(stmt.index, self.shapes[stmt.buffer])

    def strides(self, body: Body, var: Var) -> tuple[list[int | None], list[int | None]]:
        """The strides of the loads and of the stores in a variable; None where the address is not affine in it."""
        loads: list[int | None] = []
        stores: list[int | None] = []
        moved = lane_values(body, var)
        for stmt, flat in self.accesses(body):
            regular = flat.is_affine_in(var) and not flat.values & moved
            stride = flat.coefficient(var) if regular else None
            (stores if isinstance(stmt, Store) else loads).append(stride)
        return loads, stores

    def along(self, body: Body, var: Var) -> bool:
        """Whether lanes along ``var`` read and write whole vectors or uniform values."""
        loads, stores = self.strides(body, var)
        return all(s in (0, 1) for s in loads) and all(s == 1 for s in stores) and (1 in loads or bool(stores))

    def lanes(self, body: Body) -> int:
        sizes = [self.dtypes[s.buffer].itemsize for s, _ in self.accesses(body)]
        return self.machine.lanes(max([4, *sizes]))

    # --- a band and its leaf ---------------------------------------------------------------------------------------

    def nest(self, nest: Nest, *, top: bool) -> Body:
        inner = any(isinstance(s, For) for s in inner_statements(nest.leaf))
        if any(loop.var.extent == 0 for loop in nest.band):
            return ()
        everything = nest.everything
        lane = next((loop.var for loop in reversed(nest.band) if self.along(everything, loop.var)), None)
        plan = Plan(order=[loop.var for loop in nest.band])
        gain = 1
        if not inner:
            self.pointwise(nest, plan, lane)
        elif lane is not None and not self.rows_are_better(nest, lane):
            gain = self.across(nest, plan, lane)
        else:
            gain = self.within(nest, plan)
        work = cost(everything, plan) // gain
        return _Generator(nest, plan, self.parallel_work(top), self.notes).run(work)

    def parallel_work(self, top: bool) -> float:
        return PARALLEL_WORK if top and self.machine.threads > 1 else float("inf")

    def rows_are_better(self, nest: Nest, lane: Var) -> bool:
        """Whether lanes along ``lane`` would be mostly idle while the loops of the leaf are long and contiguous."""
        if lane.extent * 2 > self.lanes(nest.everything):
            return False
        inner = [s for s in nest.leaf if isinstance(s, For)]
        return all(s.var.extent > 4 * lane.extent and self.along_loads(s.body, innermost(s).var) for s in inner)

    def along_loads(self, body: Body, var: Var) -> bool:
        loads, stores = self.strides(body, var)
        return all(s in (0, 1) for s in loads) and all(s == 1 for s in stores) and 1 in loads + stores

    def pointwise(self, nest: Nest, plan: Plan, lane: Var | None) -> None:
        """Lanes along the stores' contiguous variable; rows are blocked where a load runs along another one."""
        body = nest.everything
        if lane is None:
            lane = self.store_lane(nest)
        if lane is None:
            self.notes.append(f"{nest.band[-1].var} has no lanes: no store is contiguous in it")
            return
        lanes = self.lanes(body)
        heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in body)
        loads, _ = self.strides(body, lane)
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
            loads, _ = self.strides(nest.everything, loop.var)
            if loop.var != lane and 1 in loads:
                plan.cut[loop.var] = blocks(loop.var.extent, 8)
                plan.kinds[loop.var] = "serial"
                self.notes.append(f"blocked {loop.var} by 8 (loads are contiguous in it)")
                return

    def store_lane(self, nest: Nest) -> Var | None:
        """The innermost variable in which every store is contiguous."""
        for loop in reversed(nest.band):
            _, stores = self.strides(nest.everything, loop.var)
            if stores and all(s == 1 for s in stores):
                return loop.var
        return None

    def across(self, nest: Nest, plan: Plan, lane: Var) -> int:
        """Lanes along a band variable, through the loops of the leaf; a register tile where loads are reused."""
        lanes = self.lanes(nest.everything)
        partner = self.partner(nest, lane)
        accumulators = max(1, accumulators_in(nest.leaf))
        if partner is None:
            heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in inner_statements(nest.leaf))
            vectors = max(1, (2 if heavy else INTERLEAVE) // accumulators)
            plan.cut[lane] = blocks(lane.extent, vectors * lanes)
            plan.kinds[lane] = "vector"
            self.notes.append(
                f"vectorised {lane} by {min(vectors * lanes, lane.extent)} around the inner loops (stride 1)"
            )
            return 1
        height, vectors = register_tile(partner.extent, lane.extent, lanes, self.machine.registers, accumulators)
        plan.cut[partner], plan.kinds[partner] = even_blocks(partner.extent, height), "unrolled"
        plan.cut[lane], plan.kinds[lane] = blocks(lane.extent, vectors * lanes), "vector"
        columns = min(vectors * lanes, lane.extent)
        self.notes.append(f"register tile {height} x {columns} ({partner} unrolled, {lane} in lanes)")
        self.order_tiles(nest, plan, partner, lane)
        return TILED_GAIN

    def order_tiles(self, nest: Nest, plan: Plan, rows: Var, columns: Var) -> None:
        """Keep a panel of the vector operand in cache where all of it is too large; give threads enough blocks."""
        depth = 1
        for stmt in inner_statements(nest.leaf):
            if isinstance(stmt, For):
                depth *= stmt.var.extent
        outer = [v for v in plan.order if v not in (rows, columns)]
        panel = depth * columns.extent * 4
        first, second = (columns, rows) if panel > PANEL_BYTES and len(plan.cut[rows]) > 0 else (rows, columns)
        enough = 4 * self.machine.threads
        if _count(plan, first) < enough <= _count(plan, second) and not outer:
            first, second = second, first
        if first is columns:
            self.notes.append(f"{columns} outermost: {panel // 1024} KiB, a panel of it stays in cache")
        plan.order = [*outer, first, second]

    def partner(self, nest: Nest, lane: Var) -> Var | None:
        """Another band variable along which loads of the inner loops are reused, as some are along ``lane``."""
        inner = tuple(s for s in nest.leaf if isinstance(s, For))
        reads = [flat for stmt, flat in self.accesses(inner) if isinstance(stmt, Load)]
        if not any(lane not in flat.variables for flat in reads):
            return None
        for loop in reversed(nest.band):
            fixed = [flat for flat in reads if loop.var not in flat.variables]
            if loop.var != lane and fixed and len(fixed) < len(reads):
                return loop.var
        return None

    def within(self, nest: Nest, plan: Plan) -> int:
        """Lanes along the loops of the leaf: rows, and dot products with a tile of accumulators."""
        inner = [s for s in nest.leaf if isinstance(s, For)]
        contiguous = all(self.along_loads(s.body, lane_of(self, s)) for s in inner)
        lane = self.store_lane(nest)
        short = all(s.var.extent < 2 * self.lanes(nest.everything) for s in inner)
        if lane is not None and (not contiguous or short) and lane.extent >= self.lanes(nest.everything) // 2:
            self.notes.append(f"loads along {lane} are gathered: nothing in the inner loops is contiguous for long")
            return self.across(nest, plan, lane)
        gain = self.dot_tile(nest, plan, inner) if len(inner) == 1 and contiguous else 1
        self.interleave = 1 if gain > 1 else INTERLEAVE  # a tile of dot products has enough chains in flight
        nest.leaf = self.leaf(nest.leaf)
        self.interleave = INTERLEAVE
        return gain

    def dot_tile(self, nest: Nest, plan: Plan, inner: list[For]) -> int:
        """Unroll two band variables around a dot product, so that each vector loaded is used several times."""
        reads = [flat for stmt, flat in self.accesses(tuple(inner)) if isinstance(stmt, Load)]
        reused = [
            loop.var
            for loop in reversed(nest.band)
            if 0 < sum(loop.var not in flat.variables for flat in reads) < len(reads)
        ][:2]
        if len(reused) < 2:
            return 1
        sizes = (4, 3) if self.machine.registers < 32 else (4, 4)
        for var, size in zip(reused, sizes, strict=True):
            plan.cut[var], plan.kinds[var] = even_blocks(var.extent, size), "unrolled"
        self.notes.append(f"dot products in tiles of {reused[1]} x {reused[0]}, both unrolled")
        return TILED_GAIN

    # --- reductions ------------------------------------------------------------------------------------------------

    def reduction(self, loop: For) -> Body:
        """A reduction's loops: the contiguous one innermost, in lanes inside a serial loop."""
        nest = reduction_band(loop)
        if any(isinstance(s, For) for s in inner_statements(nest.leaf)):
            return (replace(loop, body=self.leaf(loop.body)),)
        body = nest.everything
        lane = next((one.var for one in reversed(nest.band) if self.along_loads(body, one.var)), None)
        if lane is None:
            self.notes.append(f"{nest.band[-1].var} stays serial: no load is contiguous in it")
            return (loop,)
        lanes = self.lanes(body)
        heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in body)
        plan = Plan(order=[one.var for one in nest.band])
        vectors = min(self.interleave, 2) if heavy else self.interleave
        plan.cut[lane] = blocks(lane.extent, vectors * lanes)
        plan.kinds[lane] = "vector"
        self.notes.append(f"reduction over {lane} in {min(vectors * lanes, lane.extent)} lanes (stride 1)")
        return _Generator(nest, plan, float("inf"), self.notes).run(0)


def lane_of(policy: _Policy, loop: For) -> Var:
    """The innermost loop variable below ``loop`` that is contiguous, or the innermost of all."""
    nest = reduction_band(loop)
    good = [one.var for one in reversed(nest.band) if policy.along_loads(nest.everything, one.var)]
    return good[0] if good else nest.band[-1].var


def innermost(loop: For) -> For:
    """The last loop of a chain of loops."""
    while loop.body and isinstance(loop.body[-1], For):
        loop = loop.body[-1]
    return loop


def reduction_band(loop: For) -> Nest:
    """The band of loops that accumulate into accumulators outside of all of them."""
    nest = Nest([loop], [], loop.body)
    while nest.leaf and isinstance(inner := nest.leaf[-1], For):
        before = nest.leaf[:-1]
        if not all(isinstance(s, PURE) for s in before) or not independent(inner, reductions=True):
            break
        nest.prefixes.append(before)
        nest.band.append(inner)
        nest.leaf = inner.body
    nest.prefixes.append(())
    return nest


def values_read(stmt: Stmt) -> list[str]:
    """Names of the values that a statement reads, also as run-time indices (a loop's own body aside)."""
    match stmt:
        case Let(args=args):
            return [a for a in args if isinstance(a, str)]
        case Guard(value=value) | Accumulate(value=value):
            return [value] if isinstance(value, str) else []
        case IndexValue(index=index):
            return [*index.values]
        case Load(index=index) | Store(index=index):
            names = [name for i in (*index, *(b.index for b in stmt.bounds)) for name in i.values]
            return names + ([stmt.value] if isinstance(stmt, Store) and isinstance(stmt.value, str) else [])
        case If(bounds=bounds):
            return [name for b in bounds for name in b.index.values]
    return []


def lane_values(body: Body, var: Var) -> frozenset[str]:
    """Names of the values that may differ between lanes along ``var``."""
    moved: set[str] = set()
    for stmt in inner_statements(body):
        match stmt:
            case Load(name=name, index=index) if any(var in i.variables or i.values & moved for i in index):
                moved.add(name)
            case IndexValue(name=name, index=index) if var in index.variables or index.values & moved:
                moved.add(name)
            case Let(name=name, args=args) if any(a in moved for a in args if isinstance(a, str)):
                moved.add(name)
            case Guard(name=name, value=value) if value in moved:
                moved.add(name)
            case Accumulate(accumulator=name, value=value) if value in moved:
                moved.add(name)
    return frozenset(moved)


def _count(plan: Plan, var: Var) -> int:
    return sum(s.count for s in plan.cut.get(var, [Segment(0, var.extent, 1)]))


def cost(body: Body, plan: Plan) -> int:
    """Work units of one leaf (see ``PARALLEL_WORK``), loops within counted; times the band's extents."""
    each = _cost(body)
    for var in plan.order:
        each *= var.extent
    return each


def _cost(body: Body) -> int:
    total = 0
    for stmt in body:
        match stmt:
            case For(var, _, inner):
                total += var.extent * _cost(inner)
            case If(_, inner):
                total += _cost(inner)
            case Let(primitive=primitive):
                total += 6 if primitive in HEAVY else 1
            case _:
                total += 1
    return total


# --- making the loops ----------------------------------------------------------------------------------------------


class _Generator:
    """Writes a band out as its plan says: loops over blocks, then the loops within a block, prefixes as early as possible."""

    def __init__(self, nest: Nest, plan: Plan, threshold: float, notes: list[str]) -> None:
        self.nest = nest
        self.plan = plan
        self.threshold = threshold
        self.notes = notes

    def run(self, work: float) -> Body:
        return self.level(0, {}, {}, work, 0, serial_above=True)

    def level(
        self,
        depth: int,
        starts: dict[Var, Index],
        sizes: dict[Var, int],
        work: float,
        placed: int,
        *,
        serial_above: bool,
    ) -> Body:
        """The loops over blocks of the variables from ``depth`` on, for one choice of sizes further out.

        ``placed`` prefixes stand further out already.
        """
        if depth == len(self.plan.order):
            return self.block(starts, sizes, placed)
        var = self.plan.order[depth]
        result: Body = ()
        segments = self.plan.cut.get(var) or [Segment(0, var.extent, 1)]
        for number, segment in enumerate(segments):
            share = work * segment.count * segment.size / var.extent
            name = f"{var.name}_o{number or ''}" if var in self.plan.cut else var.name
            outer = Var(name, segment.count)
            single = segment.count == 1 and segment.size > 1  # else a loop of one keeps its names apart
            start = Index.of(segment.start) if single else Index.of(outer) * segment.size + segment.start
            threads = serial_above and segment.count > 1 and share >= self.threshold
            here = {**starts, var: start}
            early = placed == depth and segment.size == 1 and var == self.nest.band[depth].var
            prefix = substitute(self.nest.prefixes[depth], here) if early else ()
            outermost = serial_above and single and not prefix
            body = prefix + self.level(
                depth + 1, here, {**sizes, var: segment.size}, share, placed + early, serial_above=outermost
            )
            if threads:
                self.notes.append(f"parallel over {var} in {segment.count} blocks (about {int(share)} units of work)")
            result += body if single else (For(outer, "parallel" if threads else "serial", body),)
        return result

    def block(self, starts: dict[Var, Index], sizes: dict[Var, int], placed: int) -> Body:
        """One block: the leaf inside the loops over a block's iterations, lanes innermost."""
        lanes = [loop.var for loop in self.nest.band if self.plan.kinds.get(loop.var) == "vector"]
        mapping: dict[Var, Index] = {}
        inside: dict[Var, Var] = {}
        for var, start in starts.items():
            if sizes[var] > 1:
                inside[var] = Var(f"{var.name}_i", sizes[var])
                mapping[var] = start + inside[var]
            else:
                mapping[var] = start
        prefixes = [() if m < placed else substitute(p, mapping) for m, p in enumerate(self.nest.prefixes)]
        body = substitute(self.nest.leaf, mapping)
        if lanes and lanes[0] in inside and lanes[0] != self.nest.band[-1].var:
            # lanes go innermost, and take all prefixes with them
            body = tuple(s for p in prefixes for s in p) + body
            order = [v for v in (loop.var for loop in self.nest.band) if v not in lanes] + lanes
            for var in reversed(order):
                body = self.wrap(var, inside, body)
            return body
        for loop, prefix in zip(reversed(self.nest.band), reversed(prefixes), strict=True):
            body = self.wrap(loop.var, inside, prefix + body)
        return body

    def wrap(self, var: Var, inside: dict[Var, Var], body: Body) -> Body:
        return (For(inside[var], self.plan.kinds.get(var, "serial"), body),) if var in inside else body
