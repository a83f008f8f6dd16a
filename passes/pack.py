"""Pack: copy a panel that is read many times with a long stride into contiguous scratch memory.

What enters: a scheduled kernel. What leaves: the same, where an operand of a contraction whose rows lie far apart (a power of two
of bytes at worst: then all of them fall into a few cache sets) is copied once into a local buffer at the top of the loop in
which it is reused. ::

    for jo { for io { ... for k { load b[k, 16*jo+jj] } } }
    -> for jo { alloc local p; for k { for jj vector { p[k, jj] = b[k, 16*jo+jj] } }  for io { ... load p[k, jj] } }

Source: Goto, van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), section 4: packing makes addresses contiguous
and keeps the panel in the cache and its pages in the TLB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from graphc.loops.index import Index, Var, row_major
from graphc.loops.ir import Alloc, Buffer, For, If, Kernel, Load, Stmt, Store
from graphc.loops.schedule import substitute
from graphc.types import TensorType

REUSE = 4  # times that a panel must be read for the copy to pay
STRIDE = 512  # bytes between rows from which on they are worth bringing together
ROW_TILES = 8  # register tiles that share a packed panel where rows are the outer loop
PANEL = 256 * 1024  # bytes of scratch that a thread's stack may hold


@dataclass(frozen=True)
class _Panel:
    """A load that can be packed: its serial variable (rows), its lane variable (columns), both as in the index."""

    load: Load
    row: Var
    lane: Var
    lane_loop: For


def pack_panels(kernel: Kernel) -> Kernel:
    """Pack every panel that pays; the same kernel if there is none."""
    if any(isinstance(s, Alloc) for s, _ in kernel.statements()):
        return kernel  # a contraction's template has packed what pays
    written = {s.buffer for s, _ in kernel.statements() if isinstance(s, Store)}
    kernel = replace(kernel, body=tuple(b for s in kernel.body for b in block_rows(s)))
    packer = _Packer({p.name: p for p in kernel.params if p.name not in written})
    body = tuple(packer.statement(s) for s in kernel.body)
    return replace(kernel, body=body)


def block_rows(stmt: Stmt) -> tuple[Stmt, ...]:
    """Let a block of row tiles share each panel: ``for io { for jo { tile } }`` with lanes in the tile becomes
    ``for io_b { for jo { for io_t in 8 { tile } } }``, and what is left over keeps its order.

    Both loops are independent (the schedule has put register tiles into them), so their order is free.
    """
    if not isinstance(stmt, For) or stmt.kind not in ("serial", "parallel") or stmt.var.extent < 2 * ROW_TILES:
        return (stmt,)
    inner = stmt.body[0] if len(stmt.body) == 1 else None
    if not isinstance(inner, For) or inner.kind != "serial" or not _is_tile(inner.body):
        return (stmt,)
    count, rest = divmod(stmt.var.extent, ROW_TILES)
    block, tile = Var(f"{stmt.var.name}_b", count), Var(f"{stmt.var.name}_t", ROW_TILES)
    body = substitute(inner.body, {stmt.var: Index.of(block) * ROW_TILES + Index.of(tile)})
    blocked: tuple[Stmt, ...] = (For(block, stmt.kind, (replace(inner, body=(For(tile, "serial", body),)),)),)
    if rest:
        left = Var(f"{stmt.var.name}_r", rest)
        shifted = substitute((inner,), {stmt.var: Index.of(left) + count * ROW_TILES})
        blocked += (For(left, stmt.kind, shifted),)
    return blocked


def _is_tile(body: tuple[Stmt, ...]) -> bool:
    """Whether a block is one register tile: an unrolled loop around a vector loop."""
    if len(body) != 1 or not isinstance(body[0], For) or body[0].kind != "unrolled":
        return False
    within = body[0].body
    return len(within) == 1 and isinstance(within[0], For) and within[0].kind == "vector"


class _Packer:
    def __init__(self, buffers: dict[str, Buffer]) -> None:
        self.buffers = buffers
        self.count = 0

    def statement(self, stmt: Stmt) -> Stmt:
        """Pack at the outermost loops in which it pays (recursion is over the loop nest, a few levels deep)."""
        if not isinstance(stmt, For) or stmt.kind not in ("serial", "parallel"):
            return stmt
        panels = self.panels(stmt)
        if panels:
            return self.packed(stmt, panels)
        body = tuple(self.statement(s) for s in stmt.body)
        return stmt if all(a is b for a, b in zip(body, stmt.body, strict=True)) else replace(stmt, body=body)

    def panels(self, loop: For) -> dict[tuple[object, ...], list[_Panel]]:
        """Loads inside ``loop`` that read one panel again and again, by panel."""
        found: dict[tuple[object, ...], list[_Panel]] = {}
        reads: dict[tuple[object, ...], int] = {}
        for load, loops in _loads(loop):
            panel = self.panel(load, loops)
            if panel is None:
                continue
            key = (load.buffer, load.index, panel.row, panel.lane)
            found.setdefault(key, []).append(panel)
            others = [x.var.extent for x in loops if x.kind == "serial" and x.var not in _variables(load)]
            reads[key] = reads.get(key, 0) + prod(others)
        return {key: panels for key, panels in found.items() if reads[key] >= REUSE}

    def panel(self, load: Load, loops: tuple[For, ...]) -> _Panel | None:
        buffer = self.buffers.get(load.buffer)
        if buffer is None or load.bounds:
            return None
        inside = {x.var: x for x in loops}
        moving = [inside[v] for v in inside if v in _variables(load)]
        rows = [x for x in moving if x.kind == "serial"]
        lanes = [x for x in moving if x.kind in ("vector", "unrolled")]
        flat = row_major(load.index, buffer.shape)
        if len(rows) != 1 or len(lanes) != 1 or flat.values:
            return None
        (row,), (lane,) = rows, lanes
        affine = flat.is_affine_in(row.var) and flat.is_affine_in(lane.var)
        far = abs(flat.coefficient(row.var)) * buffer.dtype.itemsize >= STRIDE
        small = row.var.extent * _padded(lane.var.extent) * buffer.dtype.itemsize <= PANEL
        if not (affine and far and small and flat.coefficient(lane.var) == 1 and row.var.extent >= 16):
            return None
        return _Panel(load, row.var, lane.var, lane)

    def packed(self, loop: For, panels: dict[tuple[object, ...], list[_Panel]]) -> For:
        """``loop`` with its panels copied at the top of its body and read from there."""
        moved: dict[tuple[object, ...], str] = {}
        before: list[Stmt] = []
        for key, loads in panels.items():
            first = loads[0]
            source = self.buffers[first.load.buffer]
            name = f"p{self.count}"
            self.count += 1
            shape = (first.row.extent, _padded(first.lane.extent))
            local = Buffer(name, TensorType(source.dtype, shape), "inout", "local")
            value = f"{name}v"
            place = (Index.of(first.row), Index.of(first.lane))
            copy: tuple[Stmt, ...] = (
                replace(first.load, name=value),
                Store(name, place, value, nodes=first.load.nodes),
            )
            before += [Alloc(local), For(first.row, "serial", (For(first.lane, first.lane_loop.kind, copy),))]
            moved[key] = name
        body = tuple(_redirect(s, moved) for s in loop.body)
        return replace(loop, body=(*before, *body))


def _padded(columns: int) -> int:
    """Columns of a panel, rounded up so that rows begin on cache lines when they are long."""
    return -(-columns // 8) * 8 if columns > 8 else columns


def _variables(load: Load) -> frozenset[Var]:
    return frozenset().union(*(i.variables for i in load.index))


def _loads(loop: For) -> Iterator[tuple[Load, tuple[For, ...]]]:
    """Loads inside a loop with the loops between."""
    stack: list[tuple[Stmt, tuple[For, ...]]] = [(s, ()) for s in reversed(loop.body)]
    while stack:
        stmt, loops = stack.pop()
        if isinstance(stmt, Load):
            yield stmt, loops
        elif isinstance(stmt, For):
            stack.extend((s, (*loops, stmt)) for s in reversed(stmt.body))
        elif isinstance(stmt, If):
            stack.extend((s, loops) for s in reversed(stmt.body))


def _redirect(stmt: Stmt, moved: dict[tuple[object, ...], str], loops: tuple[For, ...] = ()) -> Stmt:
    """``stmt`` with packed loads reading their panel (recursion is over the loop nest)."""
    if isinstance(stmt, Load):
        used = [x.var for x in loops if x.var in _variables(stmt)]
        rows = [v for v in used if any(x.var == v and x.kind == "serial" for x in loops)]
        lanes = [v for v in used if v not in rows]
        if len(rows) == 1 and len(lanes) == 1:
            name = moved.get((stmt.buffer, stmt.index, rows[0], lanes[0]))
            if name is not None:
                return replace(stmt, buffer=name, index=(Index.of(rows[0]), Index.of(lanes[0])))
        return stmt
    if isinstance(stmt, For):
        return replace(stmt, body=tuple(_redirect(s, moved, (*loops, stmt)) for s in stmt.body))
    if isinstance(stmt, If):
        return replace(stmt, body=tuple(_redirect(s, moved, loops) for s in stmt.body))
    return stmt
