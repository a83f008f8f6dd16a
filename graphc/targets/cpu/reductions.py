"""Accumulators as LLVM text: partial results of lanes, combined where they are read.

What enters: accumulator statements at the points of the lanes. What leaves: instructions; the partial results stay in
the frame as SSA names, which serial loops carry as phis. Invariant: a lane that is masked leaves its partial result as it
was; sums alone are reassociated and contracted.
"""

from __future__ import annotations

from graphc.loops import ir
from graphc.targets.cpu.arithmetic import across, combine, tree
from graphc.targets.cpu.frame import Frame, scalar_of
from graphc.targets.cpu.lanes import Bank, Lanes, Partials, Point, projection
from graphc.targets.cpu.llvm_text import VType


def bank_type(frame: Frame, bank: Bank) -> VType:
    return VType(bank.scalar, frame.width if bank.vector is not None else 1)


def declare_accumulator(frame: Frame, declared: ir.Accumulator, lanes: Lanes) -> None:
    start = ir.identity(declared.combiner, declared.dtype)
    here = frozenset(lanes.variables)
    partials = Partials(scalar_of(declared.dtype), declared.combiner, start, here)
    frame.accumulators[declared.name] = partials
    bank_of(frame, partials, lanes)


def bank_of(frame: Frame, partials: Partials, lanes: Lanes) -> Bank:
    """The partial results of what accumulates in these lanes; they begin at the identity."""
    here = frozenset(lanes.variables)
    found = partials.banks.get(here)
    if found is None:
        found = partials.banks[here] = Bank(partials.scalar, lanes.vector)
        start = bank_type(frame, found).constant(partials.identity)
        for point in lanes.points():
            found.names[projection(point, here)] = start
    return found


def accumulate(frame: Frame, stmt: ir.Accumulate, lanes: Lanes) -> None:
    f = frame.function
    partials = frame.accumulators[stmt.accumulator]
    bank = bank_of(frame, partials, lanes)
    wide = bank.vector is not None
    type_ = bank_type(frame, bank)
    here = frozenset(lanes.variables)
    product = frame.waiting.get(stmt.value) if isinstance(stmt.value, str) else None
    for point in lanes.points():
        key = projection(point, here)
        old = bank.names[key]
        if product is not None:
            a, b = (frame.operand(x, point, wide, lanes) for x in product.args)
            new = f.muladd(type_, a, b, old)
        else:
            value = frame.operand(stmt.value, point, wide, lanes)
            new = combine(f, partials.combiner, type_, old, value)
        bank.names[key] = where_active(frame, type_, new, old, partials, point, lanes)


def where_active(frame: Frame, type_: VType, new: str, old: str, partials: Partials, point: Point, lanes: Lanes) -> str:
    """The new partial result in the lanes that take part. A lane of its own may hold anything where it is idle."""
    if lanes.vector is None:
        mask = frame.bounds_hold(lanes.bounds, point, None)
    elif lanes.vector in partials.declared and not lanes.bounds:
        return new
    else:
        mask = frame.lane_mask(lanes.bounds, point, lanes)
    return new if mask in ("", "true") else frame.function.select(mask, type_, new, old)


def read(frame: Frame, read: ir.ReadAccumulator, lanes: Lanes) -> None:
    f = frame.function
    partials = frame.accumulators[read.accumulator]

    def make(point: Point, wide: bool) -> str:
        wanted = projection(point, partials.declared)
        totals = []
        for bank in partials.banks.values():
            parts = [name for key, name in bank.names.items() if set(wanted) <= set(key)]
            type_ = bank_type(frame, bank)
            total = tree(f, partials.combiner, type_, parts)
            totals.append(total if wide else across(f, partials.combiner, type_, total))
        return tree(f, partials.combiner, VType(partials.scalar, frame.width if wide else 1), totals)

    frame.define(read.name, partials.scalar, partials.declared, lanes, make)
