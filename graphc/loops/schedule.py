"""Schedule primitives: a kernel enters, a kernel of the same meaning with differently mapped loops leaves.

Each primitive names its loops by their variables, checks that it is legal and raises
:class:`~graphc.errors.CompileError` where it is not. Invariant: reductions may be reassociated, nothing else changes.
Targets compose them into policies (``passes/schedule.py``).

>>> from graphc.loops.parse import parse_kernel
>>> from graphc.loops.text import print_kernel
>>> kernel = parse_kernel('''kernel k(in x: f32[10], out y: f32[10]) {
...   for i in 10 {
...     %0 = load x[i]
...     store y[i] = %0
...   }
... }''')
>>> print(print_kernel(vectorise(kernel, "i", 4)))
kernel k(in x: f32[10], out y: f32[10]) {
  for i_o in 2 {
    for i_i in 4 vector {
      %0 = load x[i_i+4*i_o]
      store y[i_i+4*i_o] = %0
    }
  }
  for i_t in 2 vector {
    %0 = load x[i_t+8]
    store y[i_t+8] = %0
  }
}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Literal

from graphc.errors import CompileError
from graphc.loops.dependence import Accesses, independent, inner_statements
from graphc.loops.index import Index, Var, row_major
from graphc.loops.ir import (
    Accumulator,
    Bound,
    Buffer,
    For,
    Guard,
    If,
    IndexValue,
    Kernel,
    Let,
    Load,
    LoopKind,
    ReadAccumulator,
    Stmt,
    Store,
)
from graphc.types import TensorType

PURE = (Let, Load, IndexValue, Guard)
Body = tuple[Stmt, ...]

# --- rewriting blocks ----------------------------------------------------------------------------------------------


def map_indices(body: Iterable[Stmt], fn: Callable[[Index], Index]) -> Body:
    """A block with every index expression replaced by ``fn`` of it."""
    return tuple(_map_statement(stmt, fn) for stmt in body)


def _map_statement(stmt: Stmt, fn: Callable[[Index], Index]) -> Stmt:
    def bounds(clauses: tuple[Bound, ...]) -> tuple[Bound, ...]:
        return tuple(Bound(fn(b.index), b.extent) for b in clauses)

    match stmt:
        case Load() | Store():
            return replace(stmt, index=tuple(map(fn, stmt.index)), bounds=bounds(stmt.bounds))
        case IndexValue():
            return replace(stmt, index=fn(stmt.index))
        case For(var, kind, body):
            return For(var, kind, map_indices(body, fn))
        case If(clauses, body):
            return If(bounds(clauses), map_indices(body, fn))
    return stmt


def substitute(body: Iterable[Stmt], mapping: Mapping[Var, Index]) -> Body:
    """A block with loop variables replaced by indices of other variables.

    >>> from graphc.types import float32
    >>> i, j = Var("i", 8), Var("j", 2)
    >>> substitute((Load("0", "x", (Index.of(i),), float32),), {i: Index.of(j) + 4})[0].index[0].const
    4
    """
    kept = {var: index for var, index in mapping.items() if index != Index.of(var)}
    return map_indices(body, lambda index: index.substitute(kept)) if kept else tuple(body)


def loops_of(kernel: Kernel) -> list[For]:
    """All loops of a kernel, outer before inner."""
    return [s for s in inner_statements(kernel.body) if isinstance(s, For)]


def find(kernel: Kernel, name: str) -> For:
    """The one loop over a variable of that name.

    Raises:
        CompileError: there is none, or there are several.
    """
    found = [loop for loop in loops_of(kernel) if loop.var.name == name]
    if len(found) != 1:
        known = ", ".join(dict.fromkeys(loop.var.name for loop in loops_of(kernel)))
        raise CompileError(f"kernel {kernel.name}: {len(found)} loops over {name}", notes=(f"loops: {known}",))
    return found[0]


def replace_loop(kernel: Kernel, old: For, new: Body) -> Kernel:
    """The kernel with one loop (found by identity) replaced by statements."""

    def walk(body: Body) -> Body:
        result: list[Stmt] = []
        for stmt in body:
            if stmt is old:
                result += new
            elif isinstance(stmt, (For, If)):
                result.append(replace(stmt, body=walk(stmt.body)))
            else:
                result.append(stmt)
        return tuple(result)

    return replace(kernel, body=walk(kernel.body))


def _refuse(kernel: Kernel, what: str, why: str, help: str | None = None) -> CompileError:
    return CompileError(f"kernel {kernel.name}: cannot {what}: {why}", help=help)


# --- primitives ----------------------------------------------------------------------------------------------------


def split(kernel: Kernel, var: str, factor: int, tail: Literal["peel", "bound"] = "peel") -> Kernel:
    """Split loop ``i`` into ``i_o`` over blocks of ``factor`` iterations and ``i_i`` within a block. Always legal.

    A remainder is peeled into a loop ``i_t`` of its own, or (``tail="bound"``) the last block is bounded by an ``if``::

        for i in 10 { S(i) }   ->   for i_o in 2 { for i_i in 4 { S(4*i_o+i_i) } }
                                    for i_t in 2 { S(8+i_t) }

    The new loops have the kind of the old one.

    Raises:
        CompileError: no such loop, or a factor below 1.
    """
    loop = find(kernel, var)
    if factor < 1:
        raise _refuse(kernel, f"split {var}", f"the factor is {factor}", "factors are at least 1")
    extent, rest = loop.var.extent, loop.var.extent % factor
    count = -(-extent // factor) if tail == "bound" else extent // factor
    outer, inner = Var(f"{var}_o", count), Var(f"{var}_i", factor)
    index = Index.of(outer) * factor + inner
    body = substitute(loop.body, {loop.var: index})
    if tail == "bound" and rest:
        body = (If((Bound(index, extent),), body),)
    new: Body = (For(outer, loop.kind, (For(inner, loop.kind, body),)),) if count else ()
    if tail == "peel" and rest:
        left = Var(f"{var}_t", rest)
        new += (For(left, loop.kind, substitute(loop.body, {loop.var: Index.of(left) + count * factor})),)
    return replace_loop(kernel, loop, new)


def reorder(kernel: Kernel, order: tuple[str, ...]) -> Kernel:
    """Bring a band of nested loops into another order, outermost first.

    The loops must be nested directly in one another, with nothing beside them but pure statements before the inner
    loop; these move inwards. Legal where every loop of the band is independent, or only accumulates::

        for i { A(i); for j { S(i, j) } }   ->   for j { for i { A(i); S(i, j) } }

    Raises:
        CompileError: the loops are no such band, or their iterations depend on one another.
    """
    wanted = [find(kernel, name) for name in order]
    outermost = next(loop for loop in loops_of(kernel) if any(loop is w for w in wanted))
    band, leaf = [outermost], outermost.body
    moved: Body = ()
    while len(band) < len(wanted):
        inner = leaf[-1] if leaf else None
        direct = isinstance(inner, For) and any(inner is w for w in wanted)
        if not isinstance(inner, For) or not direct or not all(isinstance(s, PURE) for s in leaf[:-1]):
            raise _refuse(kernel, f"reorder {', '.join(order)}", f"{band[-1].var} does not directly enclose the next")
        moved, band, leaf = moved + leaf[:-1], [*band, inner], inner.body
    for loop in band:
        if not independent(loop, reductions=True):
            raise _refuse(kernel, f"reorder {', '.join(order)}", f"iterations of {loop.var} depend on each other")
    body = moved + leaf
    for loop in reversed(wanted):
        body = (For(loop.var, loop.kind, body),)
    return replace_loop(kernel, outermost, body)


def _with_kind(kernel: Kernel, var: str, kind: LoopKind) -> Kernel:
    loop = find(kernel, var)
    if not independent(loop, reductions=kind != "parallel"):
        accesses = Accesses(loop.body)
        why = "its iterations may touch the same memory"
        if accesses.running or (accesses.accumulates and kind == "parallel"):
            why = f"it accumulates into %{min(accesses.running or accesses.accumulates)}"
        raise _refuse(kernel, f"make {var} {kind}", why, "leave the loop serial")
    return replace_loop(kernel, loop, (For(loop.var, kind, loop.body),))


def vectorise(kernel: Kernel, var: str, lanes: int) -> Kernel:
    """Split a loop by ``lanes`` and run the inner loop and the peeled tail as lanes (example in the module's docstring).

    Raises:
        CompileError: the iterations are not independent (accumulating is allowed).
    """
    checked = _with_kind(kernel, var, "vector")
    loop = find(checked, var)
    if loop.var.extent <= lanes:
        return checked
    result = split(kernel, var, lanes)
    result = _with_kind(result, f"{var}_i", "vector")
    return _with_kind(result, f"{var}_t", "vector") if loop.var.extent % lanes else result


def unroll(kernel: Kernel, var: str) -> Kernel:
    """Run a loop's iterations in lock step, as copies of each statement: ``for i in 4 unrolled {S}``.

    Raises:
        CompileError: the iterations are not independent (accumulating is allowed).
    """
    return _with_kind(kernel, var, "unrolled")


def parallel(kernel: Kernel, var: str) -> Kernel:
    """Run a loop's iterations on several threads: ``for i in 4 {S}`` -> ``for i in 4 parallel {S}``.

    Raises:
        CompileError: the iterations are not independent, or they accumulate.
    """
    return _with_kind(kernel, var, "parallel")


def fuse_loops(kernel: Kernel, outer: str, inner: str) -> Kernel:
    """Collapse two loops of which the outer holds nothing but the inner. Always legal.

    Indices keep their meaning: the outer variable becomes ``f // n``, the inner ``f % n``, and where only ``n*i+j``
    occurs (after :func:`flatten_buffers`) just ``f``::

        for i in 4 { for j in 8 { S(i, j) } }   ->   for i_j in 32 { S(i_j // 8, i_j % 8) }

    Raises:
        CompileError: there is something beside the inner loop.
    """
    first, second = find(kernel, outer), find(kernel, inner)
    if len(first.body) != 1 or first.body[0] is not second:
        raise _refuse(kernel, f"fuse {outer} and {inner}", f"{inner} is not all that {outer} holds")
    return replace_loop(kernel, first, (fused(first, second),))


def fused(first: For, second: For) -> For:
    """The one loop that two perfectly nested loops are (see :func:`fuse_loops`)."""
    extent = second.var.extent
    var = Var(f"{first.var.name}_{second.var.name}", first.var.extent * extent)
    whole = Index.of(var)
    general = {first.var: whole // extent, second.var: whole % extent}

    def rename(index: Index) -> Index:
        step = index.coefficient(second.var)
        if is_flat(index, first.var, second.var):
            return index - Index.of(first.var) * (step * extent) - Index.of(second.var) * step + whole * step
        return index.substitute(general)

    return For(var, first.kind, map_indices(second.body, rename))


def is_flat(index: Index, first: Var, second: Var) -> bool:
    """Whether an index depends on two variables only through ``first * extent(second) + second``.

    >>> i, j = Var("i", 4), Var("j", 8)
    >>> is_flat(Index.of(i) * 8 + j + 1, i, j), is_flat(Index.of(j), i, j)
    (True, False)
    """
    return (
        index.is_affine_in(first)
        and index.is_affine_in(second)
        and index.coefficient(first) == second.extent * index.coefficient(second)
    )


# --- addresses -----------------------------------------------------------------------------------------------------


def flatten_buffers(kernel: Kernel) -> Kernel:
    """View every parameter as one axis: ``x: f32[4,8]`` and ``x[i, j]`` become ``x: f32[32]`` and ``x[8*i+j]``.

    Launches pass addresses, so they need not change.
    """
    shapes = {p.name: p.shape for p in kernel.params}

    def flat(stmt: Stmt) -> Stmt:
        if isinstance(stmt, (Load, Store)) and stmt.buffer in shapes:
            return replace(stmt, index=(row_major(stmt.index, shapes[stmt.buffer]),))
        if isinstance(stmt, (For, If)):
            return replace(stmt, body=tuple(map(flat, stmt.body)))
        return stmt

    params = tuple(replace(p, type=TensorType(p.dtype, (prod(p.shape),))) for p in kernel.params)
    return replace(kernel, params=params, body=tuple(map(flat, kernel.body)))


def collapse_nests(kernel: Kernel) -> tuple[Kernel, tuple[str, ...]]:
    """Collapse every pair of perfectly nested loops that only ever address memory as one.

    Returns:
        the kernel with flattened parameters, and what was collapsed; the same kernel where there is nothing to do.
    """
    notes: list[str] = []

    def walk(body: Body) -> Body:
        return tuple(visit(stmt) for stmt in body)

    def visit(stmt: Stmt) -> Stmt:
        if isinstance(stmt, If):
            return replace(stmt, body=walk(stmt.body))
        if not isinstance(stmt, For):
            return stmt
        stmt = For(stmt.var, stmt.kind, walk(stmt.body))
        while len(stmt.body) == 1 and isinstance(inner := stmt.body[0], For) and _one_address(stmt, inner):
            notes.append(f"collapsed {stmt.var} and {inner.var} into one loop of {stmt.var.extent * inner.var.extent}")
            stmt = fused(stmt, inner)
        return stmt

    flat = flatten_buffers(kernel)
    body = walk(flat.body)
    return (replace(flat, body=body), tuple(notes)) if notes else (kernel, ())


def _one_address(outer: For, inner: For) -> bool:
    if outer.kind != inner.kind or not outer.var.extent or not inner.var.extent:
        return False
    return all(is_flat(i, outer.var, inner.var) for i in indices_of(inner.body))


def indices_of(body: Iterable[Stmt]) -> list[Index]:
    """Every index expression in a block."""
    found: list[Index] = []
    for stmt in inner_statements(tuple(body)):
        match stmt:
            case Load() | Store():
                found += [*stmt.index, *(b.index for b in stmt.bounds)]
            case IndexValue(index=index):
                found.append(index)
            case If(bounds, _):
                found += [b.index for b in bounds]
    return found


def without_unit_loops(kernel: Kernel) -> Kernel:
    """Loops of no iterations go away, loops of one give way to their body (unless its names occur elsewhere, too)."""
    uses = Counter(_defined(kernel.body))

    def walk(body: Body) -> Body:
        result: list[Stmt] = []
        for stmt in body:
            if not isinstance(stmt, (For, If)):
                result.append(stmt)
            elif isinstance(stmt, If):
                result.append(replace(stmt, body=walk(stmt.body)))
            elif stmt.var.extent == 1 and all(uses[name] == 1 for name in _defined(stmt.body)):
                result += substitute(walk(stmt.body), {stmt.var: Index()})
            elif stmt.var.extent:
                result.append(replace(stmt, body=walk(stmt.body)))
        return tuple(result)

    return replace(kernel, body=walk(kernel.body))


def _defined(body: Body) -> list[str]:
    named = (Let, Load, IndexValue, Guard, Accumulator, ReadAccumulator)
    return [s.name for s in inner_statements(body) if isinstance(s, named)]


def buffer_of(kernel: Kernel) -> dict[str, Buffer]:
    """Parameters by name."""
    return {p.name: p for p in kernel.params}


def accumulators_in(body: Iterable[Stmt]) -> int:
    """How many accumulators a block declares, its inner blocks included."""
    return sum(isinstance(s, Accumulator) for s in inner_statements(tuple(body)))
