"""The contraction template of the CUDA schedule: square tiles of both operands in shared memory.

What enters: the outer loops and the body of a nest. What leaves: the tiled nest, or None where the body is no contraction
worth tiling. Invariant: what is summed is unchanged; only its order along the contracted axis is by tiles. ::

    for i, j { acc %a = add; for k { %x = f(i, k); %y = g(k, j); %p = mul(%x, %y); %a add= %p }; %s = value %a; ... }

becomes, with T = 16 and the thread (ty, tx) responsible for element (T*by+ty, T*bx+tx),

    for bz, by, bx block { alloc shared x_tile, y_tile
      for ty, tx thread { acc %a = add
        for c in K/T { store x_tile[..] = f(..); store y_tile[..] = g(..); barrier
                       for n in T unrolled { %a add= x_tile[ty, n] * y_tile[n, tx] }; barrier }
        if row < M, column < N { %s = value %a; ... } }}

f and g are whatever was fused into the operands: they are computed once for each element of a tile, instead of once for
each product. Each tile is read along the axis on which its memory is contiguous. (The classic scheme of the CUDA C++
Programming Guide, section "Shared Memory"; one column of padding keeps the 32 banks free of conflicts.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from graphc.loops.index import Index, Var
from graphc.loops.ir import (
    Accumulate,
    Accumulator,
    Alloc,
    Barrier,
    Bound,
    Buffer,
    For,
    Guard,
    If,
    Let,
    Lit,
    Load,
    ReadAccumulator,
    Stmt,
    Store,
)
from graphc.targets.cuda.statements import Pure, flattened, needed, stride, substituted, used_values, variables_of
from graphc.types import DType, TensorType

TILE = 16
SMALLEST = 8  # an axis shorter than this leaves most of a tile idle
GRID_LIMIT = 65535  # of the grid's second and third dimension


@dataclass(frozen=True)
class Contraction:
    """A recognised contraction. ``left`` are the statements of f (free of the column), ``right`` those of g."""

    row: Var
    column: Var
    depth: Var
    batch: tuple[Var, ...]
    accumulator: Accumulator
    left: tuple[Stmt, ...]
    right: tuple[Stmt, ...]
    left_value: str
    right_value: str
    product: Let
    accumulate: Accumulate
    before: tuple[Stmt, ...]
    after: tuple[Stmt, ...]


def tiled_matmul(
    loops: Sequence[Var], prefix: Sequence[Stmt], body: Sequence[Stmt], shapes: Mapping[str, Buffer]
) -> tuple[Stmt, ...] | None:
    """The tiled nest, or None if the nest is no contraction over two large enough loops."""
    found = recognise(loops, prefix, body)
    if found is None:
        return None
    tiles = -(-found.row.extent // TILE), prod(v.extent for v in found.batch)
    if min(found.row.extent, found.column.extent, found.depth.extent) < SMALLEST or max(tiles) > GRID_LIMIT:
        return None
    return _Tiling(found, shapes).nest()


def recognise(loops: Sequence[Var], prefix: Sequence[Stmt], body: Sequence[Stmt]) -> Contraction | None:
    """The parts of ``acc; for k { ... mul ... accumulate }; value; ...``, if that is what the body is."""
    at = next((n for n, s in enumerate(body) if isinstance(s, Accumulator)), len(body))
    before = (*prefix, *body[:at])
    if len(loops) < 2 or len(body) < at + 3 or not all(isinstance(s, Pure) for s in before):
        return None
    accumulator, loop, *after = body[at:]
    if not isinstance(accumulator, Accumulator) or accumulator.combiner != "add" or not accumulator.dtype.is_float:
        return None
    if not isinstance(loop, For) or not all(isinstance(s, (Pure, ReadAccumulator, Store)) for s in after):
        return None
    *inside, accumulate = loop.body
    if not isinstance(accumulate, Accumulate) or not all(isinstance(s, Pure) for s in inside):
        return None
    candidates = (*before, *inside)
    product = next((s for s in inside if isinstance(s, Let) and s.name == accumulate.value), None)
    if product is None or product.primitive != "mul" or not all(isinstance(a, str) for a in product.args):
        return None
    operands = [(str(a), needed([str(a)], candidates)) for a in product.args]
    row, column = loops[-2], loops[-1]
    for (one, left), (other, right) in (operands, operands[::-1]):
        free = column not in _variables(left) and row not in _variables(right)
        if free and row in _variables(left) and column in _variables(right) and not _guarded((*left, *right)):
            return Contraction(
                row, column, loop.var, tuple(loops[:-2]), accumulator, left, right, one, other, product, accumulate,
                before, tuple(after),
            )  # fmt: skip
    return None


def _variables(body: Sequence[Stmt]) -> frozenset[Var]:
    return frozenset().union(*(variables_of(s) for s in body))


def _guarded(body: Sequence[Stmt]) -> bool:
    return any(isinstance(s, Guard) for s in body)


class _Tiling:
    def __init__(self, found: Contraction, shapes: Mapping[str, Buffer]) -> None:
        self.found = found
        self.shapes = shapes
        self.bx = Var("bx", -(-found.column.extent // TILE))
        self.by = Var("by", -(-found.row.extent // TILE))
        self.bz = Var("bz", max(prod(v.extent for v in found.batch), 1))
        self.tx, self.ty = Var("tx", TILE), Var("ty", TILE)
        self.chunk = Var("c", -(-found.depth.extent // TILE))
        self.batch, _ = flattened(Index.of(self.bz), found.batch)

    def nest(self) -> tuple[Stmt, ...]:
        """The whole kernel body."""
        found, dtype = self.found, self.found.accumulator.dtype
        x_tile, y_tile = self.tile("x_tile", dtype), self.tile("y_tile", dtype)
        row_first, column_first = Index.of(self.by) * TILE, Index.of(self.bx) * TILE
        chunk = (
            *self.fill(x_tile, found.left, found.left_value, found.row, row_first, "_x"),
            *self.fill(y_tile, found.right, found.right_value, found.column, column_first, "_y"),
            Barrier(),
            self.multiply(x_tile, y_tile, dtype),
            Barrier(),
        )
        threads = (found.accumulator, For(self.chunk, "serial", chunk), *self.finish(row_first, column_first))
        body: tuple[Stmt, ...] = (For(self.ty, "thread", (For(self.tx, "thread", threads),)),)
        body = (Alloc(x_tile), Alloc(y_tile), *body)
        for var in (self.bx, self.by, self.bz):
            if var is not self.bz or found.batch:
                body = (For(var, "block", body),)
        return body

    def tile(self, name: str, dtype: DType) -> Buffer:
        """A tile, stored with the contracted axis last for x and first for y, one padding column."""
        return Buffer(name, TensorType(dtype, (TILE, TILE + 1)), "inout", "shared")

    def fill(
        self, tile: Buffer, body: tuple[Stmt, ...], value: str, side: Var, first: Index, suffix: str
    ) -> tuple[Stmt, ...]:
        """Each thread computes one element of the tile, zero outside the matrix."""
        along_depth = self.contiguous_in_depth(body, side)
        near, far = (self.ty, self.tx) if along_depth else (self.tx, self.ty)  # positions along side and depth
        at, deep = first + near, Index.of(self.chunk) * TILE + far
        place = (near, far) if tile.name == "x_tile" else (far, near)
        index = tuple(Index.of(v) for v in place)
        bounds = tuple(
            Bound(i, v.extent) for i, v in ((at, side), (deep, self.found.depth)) if i.bounds[1] >= v.extent
        )
        made = substituted(body, {**self.batch, side: at, self.found.depth: deep}, suffix)
        zero = Lit(0.0, tile.dtype)
        if bounds and len(made) == 1 and isinstance(load := made[0], Load):
            made = (Load(load.name, load.buffer, load.index, load.dtype, bounds, zero, load.nodes),)
            bounds = ()
        store = Store(tile.name, index, value + suffix)
        if not bounds:
            return (*made, store)
        return (Store(tile.name, index, zero), If(bounds, (*made, store)))

    def contiguous_in_depth(self, body: tuple[Stmt, ...], side: Var) -> bool:
        loads = [s for s in body if isinstance(s, Load)]
        depth = sum(stride(s, self.shapes, self.found.depth) == 1 for s in loads)
        return depth > sum(stride(s, self.shapes, side) == 1 for s in loads)

    def multiply(self, x_tile: Buffer, y_tile: Buffer, dtype: DType) -> Stmt:
        found, n = self.found, Var("n", TILE)
        left, right, product = f"{found.left_value}_n", f"{found.right_value}_n", f"{found.product.name}_n"
        body = (
            Load(left, x_tile.name, (Index.of(self.ty), Index.of(n)), dtype),
            Load(right, y_tile.name, (Index.of(n), Index.of(self.tx)), dtype),
            Let(product, "mul", (left, right), dtype, found.product.nodes),
            Accumulate(found.accumulator.name, product, found.accumulate.nodes),
        )
        return For(n, "unrolled", body)

    def finish(self, row_first: Index, column_first: Index) -> tuple[Stmt, ...]:
        """What follows the sum, for elements inside the matrix."""
        found = self.found
        row, column = row_first + self.ty, column_first + self.tx
        bounds = tuple(
            Bound(i, v.extent) for i, v in ((row, found.row), (column, found.column)) if i.bounds[1] >= v.extent
        )
        mapping = {**self.batch, found.row: row, found.column: column}
        body = substituted((*self.epilogue_values(), *found.after), mapping)
        return (If(bounds, body),) if bounds else body

    def epilogue_values(self) -> tuple[Stmt, ...]:
        """Values from before the sum that the epilogue reads, and all guards (they must be checked once)."""
        found = self.found
        names = {v for s in found.after for v in used_values(s)} | {s.name for s in found.before if isinstance(s, Guard)}
        return needed(names, found.before)
