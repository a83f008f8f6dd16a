"""In place: a result takes the memory of an operand that is read for the last time.

What enters: a lowered :class:`LoopProgram` without a memory plan. What leaves: the same, where a kernel writes over an intermediate that
nobody needs after it: one ``inout`` parameter instead of one that is read and one that is written. Invariant: no element is read after
it was written over; a launch's other operands are untouched. ::

    kernel k(in b0: f32[n], out b1: f32[n]) {            kernel k_inplace(inout b0: f32[n]) {
      for i { %0 = load b0[i]; store b1[i] = exp(%0) }  ->  for i { %0 = load b0[i]; store b0[i] = exp(%0) }
    launch k(t1, t2)                                     launch k_inplace(t1)            and t2 is t1 from here on

It makes the arena smaller, and a large kernel faster: the line that it writes is in the cache already. Products are left alone: their
schedule combines an element in several places. Source: Sethi, Ullman (1970) reuse a register so; XLA and TVM call it buffer sharing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.ir import Node
from graphc.loops.dependence import Accesses, inner_statements
from graphc.loops.ir import Alloc, For, If, Kernel, Launch, Load, LoopProgram, Stmt, Store
from graphc.ops.declare import Contraction, Template
from passes.memory import lifetimes

LARGE = 1 << 14  # bytes of a result from which on its memory matters


def in_place(program: LoopProgram) -> LoopProgram:
    """Let results take the place of dying operands; the same program if there are none."""
    build = _Builder(program)
    launches = tuple(build.launch(number, launch) for number, launch in enumerate(program.launches))
    if not build.storage:
        return program
    used = {launch.kernel for launch in launches}
    kernels = {name: kernel for name, kernel in {**program.kernels, **build.made}.items() if name in used}
    buffers = {name: slot for name, slot in program.buffers.items() if name not in build.storage}
    for name, place in build.storage.items():
        buffers[place] = replace(buffers[place], nodes=(*buffers[place].nodes, *program.buffers[name].nodes))
    return replace(program, buffers=buffers, kernels=kernels, launches=launches)


class _Builder:
    """Walks the launches in order."""

    def __init__(self, program: LoopProgram) -> None:
        self.program = program
        self.lives = {life.slot.name: life for life in lifetimes(program)}
        self.storage: dict[str, str] = {}  # result -> the buffer whose memory it has
        self.made: dict[str, Kernel] = {}
        self._merged: dict[tuple[str, str, str], Kernel | None] = {}

    def launch(self, number: int, launch: Launch) -> Launch:
        """The launch on the memory that its buffers have by now, with results in the place of what dies here."""
        if not any(launch.offsets) and not any(
            isinstance(n.op.lowering, (Contraction, Template)) for n in launch.nodes if isinstance(n, Node)
        ):
            for name in dict.fromkeys(launch.buffers):
                life = self.lives.get(name)
                if life is not None and life.first == number and life.slot.type.nbytes >= LARGE:
                    launch = self._over_an_operand(number, launch, name)
        return replace(launch, buffers=tuple(self.storage.get(b, b) for b in launch.buffers))

    def _over_an_operand(self, number: int, launch: Launch, result: str) -> Launch:
        kernel = self.made.get(launch.kernel) or self.program.kernels[launch.kernel]
        (out,) = (p for p, b in zip(kernel.params, launch.buffers, strict=True) if b == result)
        for param, name in zip(kernel.params, launch.buffers, strict=True):
            life = self.lives.get(name)
            if (
                life is None
                or life.last != number
                or life.first == number
                or param.access != "in"
                or param.type != out.type
            ):
                continue
            merged = self._merge(kernel, param.name, out.name)
            if merged is not None:
                self.storage[result] = self.storage.get(name, name)
                buffers = tuple(b for p, b in zip(kernel.params, launch.buffers, strict=True) if p is not out)
                return replace(launch, kernel=merged.name, buffers=buffers, offsets=())
        return launch

    def _merge(self, kernel: Kernel, read: str, written: str) -> Kernel | None:
        """The kernel with one parameter for both, made once; None where it would read what it has written."""
        key = (kernel.name, read, written)
        if key not in self._merged:
            found = merged(kernel, read, written)
            if found is not None:
                taken = self.made.keys() | self.program.kernels.keys()
                names = (f"{kernel.name}_inplace{n or ''}" for n in range(len(taken) + 1))
                found = replace(found, name=next(n for n in names if n not in taken))
                self.made[found.name] = found
            self._merged[key] = found
        return self._merged[key]


def merged(kernel: Kernel, read: str, written: str) -> Kernel | None:
    """The kernel that reads and writes one buffer instead of two; None unless every element is read before it is written.

    Args:
        kernel: plain nests. read, written: parameters of one type, "in" and "out".
    """
    inner = list(inner_statements(kernel.body))
    stores = [s for s in inner if isinstance(s, Store) and s.buffer == written]
    again = any(isinstance(s, Load) and s.buffer == written for s in inner)
    if len(stores) != 1 or stores[0].mode != "set" or again or any(isinstance(s, Alloc) for s in inner):
        return None
    body = renamed(kernel.body, written, read)
    if not _reads_first(body, read):
        return None
    params = tuple(replace(p, access="inout") if p.name == read else p for p in kernel.params if p.name != written)
    return replace(kernel, params=params, body=body)


def _reads_first(body: Sequence[Stmt], buffer: str) -> bool:
    """Whether nothing in a block reads an element of ``buffer`` after the block's one store has written it."""
    while True:
        at = next(k for k, stmt in enumerate(body) if _touches(stmt, buffer, Store))
        if any(_touches(stmt, buffer, Load) for stmt in body[at + 1 :]):
            return False
        stmt = body[at]
        if not _touches(stmt, buffer, Load):
            return True
        if isinstance(stmt, For) and not Accesses(stmt.body).apart(buffer, stmt.var):
            return False
        assert isinstance(stmt, (For, If))
        body = stmt.body


def _touches(stmt: Stmt, buffer: str, kind: type[Load] | type[Store]) -> bool:
    return any(isinstance(s, kind) and s.buffer == buffer for s in inner_statements((stmt,)))


def renamed(body: Sequence[Stmt], old: str, new: str) -> tuple[Stmt, ...]:
    """A block with another name for a buffer."""
    result: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, (For, If)):
            result.append(replace(stmt, body=renamed(stmt.body, old, new)))
        elif isinstance(stmt, (Load, Store)) and stmt.buffer == old:
            result.append(replace(stmt, buffer=new))
        else:
            result.append(stmt)
    return tuple(result)
