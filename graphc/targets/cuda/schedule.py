"""Map plain loop nests to a grid of blocks and the threads of a block: loop IR in, loop IR out.

What enters: a :class:`LoopProgram` of serial nests as ``passes/lower.py`` makes them. What leaves: an equal program whose
kernels begin with ``block`` loops and hold ``thread`` loops. Invariant: within a kernel, what one thread stores and
another loads lies on two sides of a barrier; blocks share nothing. Three mappings:

- **elements**: one thread an iteration of the outer independent loops, everything inside in order (pointwise chains;
  reductions along a strided axis, where neighbouring threads read neighbouring elements);
- **rows**: one block an iteration of the outer loops; inner loops are dealt out to the block's threads, and an
  accumulator that is declared outside a thread loop is combined over the block where it is read (softmax, sums);
- **tiles**: :mod:`graphc.targets.cuda.tiled_matmul`, for contractions.

A kernel of several nests in a row (a fill, then a copy into its place) becomes several launches, because only a launch's
end orders all blocks. ::

    for i in 70 { store y[i] }   ->   for bx in 3 block { for tx in 32 thread { if 32*bx+tx < 70 { store y[32*bx+tx] }}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from graphc.loops.dependence import independent, inner_statements
from graphc.loops.index import Index, Var
from graphc.loops.ir import (
    Accumulate,
    Accumulator,
    Barrier,
    Buffer,
    For,
    If,
    Kernel,
    Load,
    LoopProgram,
    ReadAccumulator,
    Stmt,
    Store,
)
from graphc.targets.cuda.statements import Pure, flattened, needed, stride, substituted, used_values
from graphc.targets.cuda.tiled_matmul import tiled_matmul

WARP = 32
ELEMENT_THREADS = 256
ROW_THREADS = 256
ONE_BLOCK_THREADS = 1024
SHORT_ROW = 32  # a reduction shorter than a warp is not worth a block's barriers


def schedule_for_cuda(program: LoopProgram) -> LoopProgram:
    """The program with every kernel mapped to blocks and threads; launches of empty nests vanish.

    Example: see the module's docstring. Raises nothing: a nest that fits no mapping runs in one thread.
    """
    aliases = _aliases(program)
    parts: dict[str, tuple[Kernel, ...]] = {
        name: schedule_kernel(kernel, aliases[name]) for name, kernel in program.kernels.items()
    }
    kernels = {part.name: part for made in parts.values() for part in made}
    launches = tuple(replace(launch, kernel=part.name) for launch in program.launches for part in parts[launch.kernel])
    return replace(program, kernels=kernels, launches=launches)


def schedule_kernel(kernel: Kernel, aliases: Mapping[str, str] | None = None) -> tuple[Kernel, ...]:
    """One mapped kernel for each nest that must be launched on its own; none if nothing is ever stored.

    ``aliases`` gives one name to parameters that a launch may bind to the same memory.
    """
    same = dict(aliases or {p.name: p.name for p in kernel.params})
    shapes = {p.name: p for p in kernel.params}
    parts = [mapped for nest in _split(kernel, same) if (mapped := _map_nest(nest, shapes, same))]
    written: set[str] = set()
    result = []
    for number, body in enumerate(parts):
        name = kernel.name if number == 0 else f"{kernel.name}_part{number + 1}"
        params = tuple(replace(p, access="inout") if p.name in written else p for p in kernel.params)
        written |= {s.buffer for s in inner_statements(body) if isinstance(s, Store)}
        result.append(replace(kernel, name=name, params=params, body=body))
    return tuple(result)


def _aliases(program: LoopProgram) -> dict[str, dict[str, str]]:
    """For each kernel, parameter -> the first parameter that some launch binds to the same buffer."""
    result = {name: {p.name: p.name for p in kernel.params} for name, kernel in program.kernels.items()}
    for launch in program.launches:
        first: dict[str, str] = {}
        names = result[launch.kernel]
        for param, buffer in zip(program.kernels[launch.kernel].params, launch.buffers, strict=True):
            names[param.name] = names[first.setdefault(buffer, param.name)]
    return result


# ---- nests that need a launch of their own -------------------------------------------------------------------------


def _split(kernel: Kernel, aliases: Mapping[str, str]) -> list[tuple[Stmt, ...]]:
    """The kernel's top-level nests, each with the values it uses; all in one where they are tied together.

    A value loaded before a nest is loaded again in each nest that uses it, which is right only if no earlier nest
    overwrites it; an accumulator ties everything that it spans together.
    """
    body = kernel.body
    roots = [s for s in body if not isinstance(s, Pure)]
    tied = any(isinstance(s, (Accumulator, Accumulate, ReadAccumulator)) for s in roots)
    if tied or not any(isinstance(s, For) for s in roots):
        return [body] if roots else []
    segments = []
    written: set[str] = set()
    for root in roots:
        values = {v for s in inner_statements((root,)) for v in used_values(s)}
        before = needed(values, body[: body.index(root)])
        if any(isinstance(s, Load) and aliases[s.buffer] in written for s in before):
            return [body]
        segments.append((*before, root))
        written |= {aliases[s.buffer] for s in inner_statements((root,)) if isinstance(s, Store)}
    return segments


@dataclass(frozen=True)
class Nest:
    """Independent outer loops, the pure statements on the way in, and the body that is run for each iteration."""

    loops: tuple[Var, ...]
    prefix: tuple[Stmt, ...]
    body: tuple[Stmt, ...]

    @property
    def size(self) -> int:
        return prod(v.extent for v in self.loops)


def peel(body: Sequence[Stmt]) -> Nest:
    """Strip independent loops from the outside for as long as nothing but pure statements stands beside them."""
    loops: list[Var] = []
    prefix: list[Stmt] = []
    while body and isinstance(last := body[-1], For) and independent(last):
        beside = body[:-1]
        if not all(isinstance(s, Pure) for s in beside):
            break
        prefix += beside
        loops.append(last.var)
        body = last.body
    return Nest(tuple(loops), tuple(prefix), tuple(body))


def _map_nest(
    body: tuple[Stmt, ...], shapes: Mapping[str, Buffer], aliases: Mapping[str, str]
) -> tuple[Stmt, ...] | None:
    nest = peel(body)
    if nest.size == 0 or not any(isinstance(s, Store) for s in inner_statements(body)):
        return None
    tiled = tiled_matmul(nest.loops, nest.prefix, nest.body, shapes)
    if tiled is not None:
        return tiled
    return map_rows(nest, aliases) if _rows_are_better(nest, shapes) else map_elements(nest)


def _rows_are_better(nest: Nest, shapes: Mapping[str, Buffer]) -> bool:
    """Whether a block an outer iteration beats a thread: long inner loops along which memory is contiguous."""
    inner_loops = [s for s in inner_statements(nest.body) if isinstance(s, For)]
    if not inner_loops:
        return False
    if not nest.loops:
        return True
    if max(_work(s) for s in nest.body if isinstance(s, For)) < SHORT_ROW:
        return False
    loads = [s for loop in inner_loops for s in loop.body if isinstance(s, Load)]
    inward = sum(any(stride(s, shapes, loop.var) == 1 for loop in inner_loops) for s in loads)
    outward = sum(stride(s, shapes, nest.loops[-1]) == 1 for s in loads)
    return inward > outward


def _work(loop: For) -> int:
    """Iterations of a loop and of the largest loop within it."""
    total, body = loop.var.extent, loop.body
    while deeper := [s for s in body if isinstance(s, For)]:
        largest = max(deeper, key=lambda s: s.var.extent)
        total, body = total * largest.var.extent, largest.body
    return total


def _threads(wanted: int, most: int) -> int:
    """A whole number of warps."""
    return max(WARP, min(most, -(-wanted // WARP) * WARP))


# ---- one thread an element -----------------------------------------------------------------------------------------


def map_elements(nest: Nest) -> tuple[Stmt, ...]:
    """One thread an iteration of the outer loops."""
    threads = _threads(nest.size, ELEMENT_THREADS)
    block, thread = Var("bx", -(-nest.size // threads)), Var("tx", threads)
    mapping, bounds = flattened(Index.of(block) * threads + thread, nest.loops)
    body = substituted((*nest.prefix, *nest.body), mapping)
    if bounds:
        body = (If(bounds, body),)
    return (For(block, "block", (For(thread, "thread", body),)),)


# ---- one block a row -----------------------------------------------------------------------------------------------


def map_rows(nest: Nest, aliases: Mapping[str, str]) -> tuple[Stmt, ...]:
    """One block an iteration of the outer loops; inner loops are dealt out to its threads."""
    rows = max(nest.size, 1)
    work = max((_work(s) for s in nest.body if isinstance(s, For)), default=1)
    threads = _threads(work, ROW_THREADS if rows > 1 else ONE_BLOCK_THREADS)
    block = Var("bx", rows)
    mapping, _ = flattened(Index.of(block), nest.loops)
    body = substituted((*nest.prefix, *nest.body), mapping)
    dealer = _Dealer(threads, aliases)
    return (For(block, "block", dealer.block(body)),)


class _Dealer:
    """Turns the inner loops of a block's body into thread loops, with barriers where threads meet in memory."""

    def __init__(self, threads: int, aliases: Mapping[str, str]) -> None:
        self.threads = threads
        self.aliases = aliases
        self.count = 0

    def block(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        return tuple(self.with_barriers([self.statement(s) for s in body]))

    def statement(self, stmt: Stmt) -> Stmt:
        if not isinstance(stmt, For):
            return stmt
        if independent(stmt, reductions=True):
            return self.deal(stmt)
        if any(isinstance(s, For) for s in stmt.body):  # in order, each iteration by all threads
            barrier = (Barrier(),) if any(isinstance(s, Store) for s in inner_statements(stmt.body)) else ()
            return replace(stmt, body=(*self.block(stmt.body), *barrier))
        return For(Var("tx", 1), "thread", (stmt,))

    def deal(self, loop: For) -> Stmt:
        """Flatten the loop and the perfect nest within it, and give thread t the iterations t, t + threads, ..."""
        loops, body = [loop.var], loop.body
        prefix: list[Stmt] = []
        while body and isinstance(last := body[-1], For) and independent(last, reductions=True):
            if not all(isinstance(s, Pure) for s in body[:-1]):
                break
            prefix += body[:-1]
            loops.append(last.var)
            body = last.body
        total = prod(v.extent for v in loops)
        thread, turn = Var("tx", self.threads), Var(f"n{self.count}", -(-total // self.threads))
        flat = Index.of(thread) if turn.extent == 1 else Index.of(turn) * self.threads + thread
        mapping, bounds = flattened(flat, loops)
        made = substituted((*prefix, *body), mapping)
        if bounds:
            made = (If(bounds, made),)
        if turn.extent == 1:
            return For(thread, "thread", made)
        self.count += 1
        return For(thread, "thread", (For(turn, "serial", made),))

    def with_barriers(self, body: Sequence[Stmt]) -> Iterator[Stmt]:
        """A barrier before each statement that meets an earlier one in memory, one of the two storing."""
        loaded: set[str] = set()
        stored: set[str] = set()
        for stmt in body:
            loads = {self.aliases.get(s.buffer, s.buffer) for s in inner_statements((stmt,)) if isinstance(s, Load)}
            stores = {self.aliases.get(s.buffer, s.buffer) for s in inner_statements((stmt,)) if isinstance(s, Store)}
            if loads & stored or stores & (loaded | stored):
                yield Barrier()
                loaded, stored = set(), set()
            loaded |= loads
            stored |= stores
            yield stmt
