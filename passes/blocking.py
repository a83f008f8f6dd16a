"""Blocking of a contraction: tile, cache blocks, what is packed, how threads share the work.

What enters: a :class:`~passes.contract.Contraction` and the machine. What leaves: a :class:`Blocking`, or None where another
form is better. Invariant: a pure function of extents, strides and the machine, so equal kernels are blocked alike; for a
given number of threads the order of every sum is fixed.

The scheme is that of Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), and BLIS: a strip of b
(depth x tile columns) stays in the first cache while tiles pass over a block of rows of a that stays in the second. Sizes
are chosen for 32 KiB and 512 KiB, which every current x86 and Arm core has at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from graphc.loops.index import Var, row_major
from graphc.loops.ir import Load
from passes.bands import Segment, blocks, even_blocks
from passes.contract import Contraction, Operand
from passes.strides import Strides
from passes.tiles import register_tile

DEPTH = 160  # contracted iterations of a block: 16 float32 columns of them, and 6 rows of a, stay in the first cache
WHOLE, STRIP = (
    1024,
    64 * 1024,
)  # of a block of one contracted loop, and bytes of its strip, which streams from the second cache
STREAM_COLUMNS = 4096  # of the sums of such a block: 16 KiB
STREAM_DEPTH = 4  # of a block where b is read once (matrix times vector): as many streams as a core can prefetch
FLOW, FLOW_ROWS = 8 * 1024 * 1024, 18  # bytes of a b that no cache keeps, and rows up to which it is not worth a copy
FLOW_DEPTH, FLOW_SUMS = 8, 256 * 1024  # whole rows of b flow past so many bytes of sums; threads share the depth
PERIOD = 4096  # bytes after which addresses fall on the same lines of a first cache
ROWS = 512  # rows of a block whose partial sums wait in memory
CACHED_ROWS, CACHED = 144, 288 * 1024  # rows and bytes of a that stay in the second cache while strips of b pass by
TURNED_ROWS, TURNED_COLUMNS = 256, 512  # of a block where a is copied, too: once for all of these columns
COLUMNS = 256  # columns of a packed block of b
PARTIAL = 1280 * 1024  # bytes of partial sums: half as much again as a block of the sizes above
PANEL = 2 * 1024 * 1024  # bytes of a packed block of b: it lies on a thread's stack
RESULT = 10 * 1024 * 1024  # bytes of a result that is written row by row: tiles would wait for its cache lines
UPDATED = 2  # arrays of the result's size that an epilogue reads from which on it is done row by row, too
FAR = 512  # bytes between rows of b from which on they are worth bringing together
NEAR = 24 * 1024  # bytes that a block of b may span
REUSE = 12  # rows that must read a packed strip for the copy to pay
FEW_STRIPS = 4  # strips of columns from which on copying far rows of a pays


@dataclass(frozen=True)
class Blocking:
    """Sizes of the tile (rows x columns) and of the blocks; each list of segments covers its variable.

    ``parallel`` is the variable whose blocks threads share, or None; a contracted one is cut in ``pieces``, summed at the end.
    """

    height: int
    width: int
    rows: tuple[Segment, ...]
    columns: tuple[Segment, ...]
    outer: tuple[tuple[Var, tuple[Segment, ...]], ...]  # loops over blocks of the contracted variables
    inner: tuple[Var, ...]  # contracted variables within a block, whole unless they are in ``outer``, too
    cached_rows: int
    pack_a: str  # "", "rows" (contiguous in a contracted variable) or "strips" (contiguous in the row)
    pack_b: bool
    parallel: Var | None
    pieces: int = 1

    @property
    def partial(self) -> bool:
        """Whether partial sums go through memory."""
        return bool(self.outer)

    @property
    def once(self) -> bool:
        """Whether each of them is written once: the depth is one block, of one thread."""
        return self.pieces == 1 and all(len(cut) == 1 and cut[0].count == 1 for _, cut in self.outer)


def plan_blocks(c: Contraction, strides: Strides, work: float, threshold: float) -> Blocking | None:
    """Decide the blocking; None where dot products along the contracted loop or a plain loop over lanes do better."""
    lanes = strides.machine.lanes(c.accumulator.dtype.itemsize)
    extent = c.row.extent if c.row is not None else 1
    height, vectors = register_tile(extent, c.lane.extent, lanes, strides.machine.registers)
    width = vectors * lanes
    count = prod(v.extent for v in c.rows)
    access = Access(c, strides)
    gathered = not access.contiguous(c.b, c.lane)
    dot = all(access.contiguous(operand, c.contracted[-1]) for operand in (c.a, c.b))
    narrow = c.lane.extent < lanes // 2 if gathered else c.lane.extent * 4 < lanes
    if narrow or (gathered and dot and count < REUSE):
        return None
    ragged = c.lane.extent % lanes != 0
    strips = -(-c.lane.extent // width)
    itemsize = c.accumulator.dtype.itemsize
    flows = c.b.plain and not gathered and not access.kept(c.b) and _flows(c, itemsize)
    pack_b = gathered or (
        not flows
        and count >= REUSE
        and (ragged or not c.b.plain or (strips > 1 and access.far(c.b, c.contracted, c.depth)))
    )
    pack_a = _pack_a(c, access, strips, flows=flows)
    threads = strides.machine.threads if work >= threshold else 1
    streams = not pack_b and (flows or count < REUSE)
    tall, most = (ROWS, STREAM_COLUMNS) if streams else (TURNED_ROWS, TURNED_COLUMNS) if pack_a else (ROWS, COLUMNS)
    limits = (tall, most * 4 // max(itemsize, 4))
    parallel, pieces, rows, columns = _share(c, height, width, threads, limits, by_rows=bool(pack_a), flows=flows)
    panel = max(s.size for s in columns) * itemsize
    limit = FLOW_DEPTH if flows else max(STREAM_DEPTH, 2 * count) if streams else _depth(c, width * itemsize, panel)
    outer, inner = _depth_blocks(c, limit, parallel if pieces > 1 else None, pieces)
    room = prod(v.extent for v in c.rows[:-1]) * max(s.size for s in rows) * max(s.size for s in columns)
    small = room * itemsize <= PARTIAL
    large = c.lane.extent * count * itemsize >= RESULT or _updates(c)
    deep = strips > 1 and c.depth >= 4 * limit if streams else c.depth > limit
    if pieces == 1 and (parallel in c.rows[:-1] or not small or not (deep or large)):
        outer, inner = (), c.contracted
    elif not outer:
        outer = ((c.contracted[0], (Segment(0, 1, c.contracted[0].extent),)),)
    cached = _cached_rows(min(c.depth, limit) * itemsize, height, lanes if pack_a == "strips" else height)
    return Blocking(height, width, rows, columns, outer, inner, cached, pack_a, pack_b, parallel, pieces)


def _flows(c: Contraction, itemsize: int) -> bool:
    """Whether b, which no cache keeps, is best read in the order it lies, past the sums of all rows and columns."""
    count, n = prod(v.extent for v in c.rows), c.lane.extent
    large = c.depth * n * itemsize >= FLOW and count * n * itemsize <= FLOW_SUMS
    return large and count <= FLOW_ROWS and not c.batch and not c.columns


def _depth(c: Contraction, strip: int, panel: int) -> int:
    """Iterations of a block: one loop may run long, and so visit the sums less often (or never, where one block is all).

    ``strip``, ``panel``: bytes of a strip and of the whole block of b for each of them.
    """
    return DEPTH if len(c.contracted) > 1 else max(2 * DEPTH, min(WHOLE, STRIP // strip, PANEL // panel))


def _cached_rows(row: int, height: int, stored: int) -> int:
    """Rows of ``row`` bytes, whole tiles of them; ``stored`` rows of the copy hold a tile."""
    fitting = CACHED * height // (row * max(stored, height))
    return min(CACHED_ROWS, max(fitting // height, 4) * height)


def _updates(c: Contraction) -> bool:
    """Whether the epilogue reads several arrays of the result's size (an optimizer's): row by row, memory keeps up with it."""
    reads = [s for s in c.epilogue if isinstance(s, Load) and c.row is not None]
    moving = [s for s in reads if all(any(v in i.variables for i in s.index) for v in (c.row, c.lane))]
    return len(moving) >= UPDATED


class Access:
    """How operands lie in memory."""

    def __init__(self, c: Contraction, strides: Strides) -> None:
        self.strides = strides

    def contiguous(self, operand: Operand, var: Var) -> bool:
        """Whether the operand's loads read whole vectors along ``var``."""
        loads, _ = self.strides.of(operand.statements, var)
        return 1 in loads and all(s in (0, 1) for s in loads)

    def far(self, operand: Operand, along: tuple[Var, ...], depth: int) -> bool:
        """Whether the operand's rows are worth bringing together: they lie far apart, or a strip of them fills a cache."""
        step = self.step(operand, along)
        return step >= FAR or step * min(depth, 2 * DEPTH) >= NEAR

    def kept(self, operand: Operand) -> bool:
        """Whether the operand is copied ahead of the call (:mod:`passes.prepack`) or of a loop (:mod:`passes.once`)."""
        return all(load.buffer in self.strides.kept for load in operand.loads)

    def step(self, operand: Operand, along: tuple[Var, ...]) -> int:
        """Bytes between iterations of the innermost contracted variable that moves the operand."""
        for stmt in operand.statements:
            if isinstance(stmt, Load) and stmt.buffer in self.strides.shapes:
                flat = row_major(stmt.index, self.strides.shapes[stmt.buffer])
                moving = [abs(flat.coefficient(v)) for v in reversed(along) if v in flat.variables]
                if moving:
                    return moving[0] * self.strides.dtypes[stmt.buffer].itemsize
        return 0


