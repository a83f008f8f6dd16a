"""Small questions about, and copies of, loop IR statements that the CUDA schedule needs.

What enters: statements. What leaves: statements, or facts about them. Invariant: a copy has the same meaning under the
given substitution of loop variables. ::

    %0 = load x[i, k]   with i -> 16*by+ty, k -> 16*c+tx   becomes   %0 = load x[16*by+ty, 16*c+tx]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

from graphc.loops.dependence import inner_statements
from graphc.loops.index import Index, Var, row_major, unravel
from graphc.loops.ir import (
    Accumulate,
    Accumulator,
    Bound,
    Buffer,
    For,
    Guard,
    If,
    IndexValue,
    Let,
    Load,
    Operand,
    ReadAccumulator,
    Stmt,
    Store,
)  # fmt: skip

Pure = Let | Load | IndexValue | Guard
"""Statements that only define a value: they may be repeated and moved inwards past loops that do not store."""


def used_values(stmt: Stmt) -> frozenset[str]:
    """Names of values and accumulators that one statement reads itself (not what is in its block)."""
    operands: tuple[Operand, ...] = ()
    indices: tuple[Index, ...] = ()
    match stmt:
        case Let(args=args):
            operands = args
        case Guard(value=value):
            operands = (value,)
        case Accumulate(accumulator=accumulator, value=value):
            operands = (accumulator, value)
        case ReadAccumulator(accumulator=accumulator):
            operands = (accumulator,)
        case Load(index=index, bounds=bounds):
            indices = (*index, *(b.index for b in bounds))
        case Store(index=index, bounds=bounds, value=value):
            operands, indices = (value,), (*index, *(b.index for b in bounds))
        case IndexValue(index=at):
            indices = (at,)
        case If(bounds=bounds):
            indices = tuple(b.index for b in bounds)
    return frozenset(o for o in operands if isinstance(o, str)).union(*(i.values for i in indices))


def variables_of(stmt: Stmt) -> frozenset[Var]:
    """Loop variables in the indices of one statement (not of what is in its block)."""
    match stmt:
        case Load(index=index, bounds=bounds) | Store(index=index, bounds=bounds):
            return frozenset().union(*(i.variables for i in (*index, *(b.index for b in bounds))))
        case IndexValue(index=at):
            return at.variables
        case If(bounds=bounds):
            return frozenset().union(*(b.index.variables for b in bounds))
    return frozenset()


def needed(targets: Iterable[str], candidates: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """The pure statements among ``candidates`` (in order) that the values ``targets`` are computed by."""
    wanted = set(targets)
    kept: list[Stmt] = []
    for stmt in reversed(candidates):
        if isinstance(stmt, Pure) and stmt.name in wanted:
            kept.append(stmt)
            wanted |= used_values(stmt)
    return tuple(reversed(kept))


def substituted(body: Sequence[Stmt], mapping: Mapping[Var, Index], suffix: str = "") -> tuple[Stmt, ...]:
    """The statements with loop variables replaced; with a suffix, a copy whose values have names of their own."""
    own = {s.name for s in inner_statements(body) if isinstance(s, (Pure, Accumulator, ReadAccumulator))} if suffix else set()

    def name(old: str) -> str:
        return old + suffix if old in own else old

    def operand(old: Operand) -> Operand:
        return name(old) if isinstance(old, str) else old

    def at(old: Index) -> Index:
        return old.substitute(mapping).rename_values(name)

    def bounds(old: tuple[Bound, ...]) -> tuple[Bound, ...]:
        return tuple(Bound(at(b.index), b.extent) for b in old)

    def one(stmt: Stmt) -> Stmt:
        match stmt:
            case Let():
                return replace(stmt, name=name(stmt.name), args=tuple(map(operand, stmt.args)))
            case Load():
                return replace(
                    stmt, name=name(stmt.name), index=tuple(map(at, stmt.index)), bounds=bounds(stmt.bounds)
                )
            case IndexValue():
                return replace(stmt, name=name(stmt.name), index=at(stmt.index))
            case Guard():
                return replace(stmt, name=name(stmt.name), value=operand(stmt.value))
            case Store():
                return replace(
                    stmt, index=tuple(map(at, stmt.index)), bounds=bounds(stmt.bounds), value=operand(stmt.value)
                )
            case Accumulator():
                return replace(stmt, name=name(stmt.name))
            case Accumulate():
                return replace(stmt, accumulator=name(stmt.accumulator), value=operand(stmt.value))
            case ReadAccumulator():
                return replace(stmt, name=name(stmt.name), accumulator=name(stmt.accumulator))
            case For():
                return replace(stmt, body=tuple(map(one, stmt.body)))
            case If():
                return replace(stmt, bounds=bounds(stmt.bounds), body=tuple(map(one, stmt.body)))
        return stmt

    return tuple(map(one, body))


def flattened(flat: Index, loops: Sequence[Var]) -> tuple[dict[Var, Index], tuple[Bound, ...]]:
    """The loop variables as functions of one flat number, and the bound below which that number must stay.

    >>> i, j = Var("i", 3), Var("j", 5)
    >>> mapping, bounds = flattened(Index.of(Var("t", 32)), (i, j))
    >>> str(mapping[i]), str(mapping[j]), [(str(b.index), b.extent) for b in bounds]
    ('(t)//5', '(t)%5', [('(t)//5', 3)])
    """
    if not loops:
        return {}, (Bound(flat, 1),) if flat.bounds[1] >= 1 else ()
    first, rest = loops[0], [v.extent for v in loops[1:]]
    stride = prod(rest)
    lead = flat // stride if stride else Index()
    mapping = {first: lead}
    if rest:
        inner_flat = flat % stride if stride else Index()
        mapping |= dict(zip(loops[1:], unravel(inner_flat, tuple(rest)), strict=True))
    return mapping, (Bound(lead, first.extent),) if lead.bounds[1] >= first.extent else ()


def stride(load: Load, shapes: Mapping[str, Buffer], var: Var) -> int | None:
    """Elements between what neighbouring values of ``var`` load; None where that is not a constant."""
    flat = row_major(load.index, shapes[load.buffer].shape)
    return flat.coefficient(var) if flat.is_affine_in(var) else None
