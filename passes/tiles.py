"""Register tiles for contractions: how many rows and vectors, and the order of the loops over tiles.

What enters: a nest whose inner loops reuse loads along band variables. What leaves: the plan's cuts, kinds and order. ::

    outer product   rows unrolled, columns in lanes: each vector loaded serves every row, each broadcast every vector
    dot products    the contracted loop in lanes (both operands contiguous in it), two band variables unrolled

Source of the tile sizes: measured on AVX-512 and AVX2 (see :func:`register_tile`).
"""

from __future__ import annotations

from graphc.loops.dependence import inner_statements
from graphc.loops.index import Var
from graphc.loops.ir import For, Let, Load
from graphc.loops.schedule import accumulators_in
from passes.bands import HEAVY, Nest, Plan, blocks, count_blocks, even_blocks
from passes.strides import Strides

INTERLEAVE = 4
"""Vectors in flight in a loop without transcendental functions; two with them (their polynomials need registers)."""
COLUMNS = 8
"""Vectors of a column reduction: fewer read cache lines twice (25% slower with 4); more were no faster."""
PANEL_BYTES = 256 * 1024
"""From this size on a panel of the vector operand is kept in cache while the rows pass by."""
DOT_ROWS = 4
"""Dot products with one vector that run side by side."""
TILED_GAIN = 8
"""How much cheaper a unit of work is in a register tile."""


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
            loaded = 0 if height == accumulators == 1 else vectors  # what serves one row is an operand in memory
            if height * vectors * accumulators > most or height * accumulators * vectors + loaded >= registers:
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


class Tiler:
    """Plans the tiles of one kernel's contractions; says why in ``notes``."""

    def __init__(self, strides: Strides, notes: list[str]) -> None:
        self.strides = strides
        self.machine = strides.machine
        self.notes = notes

    def across(self, nest: Nest, plan: Plan, lane: Var) -> int:
        """Lanes along a band variable, through the loops of the leaf; a register tile where loads are reused."""
        lanes = self.strides.lanes(nest.everything)
        partner = self.partner(nest, lane)
        accumulators = max(1, accumulators_in(nest.leaf))
        if partner is None:
            heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in inner_statements(nest.leaf))
            vectors = max(1, (2 if heavy else COLUMNS) // accumulators)
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
        if count_blocks(plan, first) < enough <= count_blocks(plan, second) and not outer:
            first, second = second, first
        if first is columns:
            self.notes.append(f"{columns} outermost: {panel // 1024} KiB, a panel of it stays in cache")
        plan.order = [*outer, first, second]

    def partner(self, nest: Nest, lane: Var) -> Var | None:
        """Another band variable along which loads of the inner loops are reused, as some are along ``lane``."""
        inner = tuple(s for s in nest.leaf if isinstance(s, For))
        reads = [flat for stmt, flat in self.strides.accesses(inner) if isinstance(stmt, Load)]
        if not any(lane not in flat.variables for flat in reads):
            return None
        for loop in reversed(nest.band):
            fixed = [flat for flat in reads if loop.var not in flat.variables]
            if loop.var != lane and fixed and len(fixed) < len(reads):
                return loop.var
        return None

    def dot_tile(self, nest: Nest, plan: Plan, inner: list[For]) -> int:
        """Unroll two band variables around a dot product, so that each vector loaded is used several times."""
        reads = [flat for stmt, flat in self.strides.accesses(tuple(inner)) if isinstance(stmt, Load)]
        reused = [
            loop.var
            for loop in reversed(nest.band)
            if 0 < sum(loop.var not in flat.variables for flat in reads) < len(reads)
        ][:2]
        if len(reused) < 2:
            return self.dot_rows(plan, reused)
        sizes = (4, 3) if self.machine.registers < 32 else (4, 4)
        for var, size in zip(reused, sizes, strict=True):
            plan.cut[var], plan.kinds[var] = even_blocks(var.extent, size), "unrolled"
        self.notes.append(f"dot products in tiles of {reused[1]} x {reused[0]}, both unrolled")
        return TILED_GAIN

    def dot_rows(self, plan: Plan, reused: list[Var]) -> int:
        """Several dot products with one vector at a time: as many streams for the memory to prefetch."""
        if not reused or reused[0].extent < DOT_ROWS:
            return 1
        plan.cut[reused[0]], plan.kinds[reused[0]] = even_blocks(reused[0].extent, DOT_ROWS), "unrolled"
        self.notes.append(f"dot products of {DOT_ROWS} {reused[0]} at once, unrolled")
        return DOT_ROWS