def _pack_a(c: Contraction, access: Access, strips: int, *, flows: bool) -> str:
    """Whether a is copied: an expression, rows far from one another in many strips, or rows on the same lines of a cache."""
    if c.row is None or strips < 2:
        return ""
    by_row = access.contiguous(c.a, c.row) and not access.contiguous(c.a, c.contracted[-1])
    far = access.far(c.a, c.contracted[-1:], c.depth)
    if not c.a.plain or (far and strips >= FEW_STRIPS):
        return "strips" if by_row else "rows"
    if flows and access.step(c.a, (c.row,)) % PERIOD == 0:
        return "rows"
    return ""


def _share(
    c: Contraction, height: int, width: int, threads: int, limits: tuple[int, int], *, by_rows: bool, flows: bool
) -> tuple[Var | None, int, tuple[Segment, ...], tuple[Segment, ...]]:
    """The loop that threads share, into how many pieces the contracted loops are cut, blocks of rows and of columns.

    ``by_rows``: rows are shared where there are more of them than columns, since each thread copies its own rows of a.
    """
    tall, most = limits
    n, row = c.lane.extent, c.row
    m = row.extent if row is not None else 1
    rows, columns = tuple(equal_blocks(m, tall, height)), tuple(near_blocks(n, most, width))
    if threads == 1:
        return None, 1, rows, columns
    total = n * prod(v.extent for v in c.rows)
    even = [v for v in c.contracted if v.extent % threads == 0]
    deep = flows or (c.depth >= max(512 * threads, 8 * n, 8 * total // n) and total * threads <= PARTIAL // 4)
    if deep and even and not c.batch and not c.columns:
        return even[0], threads, rows, columns
    for var in (*c.batch, *c.columns):
        if var.extent >= threads:
            return var, 1, rows, columns
    by_rows = by_rows and m > n and m >= 2 * height * threads
    if n % (threads * width) == 0 and not by_rows:
        counts = [k for k in range(threads, n // width + 1, threads) if n % (k * width) == 0]
        count = next((k for k in counts if n // k <= most), threads)
        return c.lane, 1, rows, (Segment(0, count, n // count),)
    for var in c.rows[:-1]:
        if var.extent >= 2 * threads:
            return var, 1, rows, columns
    if row is not None and m >= 2 * height * threads:
        count = threads * -(-m // (threads * tall))
        each = m // count
        left = (Segment(each * count, 1, m - each * count),) if m % count else ()
        return row, 1, (Segment(0, count, each), *left), columns
    if n >= 2 * width * threads:
        count = threads * -(-n // (threads * most))
        first = Segment(0, count, n // (count * width) * width)
        done = count * first.size
        rest = (
            [Segment(done + s.start, s.count, s.size) for s in near_blocks(n - done, most, width)] if done < n else []
        )
        return c.lane, 1, rows, (first, *rest)
    return None, 1, rows, columns


def near_blocks(extent: int, limit: int, multiple: int) -> list[Segment]:
    """Equal blocks of at most about ``limit``, whole tiles each but the last."""
    if extent <= limit * 3 // 2:
        return [Segment(0, 1, extent)]
    count = -(-extent // limit)
    size = -(-extent // count)
    return blocks(extent, -(-size // multiple) * multiple)


def equal_blocks(extent: int, limit: int, height: int) -> list[Segment]:
    """As :func:`near_blocks`, but of one size where a few more blocks allow it: each size is code of its own.

    >>> equal_blocks(1024, 144, 6)
    [Segment(start=0, count=8, size=128)]
    """
    fewest = -(-extent // limit)
    count = _dividing(extent, fewest, fewest * 3 // 2) if extent > limit * 3 // 2 else None
    return [Segment(0, count, extent // count)] if count else near_blocks(extent, limit, height)


def _dividing(extent: int, fewest: int, most: int) -> int | None:
    """The least number of blocks of one size."""
    return next((count for count in range(fewest, most + 1) if extent % count == 0), None)


def _depth_blocks(
    c: Contraction, limit: int, shared: Var | None, pieces: int
) -> tuple[tuple[tuple[Var, tuple[Segment, ...]], ...], tuple[Var, ...]]:
    """Cut the contracted loops: the innermost ones stay whole while their product is within ``limit``."""
    outer: list[tuple[Var, tuple[Segment, ...]]] = []
    inner: list[Var] = []
    size = 1
    for var in reversed(c.contracted):
        extent = var.extent // pieces if var == shared else var.extent
        if not outer and size * extent <= limit:
            size *= extent
            inner.append(var)
            if var == shared:
                outer.append((var, (Segment(0, 1, extent),)))
        elif not outer and 2 * size <= limit and (cut := _cut(extent, limit // size)):
            outer.append((var, cut))
            inner.append(var)
            size = limit
        else:
            outer.append((var, (Segment(0, extent, 1),)))
    return tuple(reversed(outer)), tuple(reversed(inner))


def _cut(extent: int, limit: int) -> tuple[Segment, ...]:
    """Blocks of at most ``limit``; of one size, if twice as many blocks allow it."""
    fewest = -(-extent // max(limit, 1))
    count = _dividing(extent, fewest, 2 * fewest)
    return (Segment(0, count, extent // count),) if count else tuple(even_blocks(extent, limit))


def describe(c: Contraction, blocking: Blocking, work: float) -> list[str]:
    """One sentence for each decision."""
    plan = blocking
    columns = min(plan.width, c.lane.extent)
    rows = f"{c.row} unrolled, " if c.row is not None and plan.height > 1 else ""
    notes = [f"register tile {plan.height} x {columns} ({rows}{c.lane} in lanes)"]
    if plan.pack_b:
        notes.append(f"{c.b.value} copied in strips of {columns} columns")
    if plan.pack_a:
        notes.append(f"{c.a.value} copied in {plan.pack_a}")
    if plan.partial and plan.pieces == 1:
        depth = prod(s[0].size for v, s in plan.outer) * prod(v.extent for v in plan.inner if v not in dict(plan.outer))
        notes.append(f"sums over {depth} of {c.depth} iterations at a time wait in memory")
    if plan.pieces > 1:
        notes.append(f"{plan.parallel} shared by {plan.pieces} threads (about {int(work)} units of work)")
    elif plan.parallel is not None:
        cut = plan.columns if plan.parallel == c.lane else plan.rows if plan.parallel == c.row else ()
        count = cut[0].count if cut else plan.parallel.extent
        notes.append(f"parallel over {plan.parallel} in {count} blocks (about {int(work)} units of work)")
    return notes
