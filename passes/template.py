"""The contraction template: write a blocked contraction out as loops.

What enters: a :class:`~passes.contract.Contraction` and its :class:`~passes.blocking.Blocking`. What leaves: loops over blocks,
copies of panels into local memory, register tiles. Invariant: the same sums, reassociated in an order that depends on the
blocking alone. A product of 512 x 512 x 1024 on two threads, tile 6 x 16::

    for j_b in 2 parallel { for i_b in 2 {
      alloc sums[256, 256]; sums = 0
      for k_b in 4 {
        alloc strips[16, 257, 16];  for k in 256 { for j_o in 16 { for j_i in 16 vector { strips[j_o, k, j_i] = w[...] } } }
        for j_o in 16 { for i_o in 43 { for i_i in 6 unrolled { for j_i in 16 vector {
          acc %s; for k in 256 { %s add= x[...] * strips[j_o, k, j_i] };  sums[...] += %s } } } } }
      for i in 256 { for j in 256 { y[...] = relu(sums[i, j] + bias[...]) } } } }

Where the depth is one block, there are no sums in memory and the epilogue stands in the tile. Where threads share the depth,
each has its own ``sums``, added up in a fixed order. Columns that do not fill a vector are copied with zeros beside them, so
that no mask is left in the inner loop. Transcendental functions of the sums are a loop of their own over the tile, which goes
through memory: they are printed and compiled once, not for every vector of it. ::

      alloc tile[6, 16];  for i_i in 6 unrolled { for j_i in 16 vector { ...; tile[i_i, j_i] = %s } }
      for i_e in 6 { for j_e in 16 vector { y[...] = gelu(tile[i_e, j_e]) } }
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Literal

from graphc.loops.index import Index, Var
from graphc.loops.ir import Alloc, Bound, Buffer, For, If, Let, Lit, Load, LoopKind, Store
from graphc.loops.schedule import Body, substitute
from graphc.types import TensorType
from passes.bands import HEAVY, Segment, even_blocks
from passes.blocking import PERIOD, Access, Blocking, equal_blocks
from passes.contract import Contraction, Operand
from passes.nests import Sizes, Start, linear, nested, over, unravelled, whole
from passes.strides import Strides

Sums = tuple[Buffer, tuple[Index, ...]]  # partial sums, and which of several
LINE = 64  # bytes of a cache line
APART = 4  # vectors of a tile from which on transcendental functions of its sums are a loop of their own
Finish = Callable[[Body, bool], Body]  # schedules a plain nest; the flag: it may have threads


class Template:
    """Writes one contraction."""

    def __init__(self, c: Contraction, blocking: Blocking, strides: Strides, finish: Finish) -> None:
        self.c = c
        self.plan = blocking
        self.strides = strides
        self.finish = finish
        self.lanes = strides.machine.lanes(c.accumulator.dtype.itemsize)
        self.access = Access(c, strides)
        self.count = 0

    def write(self) -> Body:
        """The whole nest."""
        c, plan = self.c, self.plan
        if plan.pieces > 1:
            return self.pieces()
        row = [(c.row, plan.rows)] if c.row is not None else []
        rest: list[tuple[Var, tuple[Segment, ...]]] = [(v, whole(v)) for v in c.rows[:-1]] + row
        outer: list[tuple[Var, tuple[Segment, ...]]] = [(v, whole(v)) for v in (*c.batch, *c.columns)]
        outer.append((c.lane, plan.columns))
        outer += row if plan.partial else []
        shared = [s for s in rest if s[0] == plan.parallel]
        outer = [
            *[s for s in (*outer, *shared) if s[0] == plan.parallel][:1],
            *[s for s in outer if s[0] != plan.parallel],
        ]
        kinds: dict[Var, LoopKind] = {plan.parallel: "parallel"} if plan.parallel is not None else {}
        if plan.partial:
            return over(outer, {}, {}, kinds, self.summed)
        inner = [s for s in rest if s not in outer]
        return over(outer, {}, {}, kinds, lambda start, sizes: self.strips(start, sizes, inner, None))

    # --- partial sums in memory ------------------------------------------------------------------------------------

    def summed(self, start: Start, sizes: Sizes) -> Body:
        """Sums of a block over all of the depth, then the epilogue."""
        sums = self.alloc("sums", self.sums_shape(sizes))
        body = over(
            list(self.plan.outer), start, sizes, {}, lambda s, z: self.strips(s, z, self.other_rows(), (sums, ()))
        )
        if not self.plan.once:
            body = self.zero(sums, ()) + body
        return (Alloc(sums), *body, *self.epilogue(sums, start, sizes))

    def pieces(self) -> Body:
        """Threads share the depth: sums for each, added up at the end."""
        c, plan = self.c, self.plan
        thread = Var("t", plan.pieces)
        first = plan.parallel
        assert first is not None
        part = first.extent // plan.pieces
        sizes = {v: v.extent for v in (*c.rows[-1:], c.lane)}
        sums = self.alloc("sums", (plan.pieces, *self.sums_shape(sizes)))
        blocks = [(c.lane, plan.columns), *([(c.row, plan.rows)] if c.row is not None else [])]
        place = (Index.of(thread),)

        def piece(start: Start, sizes: Sizes) -> Body:
            moved = {**start, first: start.get(first, Index()) + Index.of(thread) * part}
            return self.strips(moved, sizes, self.other_rows(), (sums, place))

        def depth(start: Start, sizes: Sizes) -> Body:
            return over(list(plan.outer), start, sizes, {}, piece)

        body = self.zero(sums, place) + over(blocks, {}, sizes, {}, depth)
        total = self.epilogue(sums, dict.fromkeys(sizes, Index()), sizes)
        return (Alloc(sums), For(thread, "parallel", body), *total)

    def other_rows(self) -> list[tuple[Var, tuple[Segment, ...]]]:
        return [(v, whole(v)) for v in self.c.rows[:-1]]

    def sums_shape(self, sizes: Sizes) -> tuple[int, ...]:
        row = (sizes[self.c.row],) if self.c.row is not None else ()
        wide = self.padded(sizes[self.c.lane])
        return (*(v.extent for v in self.c.rows[:-1]), *row, self.staggered(wide) if row else wide)

    def padded(self, columns: int) -> int:
        """Columns in whole vectors."""
        return -(-columns // self.lanes) * self.lanes

    def staggered(self, columns: int) -> int:
        """Columns, and a cache line more where without it all rows would fall on the same lines."""
        itemsize = self.c.accumulator.dtype.itemsize
        return columns + (LINE // itemsize if columns * itemsize % PERIOD == 0 else 0)

    def zero(self, sums: Buffer, place: tuple[Index, ...]) -> Body:
        shape = sums.shape[len(place) :]
        flat = Var("z", prod(shape[:-1]))
        column = Var("z_i", shape[-1])
        index = unravelled(Index.of(flat), shape[:-1])
        store = Store(sums.name, (*place, *index, Index.of(column)), Lit(0.0, sums.dtype))
        return (For(flat, "serial", (For(column, "vector", (store,)),)),)

    def sums_index(self, place: tuple[Index, ...], rows: Start, row: Index, column: Index) -> tuple[Index, ...]:
        others = tuple(rows[v] for v in self.c.rows[:-1])
        return (*place, *others, *((row,) if self.c.row is not None else ()), column)

    def epilogue(self, sums: Buffer, start: Start, sizes: Sizes) -> Body:
        """Read the sums of a block, finish and store: a plain nest of its own."""
        c = self.c
        inner = {v: Var(f"{v.name}_e", sizes.get(v, v.extent)) for v in (*c.rows, c.lane)}
        mapping = {**start}
        for v in c.rows[:-1]:
            mapping[v] = Index.of(inner[v])
        for v in (*c.rows[-1:], c.lane):
            mapping[v] = start.get(v, Index()) + inner[v]
        at = {v: Index.of(inner[v]) for v in c.rows}
        row = at[c.row] if c.row is not None else Index()
        body: Body = ()
        names = []
        for piece in range(self.plan.pieces):
            place = (Index.of(piece),) if self.plan.pieces > 1 else ()
            name = c.read.name if self.plan.pieces == 1 else f"{c.read.name}_{piece}"
            index = self.sums_index(place, at, row, Index.of(inner[c.lane]))
            body += (Load(name, sums.name, index, sums.dtype, nodes=c.read.nodes),)
            names.append(name)
        total = names[0]
        for number, name in enumerate(names[1:], 1):
            last = number == len(names) - 1
            result = c.read.name if last else f"{c.read.name}_s{number}"
            body += (Let(result, "add", (total, name), sums.dtype, c.read.nodes),)
            total = result
        body += substitute(c.epilogue, mapping)
        for v in reversed([*c.rows, c.lane]):
            body = (For(inner[v], "serial", body),)
        return self.finish(body, self.plan.pieces > 1)

    # --- panels ----------------------------------------------------------------------------------------------------

    def alloc(self, name: str, shape: tuple[int, ...]) -> Buffer:
        while f"{name}{self.count}" in self.strides.shapes:  # another contraction of the kernel has it
            self.count += 1
        buffer = Buffer(f"{name}{self.count}", TensorType(self.c.accumulator.dtype, shape), "inout", "local")
        self.count += 1
        self.strides.shapes[buffer.name] = shape
        self.strides.dtypes[buffer.name] = buffer.dtype
        return buffer

    def depth(self, sizes: Sizes) -> list[Var]:
        """Loop variables within a block of the contracted loops, outermost first."""
        return [Var(v.name, sizes.get(v, v.extent)) for v in self.plan.inner]

    def strips(
        self, start: Start, sizes: Sizes, rows: list[tuple[Var, tuple[Segment, ...]]],
        sums: Sums | None,
    ) -> Body:  # fmt: skip
        """Copy the block of b if that pays, then pass the rows over it."""
        body: Body = ()
        panel = None
        if self.plan.pack_b:
            panel, copy = self.copy_b(start, sizes)
            body = (Alloc(panel), *copy)
        return body + over(rows, start, sizes, {}, lambda s, z: self.row_blocks(s, z, panel, sums))

    def row_blocks(self, start: Start, sizes: Sizes, panel: Buffer | None, sums: Sums | None) -> Body:
        """Rows of a that stay in the second cache, one block after the other."""
        row = self.c.row
        if row is None or sizes[row] <= self.plan.cached_rows * 3 // 2:
            return self.rows(start, sizes, 0, panel, sums)
        body: Body = ()
        for segment in equal_blocks(sizes[row], self.plan.cached_rows, self.plan.height):
            block = Var(f"{row.name}_c", segment.count)
            first = Index.of(block) * segment.size + segment.start
            made = self.rows({**start, row: start[row] + first}, {**sizes, row: segment.size}, first, panel, sums)
            body += (For(block, "serial", made),) if segment.count > 1 else substitute(made, {block: Index()})
        return body

    def copy_b(self, start: Start, sizes: Sizes) -> tuple[Buffer, Body]:
        c, width = self.c, self.plan.width
        columns = sizes[c.lane]
        depth = self.depth(sizes)
        count = -(-columns // width)
        panel = self.alloc("strips", (count, prod(v.extent for v in depth) + 1, min(width, self.padded(columns))))
        contiguous = self.access.contiguous(c.b, c.lane)
        parts: Body = ()
        for segment in self.column_strips(columns):
            strip, lane = Var(f"{c.lane.name}_o", segment.count), Var(f"{c.lane.name}_i", self.padded(segment.size))
            column = Index.of(strip) * width + segment.start + lane
            mapping = {**start, c.lane: start[c.lane] + column, **self.depth_index(start, depth)}
            code = self.bounded(c.b, mapping, c.lane, segment.size % self.lanes != 0)
            at = (Index.of(strip) + segment.start // width, linear(depth), Index.of(lane))
            copy = (*code, Store(panel.name, at, c.b.value))
            if contiguous:
                parts += (For(strip, "serial", (For(lane, "vector", copy),)),)
            else:
                parts += (For(strip, "serial", nested(depth[:-1], self.turned(copy, depth[-1], lane))),)
        return panel, (nested(depth, parts) if contiguous else parts)

    def turned(self, body: Body, depth: Var, lane: Var) -> Body:
        """Square blocks of a copy that reads along the depth and writes along the lanes."""
        size = self.lanes
        count, rest = divmod(depth.extent, size)
        part, column = Var(f"{lane.name}_o", lane.extent // size), Var(f"{lane.name}_i", size)
        at = {lane: Index.of(part) * size + column}
        result: Body = ()
        if count:
            block, step = Var(f"{depth.name}_o", count), Var(f"{depth.name}_i", size)
            square = substitute(body, {**at, depth: Index.of(block) * size + step})
            loops: Body = (For(step, "unrolled", (For(column, "vector", square),)),)
            result += (For(part, "serial", (For(block, "serial", loops),)),)
        if rest:
            step = Var(f"{depth.name}_t", rest)
            last = substitute(body, {**at, depth: Index.of(step) + count * size})
            result += (For(part, "serial", (For(step, "serial", (For(column, "vector", last),)),)),)
        return result

    def bounded(self, operand: Operand, mapping: Start, var: Var, ragged: bool) -> Body:
        """An operand's statements, with zero for what lies beyond the variable's extent."""
        code = substitute(operand.statements, mapping)
        if not ragged:
            return code
        bound = Bound(mapping[var], var.extent)
        result: Body = ()
        for before, stmt in zip(operand.statements, code, strict=True):
            if isinstance(stmt, Load) and isinstance(before, Load) and any(var in i.variables for i in before.index):
                zero = Lit(False if stmt.dtype.kind == "bool" else 0.0 if stmt.dtype.is_float else 0, stmt.dtype)
                stmt = replace(stmt, bounds=(*stmt.bounds, bound), other=stmt.other or zero)
            result += (stmt,)
        return result

    def depth_index(self, start: Start, depth: list[Var]) -> Start:
        return {v: start.get(v, Index()) + k for v, k in zip(self.plan.inner, depth, strict=True)}

    def column_strips(self, columns: int) -> list[Segment]:
        width = self.plan.width
        count, rest = divmod(columns, width)
        whole = [Segment(0, count, width)] if count else []
        return whole + ([Segment(count * width, 1, rest)] if rest else [])

    def copy_a(self, start: Start, sizes: Sizes) -> tuple[Buffer, Body]:
        """Rows of a, contiguous in the depth."""
        c = self.c
        assert c.row is not None
        depth = self.depth(sizes)
        rows = Var(f"{c.row.name}_p", sizes[c.row])
        extent = prod(v.extent for v in depth)
        panel = self.alloc("rows", (rows.extent, self.staggered(-(-extent // 16) * 16)))
        mapping = {**start, c.row: start[c.row] + rows, **self.depth_index(start, depth)}
        code = substitute(c.a.statements, mapping)
        store = Store(panel.name, (Index.of(rows), linear(depth)), c.a.value)
        return panel, (For(rows, "serial", nested(depth, (*code, store), "vector")),)

    def copy_strip(self, start: Start, sizes: Sizes, segment: Segment) -> tuple[Buffer, Body]:
        """Tiles of rows of a, transposed: contiguous in the row."""
        c = self.c
        assert c.row is not None
        depth = self.depth(sizes)
        high = self.padded(segment.size)
        panel = self.alloc("rows", (segment.count, prod(v.extent for v in depth) + 1, high))
        row = Var(f"{c.row.name}_i", high)
        base = start[c.row] + segment.start
        inside = (c.row.extent - 1 - (base + row).bounds[1]) // segment.size + 1  # tiles that end within the rows
        inside = max(0, min(segment.count, inside))
        parts: Body = ()
        for first, count, ragged in ((0, inside, False), (inside, segment.count - inside, True)):
            tile = Var(f"{c.row.name}_o", count)
            at = Index.of(tile) + first
            mapping = {**start, c.row: base + at * segment.size + row, **self.depth_index(start, depth)}
            code = self.bounded(c.a, mapping, c.row, ragged)
            store = Store(panel.name, (at, linear(depth), Index.of(row)), c.a.value)
            parts += (For(tile, "serial", (For(row, "vector", (*code, store)),)),) if count else ()
        return panel, nested(depth, parts)

    # --- tiles -----------------------------------------------------------------------------------------------------

    def rows(self, start: Start, sizes: Sizes, first: Index | int, panel: Buffer | None, sums: Sums | None) -> Body:
        """All tiles of a block: strips of columns, and under each the tiles of rows."""
        c, plan = self.c, self.plan
        body: Body = ()
        segments = even_blocks(sizes[c.row], plan.height) if c.row is not None else [Segment(0, 1, 1)]
        packed: list[Buffer | None] = [None] * len(segments)
        if plan.pack_a == "rows":
            whole_panel, copy = self.copy_a(start, sizes)
            body += (Alloc(whole_panel), *copy)
            packed = [whole_panel] * len(segments)
        elif plan.pack_a == "strips":
            for number, segment in enumerate(segments):
                packed[number], copy = self.copy_strip(start, sizes, segment)
                body += (Alloc(packed[number]), *copy)  # type: ignore[arg-type]
        for columns in self.column_strips(sizes[c.lane]):
            strip = Var(f"{c.lane.name}_o", columns.count)
            tiles: Body = ()
            for segment, rows in zip(segments, packed, strict=True):
                tile = Var(f"{c.row.name if c.row else 'i'}_o", segment.count)
                made = self.tile(start, sizes, (strip, columns), (tile, segment), first, panel, rows, sums)
                tiles += (For(tile, "serial", made),) if segment.count > 1 else substitute(made, {tile: Index()})
            body += (For(strip, "serial", tiles),) if columns.count > 1 else substitute(tiles, {strip: Index()})
        return body

    def tile(
        self, start: Start, sizes: Sizes, columns: tuple[Var, Segment], rows: tuple[Var, Segment], first: Index | int,
        panel: Buffer | None, packed: Buffer | None, sums: Sums | None,
    ) -> Body:  # fmt: skip
        """One register tile over the block's depth."""
        c = self.c
        (strip, wide), (tile, high) = columns, rows
        filled = panel is not None
        lane = Var(f"{c.lane.name}_i", self.padded(wide.size) if filled else wide.size)
        inner = Var(f"{c.row.name if c.row else 'i'}_i", high.size)
        column = Index.of(strip) * self.plan.width + wide.start + lane
        row = Index.of(tile) * high.size + high.start + (inner if high.size > 1 else 0)
        depth = self.depth(sizes)
        mapping = {**start, c.lane: start[c.lane] + column, **self.depth_index(start, depth)}
        if c.row is not None:
            mapping[c.row] = start[c.row] + row
        a, b = substitute(c.a.statements, mapping), substitute(c.b.statements, mapping)
        if panel is not None:
            at: tuple[Index, ...] = (Index.of(strip) + wide.start // self.plan.width, linear(depth), Index.of(lane))
            b = (Load(c.b.value, panel.name, at, panel.dtype, nodes=c.product.nodes),)
        if packed is not None:
            at = (row, linear(depth))
            if self.plan.pack_a == "strips":
                at = (Index.of(tile), linear(depth), Index.of(inner if high.size > 1 else 0))
            a = (Load(c.a.value, packed.name, at, packed.dtype, nodes=c.product.nodes),)
        if sums is None and self.is_apart(high, wide):
            ragged = filled and wide.size % self.lanes != 0
            return self.finished_apart(self.step(a, b), depth, mapping, (inner, lane), ragged)
        step = self.step(a, b)
        after: Body = (c.read, *substitute(c.epilogue, mapping))
        if sums is not None:
            place = row + first
            if self.plan.pieces > 1:  # sums of all rows and columns
                place, column = mapping[c.row] if c.row is not None else row, mapping[c.lane]
            index = self.sums_index(sums[1], mapping, place, column)
            mode: Literal["set", "add"] = "set" if self.plan.once else "add"
            after = (c.read, Store(sums[0].name, index, c.read.name, mode, nodes=c.read.nodes))
        elif filled and wide.size % self.lanes:
            after = (c.read, If((Bound(mapping[c.lane], c.lane.extent),), after[1:]))
        body: Body = (For(lane, "vector", (c.accumulator, *nested(depth, step), *after)),)
        return (For(inner, "unrolled", body),) if high.size > 1 else body

    def step(self, a: Body, b: Body) -> Body:
        """One multiply-add, the operands before it; what they share is computed once."""
        names = {s.name for s in a if hasattr(s, "name")}
        rest = (s for s in b if getattr(s, "name", None) not in names)
        return (*a, *rest, self.c.product, self.c.accumulate)

    def is_apart(self, rows: Segment, columns: Segment) -> bool:
        """Whether the epilogue has a loop of its own: printed once, not for each vector of the tile side by side."""
        heavy = any(isinstance(s, Let) and s.primitive in HEAVY for s in self.c.epilogue)
        return heavy and rows.size * (self.padded(columns.size) // self.lanes) >= APART

    def finished_apart(
        self, step: Body, depth: list[Var], mapping: Start, loops: tuple[Var, Var], ragged: bool
    ) -> Body:
        """The sums of a tile in memory, then the epilogue over them, vector by vector."""
        c = self.c
        inner, lane = loops
        sums = self.alloc("tile", (inner.extent, lane.extent))
        kept = Store(sums.name, (Index.of(inner), Index.of(lane)), c.read.name, nodes=c.read.nodes)
        made = For(lane, "vector", (c.accumulator, *nested(depth, step), c.read, kept))
        again = {v: Var(f"{v.name}e", v.extent) for v in loops}
        places = {v: Index.of(w) for v, w in again.items()}
        there = {v: i.substitute(places) for v, i in mapping.items()}
        after: Body = substitute(c.epilogue, there)
        if ragged:
            after = (If((Bound(there[c.lane], c.lane.extent),), after),)
        load = Load(c.read.name, sums.name, tuple(places.values()), sums.dtype, nodes=c.read.nodes)
        finish = For(again[lane], "vector", (load, *after))
        return (Alloc(sums), For(inner, "unrolled", (made,)), For(again[inner], "serial", (finish,)))
