"""Strides: how a kernel's loads and stores move with a loop variable.

What enters: a block of statements, a variable. What leaves: the strides, in elements, that decide which loop gets the lanes.
Invariant: a stride is given only where the address is affine in the variable and no run-time index moves with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from graphc.loops.dependence import inner_statements
from graphc.loops.index import Index, Var, row_major
from graphc.loops.ir import Accumulate, For, Guard, If, IndexValue, Kernel, Let, Load, Stmt, Store
from graphc.loops.schedule import Body
from passes.bands import Nest, reduction_band


@dataclass(frozen=True)
class Machine:
    """What the policy must know of a CPU: bits and number of its vector registers, and the threads to use."""

    vector_bits: int
    registers: int
    threads: int

    def lanes(self, itemsize: int) -> int:
        return max(1, self.vector_bits // (8 * itemsize))


class Strides:
    """Answers for one kernel on one machine; ``kept``: parameters that will be copied once for many runs of it."""

    def __init__(self, kernel: Kernel, machine: Machine, kept: Set[str] = frozenset()) -> None:
        self.shapes = {p.name: p.shape for p in kernel.params}
        self.dtypes = {p.name: p.dtype for p in kernel.params}
        self.machine = machine
        self.kept = kept

    def accesses(self, body: Body) -> Iterator[tuple[Load | Store, Index]]:
        for stmt in inner_statements(body):
            if isinstance(stmt, (Load, Store)) and stmt.buffer in self.shapes:
                yield stmt, row_major(stmt.index, self.shapes[stmt.buffer])

    def of(self, body: Body, var: Var) -> tuple[list[int | None], list[int | None]]:
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
        loads, stores = self.of(body, var)
        return all(s in (0, 1) for s in loads) and all(s == 1 for s in stores) and (1 in loads or bool(stores))

    def along_loads(self, body: Body, var: Var) -> bool:
        loads, stores = self.of(body, var)
        return all(s in (0, 1) for s in loads) and all(s == 1 for s in stores) and 1 in loads + stores

    def lanes(self, body: Body) -> int:
        sizes = [self.dtypes[s.buffer].itemsize for s, _ in self.accesses(body)]
        return self.machine.lanes(max([4, *sizes]))

    def store_lane(self, nest: Nest) -> Var | None:
        """The innermost variable in which every store is contiguous."""
        for loop in reversed(nest.band):
            _, stores = self.of(nest.everything, loop.var)
            if stores and all(s == 1 for s in stores):
                return loop.var
        return None

    def lane_of(self, loop: For) -> Var:
        """The innermost loop variable below ``loop`` that is contiguous, or the innermost of all."""
        nest = reduction_band(loop)
        good = [one.var for one in reversed(nest.band) if self.along_loads(nest.everything, one.var)]
        return good[0] if good else nest.band[-1].var


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
