"""Recognise contractions: the nests in which a sum of products reuses each operand along loops of the other.

What enters: a nest (``passes/bands.py``). What leaves: a :class:`Contraction`, which names the parts of the nest, or None. ::

    for i { for j { acc %s; for k { %a = x[i, k]; %b = w[k, j]; %s add= %a * %b }; %v = value %s; y[i, j] = relu(%v) } }
    a = x[i, k]: rows i       b = w[k, j]: columns j       contracted: k        epilogue: relu and the store

A window of a convolution is the same with several rows (n, oh, ow) and contracted loops (kh, kw, c); a batched product has
loops in both operands. Each operand may be any pure expression of its own loops: a transposed, gathered, scaled or masked
read. Invariant: nothing is changed, and every statement of the nest belongs to one operand, the sum or the epilogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from graphc.loops.index import Var
from graphc.loops.ir import (
    Accumulate,
    Accumulator,
    For,
    Guard,
    IndexValue,
    Let,
    Load,
    ReadAccumulator,
    Store,
)
from graphc.loops.schedule import PURE, Body
from passes.bands import Nest, reduction_band
from passes.strides import Strides, values_read

Pure = Let | Load | IndexValue | Guard


@dataclass(frozen=True)
class Operand:
    """One factor: the statements that compute it (the last one names it) and the variables it moves with."""

    value: str
    statements: tuple[Pure, ...]
    variables: frozenset[Var]

    @property
    def loads(self) -> list[Load]:
        return [s for s in self.statements if isinstance(s, Load)]

    @property
    def plain(self) -> bool:
        """Whether it is one unconditional load."""
        return len(self.statements) == 1 and isinstance(self.statements[0], Load) and not self.statements[0].bounds


@dataclass(frozen=True)
class Contraction:
    """A nest that sums products of ``a``, which does not move with ``lane``, and ``b``, which does not with ``rows``.

    ``rows`` end with the variable whose iterations form a register tile; ``batch`` are in both operands.
    """

    a: Operand
    b: Operand
    lane: Var
    rows: tuple[Var, ...]
    columns: tuple[Var, ...]  # other variables of b
    batch: tuple[Var, ...]
    contracted: tuple[Var, ...]
    accumulator: Accumulator
    product: Let
    accumulate: Accumulate
    read: ReadAccumulator
    epilogue: Body

    @property
    def row(self) -> Var | None:
        return self.rows[-1] if self.rows else None

    @property
    def depth(self) -> int:
        return prod(v.extent for v in self.contracted)


def recognise(nest: Nest, strides: Strides) -> Contraction | None:
    """The contraction that a nest is, if it is one with lanes to give."""
    parts = _parts(nest.leaf)
    if parts is None:
        return None
    before, loop, after = parts
    inner = reduction_band(loop)
    sums = [s for s in inner.leaf if isinstance(s, Accumulate)]
    accumulators = [s for s in before if isinstance(s, Accumulator)]
    reads = [s for s in after if isinstance(s, ReadAccumulator)]
    if not len(sums) == len(accumulators) == len(reads) == 1 or any(isinstance(s, For) for s in inner.leaf):
        return None
    prefixes = [s for p in nest.prefixes for s in p]
    pool = {s.name: s for s in (*prefixes, *before, *inner.everything, *after) if isinstance(s, PURE)}
    product = pool.get(sums[0].value) if isinstance(sums[0].value, str) else None
    fits = isinstance(product, Let) and product.primitive == "mul" and accumulators[0].combiner == "add"
    if not fits or not isinstance(product, Let) or not accumulators[0].dtype.is_float:
        return None
    factors = [_operand(a, pool) for a in product.args if isinstance(a, str)]
    written = {s.buffer for s in after if isinstance(s, Store)}
    if len(factors) < 2 or any(load.buffer in written for f in factors for load in f.loads):
        return None
    lane = _lane(nest, factors, strides)
    if lane is None:
        return None
    a, b = factors if lane not in factors[0].variables else reversed(factors)
    band = [one.var for one in nest.band]
    rows, columns = _only(band, a, b), [v for v in _only(band, b, a) if v != lane]
    batch = [v for v in band if v in a.variables and v in b.variables]
    if len(rows) + len(columns) + len(batch) + 1 < len(band):
        return None
    rows.sort(key=lambda v: min(v.extent, 6))  # stable: the innermost of those that fill a tile comes last
    stored = {name for s in after if not isinstance(s, PURE) for name in values_read(s)}
    epilogue = (*_closure(stored, {n: s for n, s in pool.items()}), *(s for s in after if isinstance(s, Store)))
    return Contraction(
        a, b, lane, tuple(rows), tuple(columns), tuple(batch), tuple(one.var for one in inner.band),
        accumulators[0], product, sums[0], reads[0], epilogue,
    )  # fmt: skip


def _parts(leaf: Body) -> tuple[Body, For, Body] | None:
    """A leaf as what stands before its one loop, the loop, and what stands after it."""
    loops = [n for n, s in enumerate(leaf) if isinstance(s, For)]
    if len(loops) != 1:
        return None
    before, loop, after = leaf[: loops[0]], leaf[loops[0]], leaf[loops[0] + 1 :]
    plain = all(isinstance(s, (*PURE, Accumulator)) for s in before)
    if not plain or not all(isinstance(s, (*PURE, ReadAccumulator, Store)) for s in after):
        return None
    assert isinstance(loop, For)
    return before, loop, after


def _closure(names: Iterable[str], pool: dict[str, Pure]) -> tuple[Pure, ...]:
    """The statements behind some values, in order."""
    needed: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name in pool and name not in needed:
            needed.add(name)
            stack += values_read(pool[name])
    return tuple(s for n, s in pool.items() if n in needed)


def _operand(value: str, pool: dict[str, Pure]) -> Operand:
    statements = _closure([value], pool)
    variables: set[Var] = set()
    for stmt in statements:
        if isinstance(stmt, Load):
            variables.update(*(i.variables for i in stmt.index), *(b.index.variables for b in stmt.bounds))
        elif isinstance(stmt, IndexValue):
            variables |= stmt.index.variables
    return Operand(value, statements, frozenset(variables))


def _only(band: list[Var], inside: Operand, outside: Operand) -> list[Var]:
    return [v for v in band if v in inside.variables and v not in outside.variables]


def _lane(nest: Nest, factors: list[Operand], strides: Strides) -> Var | None:
    """The innermost variable of one factor alone in which all stores are contiguous."""
    for loop in reversed(nest.band):
        _, stores = strides.of(nest.everything, loop.var)
        alone = sum(loop.var in f.variables for f in factors) == 1
        if alone and stores and all(s == 1 for s in stores):
            return loop.var
    return None
