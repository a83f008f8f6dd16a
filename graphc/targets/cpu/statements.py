"""Questions that printing a kernel asks of its statements: what is inside a loop, what is read, what is only summed.

What enters: statements of the loop IR. What leaves: statements and names. Invariant: nothing is changed, except that
:func:`cut` gives an equal nest for a long vector loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.loops import ir
from graphc.loops.index import Index, Var
from graphc.loops.schedule import substitute


def inside(loop: ir.For) -> Iterable[ir.Stmt]:
    """All statements of a loop, in no order."""
    return within(loop.body)


def cut(loop: ir.For, size: int) -> tuple[ir.Stmt, ...]:
    """A long vector loop as a serial loop over short ones, and a short one for the rest."""
    var, parts = loop.var, []
    inner = Var(f"{var.name}_lane", size)
    count = var.extent // size
    outer = Var(f"{var.name}cut", count)
    moved = substitute(loop.body, {var: Index.of(outer) * size + inner})
    parts.append(ir.For(outer, "serial", (ir.For(inner, "vector", moved),)))
    if var.extent % size:
        rest = Var(f"{var.name}_rest", var.extent % size)
        parts.append(ir.For(rest, "vector", substitute(loop.body, {var: Index.of(rest) + count * size})))
    return tuple(parts)


def within(body: Sequence[ir.Stmt]) -> Iterable[ir.Stmt]:
    """All statements of a block and of the blocks in it, in no order."""
    stack: list[ir.Stmt] = list(body)
    while stack:
        stmt = stack.pop()
        yield stmt
        if isinstance(stmt, (ir.For, ir.If)):
            stack.extend(stmt.body)


def operands(stmt: ir.Stmt) -> tuple[ir.Operand, ...]:
    """What a statement reads, its indices aside."""
    match stmt:
        case ir.Let(args=args):
            return args
        case ir.Guard(value=value) | ir.Store(value=value) | ir.Accumulate(value=value):
            return (value,)
    return ()


def made_in(loop: ir.For) -> set[str]:
    """Names of the values that the statements of a loop make."""
    makers = (ir.Let, ir.Load, ir.IndexValue, ir.Guard, ir.ReadAccumulator)
    return {s.name for s in inside(loop) if isinstance(s, makers)}


def index_values(stmt: ir.Stmt) -> set[str]:
    """Names of the run-time values in a statement's indices."""
    match stmt:
        case ir.Load(index=index, bounds=bounds) | ir.Store(index=index, bounds=bounds):
            return {v for i in (*index, *(b.index for b in bounds)) for v in i.values}
        case ir.IndexValue(index=index):
            return set(index.values)
        case ir.If(bounds=bounds):
            return {v for b in bounds for v in b.index.values}
    return set()


def only_summed(kernel: ir.Kernel) -> frozenset[str]:
    """Values that are read by nothing but sums: a product among them becomes a fused multiply-add."""
    adds = {s.name for s, _ in kernel.statements() if isinstance(s, ir.Accumulator) and s.combiner == "add"}
    summed: set[str] = set()
    other: set[str] = set()
    for stmt, _ in kernel.statements():
        into = summed if isinstance(stmt, ir.Accumulate) and stmt.accumulator in adds else other
        into.update(o for o in operands(stmt) if isinstance(o, str))
    return frozenset(summed - other)
