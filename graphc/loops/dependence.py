"""What one iteration of a loop may owe to another: the questions that scheduling and the interpreter ask.

What enters: a loop. What leaves: yes or no, on the safe side. Invariant: a loop that :func:`independent` accepts gives
the same result in any order of its iterations.

>>> i, j = Var("i", 4), Var("j", 8)
>>> injective(Index.of(i) * 8 + j, i, frozenset({j})), injective(Index.of(i) + j, i, frozenset({j}))
(True, False)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import gcd

from graphc.loops.index import Index, Var
from graphc.loops.ir import Accumulate, Accumulator, Alloc, Bound, For, If, Load, ReadAccumulator, Stmt, Store


def inner_statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """All statements of a block and of the blocks within, in order."""
    stack = list(reversed(body))
    while stack:
        stmt = stack.pop()
        yield stmt
        if isinstance(stmt, (For, If)):
            stack.extend(reversed(stmt.body))


def _bounded_statements(body: Sequence[Stmt]) -> Iterator[tuple[Stmt, tuple[Bound, ...]]]:
    """All statements of a block and of the blocks within, in order, with the conditions that they are under."""
    stack: list[tuple[Stmt, tuple[Bound, ...]]] = [(s, ()) for s in reversed(body)]
    while stack:
        stmt, bounds = stack.pop()
        yield stmt, bounds
        if isinstance(stmt, (For, If)):
            inner = (*bounds, *stmt.bounds) if isinstance(stmt, If) else bounds
            stack.extend((s, inner) for s in reversed(stmt.body))


def inner_vars(body: Sequence[Stmt]) -> frozenset[Var]:
    """The variables of the loops within a block."""
    return frozenset(s.var for s in inner_statements(body) if isinstance(s, For))


def injective(index: Index, var: Var, moving: frozenset[Var]) -> bool:
    """Whether different values of ``var`` never give the same index while the ``moving`` variables take any values.

    Variables that are not moving (of loops further out) are fixed. Example in the module's docstring.
    """
    step = abs(index.coefficient(var))
    if not step or not index.is_affine_in(var):
        return False
    spread, period = 0, 0  # of the terms with smaller steps; gcd of the larger steps
    for atom, coef in index.terms:
        if atom == var or not (Index.of(atom).variables & moving or Index.of(atom).values):
            continue
        low, high = atom.bounds
        if abs(coef) < step:
            spread += abs(coef) * (high - low)
        else:
            period = gcd(period, coef)
    # two iterations differ by step * d + s with |s| <= spread: never 0, and never a multiple of the period
    return spread < step and (period == 0 or step * max(var.extent - 1, 0) + spread < period)


class Accesses:
    """What the statements of a block do to memory and to accumulators that are declared outside of it."""

    def __init__(self, body: Sequence[Stmt]) -> None:
        self.loads: dict[str, list[Load]] = {}
        self.stores: dict[str, list[Store]] = {}
        self.moving = inner_vars(body)
        declared: set[str] = set()
        read: set[str] = set()
        written: set[str] = set()
        for stmt, bounds in _bounded_statements(body):
            match stmt:
                case Accumulator(name=name):
                    declared.add(name)
                case Accumulate(accumulator=name):
                    written.add(name)
                case ReadAccumulator(accumulator=name):
                    read.add(name)
                case Load():
                    self.loads.setdefault(stmt.buffer, []).append(stmt)
                case Store():
                    narrow = self.narrowed((*bounds, *stmt.bounds))
                    index = tuple(i.substitute(narrow) for i in stmt.index) if narrow else stmt.index
                    self.stores.setdefault(stmt.buffer, []).append(replace(stmt, index=index))
                case Alloc(buffer):
                    declared.add(buffer.name)
        self.local = declared
        self.accumulates = written - declared
        self.running = (read & written) - declared

    def narrowed(self, bounds: Sequence[Bound]) -> dict[Var, Index]:
        """Inner loop variables that bounds keep below their extent (masked lanes), as variables of that extent."""
        result: dict[Var, Index] = {}
        for bound in bounds:
            variables = bound.index.variables
            if len(variables) == 1 and variables <= self.moving and not bound.index.values:
                (var,) = variables
                extent = bound.extent - bound.index.const
                if bound.index == Index.of(var) + bound.index.const and 0 < extent < var.extent:
                    narrow = Var(var.name, extent)
                    result[var] = Index.of(narrow)
                    self.moving |= {narrow}
        return result

    def apart(self, buffer: str, var: Var) -> bool:
        """Whether no two iterations of the loop over ``var`` touch the same element of ``buffer``.

        On one axis the accesses have one index that is injective in ``var``, or all stay within ``var``'s step.
        """
        accesses = [s.index for s in (*self.loads.get(buffer, ()), *self.stores.get(buffer, ()))]
        return any(
            (all(i == axis[0] for i in axis) and injective(axis[0], var, self.moving)) or self.within_step(axis, var)
            for axis in zip(*accesses, strict=True)
        )

    def within_step(self, indices: Sequence[Index], var: Var) -> bool:
        """Whether all indices are ``step * var + fixed + far + rest``, one step, rests within a range shorter than it.

        ``far`` are multiples of a period that ``step * var + rest`` stays below (rows around the blocks of a row).
        """
        steps = {i.coefficient(var) for i in indices}
        if len(steps) != 1 or steps == {0} or not all(i.is_affine_in(var) for i in indices):
            return False
        step = abs(steps.pop())
        fixed: set[frozenset[tuple[object, int]]] = set()
        ranges: list[tuple[int, int, int]] = []
        period = 0
        for index in indices:
            rest = [(a, c) for a, c in index.terms if a != var]
            moves = [(a, c) for a, c in rest if Index.of(a).variables & self.moving or Index.of(a).values]
            fixed.add(frozenset(term for term in rest if term not in moves))
            near = [(a, c) for a, c in moves if abs(c) < step * var.extent]
            period = gcd(period, *(c for a, c in moves if (a, c) not in near))
            ranges.append((index.const, *Index(tuple(near), 0).bounds))
        starts = [const % period if period else const for const, _, _ in ranges]
        highest = max(start + high for start, (_, _, high) in zip(starts, ranges, strict=True))
        spread = highest - min(start + low for start, (_, low, _) in zip(starts, ranges, strict=True))
        apart = spread < step and (period == 0 or step * max(var.extent - 1, 0) + spread < period)
        return len(fixed) == 1 and apart


def carries(loop: For) -> bool:
    """Whether an iteration may *see* what an earlier one left: a running accumulator, or memory written and read.

    A reduction into an accumulator, and stores that only overwrite or add, do not count.
    """
    accesses = Accesses(loop.body)
    if accesses.running:
        return True
    shared = (accesses.loads.keys() & accesses.stores.keys()) - accesses.local
    return any(not accesses.apart(buffer, loop.var) for buffer in shared)


def independent(loop: For, *, reductions: bool = False) -> bool:
    """Whether the iterations may be done in any order, and at once: what parallel, vector and unrolled loops need.

    ``reductions``: accumulating into an outer accumulator is allowed (vector and unrolled loops, not parallel ones).
    """
    accesses = Accesses(loop.body)
    if accesses.running or (accesses.accumulates and not reductions):
        return False
    written = accesses.stores.keys() - accesses.local
    return all(accesses.apart(buffer, loop.var) for buffer in written)
