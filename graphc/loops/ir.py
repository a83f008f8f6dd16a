"""The loop IR: one fused kernel as loop nests over buffers, in single-assignment form.

What enters: a fused group of graph nodes (``passes/lower.py``). What leaves: kernels that a target prints (LLVM, CUDA) and
that :mod:`graphc.loops.interpreter` runs. Nothing here assumes one target. Grammar::

    program   = buffer* constant* kernel* launch*
    kernel    = "kernel" name "(" param ("," param)* ")" block
    param     = ("in" | "out" | "inout") name ":" type
    block     = "{" stmt* "}"
    stmt      = %v "=" primitive "(" operand,* ")"                          Let
              | %v "=" "load" buffer "[" index,* "]" ["if" bound,* "else" literal]     Load
              | %v "=" "index" index                                        IndexValue
              | %v "=" "guard" operand "<" extent "site" n                  Guard
              | "store" buffer "[" index,* "]" ("=" | "+=") operand ["streamed"] ["if" bound,*]     Store
              | "acc" %a ":" dtype "=" combiner                             Accumulator
              | %a combiner "=" operand                                     Accumulate
              | %v "=" "value" %a                                           ReadAccumulator
              | "for" i "in" extent [kind] block                            For
              | "if" bound,* block                                          If
              | "alloc" space buffer ":" type                               Alloc
              | "barrier"                                                   Barrier
    operand   = %v | literal;   bound = index "<" extent  (and index >= 0)

Example, the row sums of exp::

    kernel k0(in x: f32[32,100], out y: f32[32]) {
      for i in 32 parallel {
        acc %a: f32 = add
        for j in 100 vector {
          %0 = load x[i, j]
          %1 = exp(%0)
          %a add= %1
        }
        %2 = value %a
        store y[i] = %2
      }
    }

Semantics. Every ``%v`` is assigned once and is visible in its block and the blocks within. Loop kinds:

- ``serial``: iterations in order.
- ``parallel``: iterations are independent and may run on several threads; accumulators must not cross it.
- ``unrolled`` and ``vector``: iterations are independent and run *in lock step*, statement by statement, also through
  the serial loops inside them (unroll-and-jam; lanes). A serial reduction inside a vector loop therefore keeps one
  partial result a lane, and a register tile is two nested lock-step loops around a serial one.
- ``block`` and ``thread``: a grid of blocks and the threads in a block (lock step only at barriers). What stands outside
  of the thread loops is done once a block; an accumulator declared there is combined over the threads where it is read.

An Accumulator starts at its combiner's identity. Accumulates from any loop between its declaration and the statement are
combined in any order (reassociation is allowed in reductions only). ReadAccumulator inside the very loop that
accumulates is allowed in serial loops only: it is the running value (cumulative sums). Combiners: add, mul, maximum,
minimum, and, or. maximum and minimum propagate NaN.

Guard checks ``0 <= v < extent`` and yields an in-range i64 (0 where it is not); a violation is reported at run time
with the site's number, which leads to the user's line. Out-of-range addresses never occur otherwise: the verifier checks
every index against its buffer by ranges, and tails are bounded by ``if`` clauses.

Invariant: kernels hold static shapes only; buffers are C-contiguous; two kernels with equal :meth:`Kernel.key` are the
same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from graphc.loops.index import Index, Var
from graphc.types import DType, TensorType

LoopKind: TypeAlias = Literal["serial", "parallel", "vector", "unrolled", "block", "thread"]
COMBINERS: Mapping[str, Any] = {
    "add": np.add, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "and": np.bitwise_and, "or": np.bitwise_or,
}  # fmt: skip


def identity(combiner: str, dtype: DType) -> bool | int | float:
    """The neutral element of a combiner: what an empty reduction gives.

    >>> from graphc.types import float32
    >>> identity("maximum", float32)
    -inf
    """
    if dtype.kind == "bool":
        return combiner in ("and", "mul", "minimum")
    match combiner:
        case "add" | "or":
            return 0.0 if dtype.is_float else 0
        case "mul":
            return 1.0 if dtype.is_float else 1
        case "and":
            return -1 if dtype.kind == "int" else int(np.iinfo(dtype.numpy).max)
        case "maximum":
            return -np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)
        case _:
            return np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max)


@dataclass(frozen=True)
class Buffer:
    """A C-contiguous array that a kernel reads or writes. ``space`` is "global", or "shared"/"local" inside a kernel."""

    name: str
    type: TensorType
    access: Literal["in", "out", "inout"] = "in"
    space: Literal["global", "shared", "local"] = "global"

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.static_shape


@dataclass(frozen=True)
class Lit:
    """A literal operand."""

    value: bool | int | float
    dtype: DType

    def __eq__(self, other: object) -> bool:  # tells -0.0 from 0.0 and equates NaNs
        return isinstance(other, Lit) and self.dtype == other.dtype and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash((repr(self.value), self.dtype))


Operand: TypeAlias = str | Lit  # the name of a value, or a literal


@dataclass(frozen=True)
class Bound:
    """``0 <= index < extent``."""

    index: Index
    extent: int


@dataclass(frozen=True)
class Let:
    """``%name = primitive(args)``; for "cast" the result dtype says to what."""

    name: str
    primitive: str
    args: tuple[Operand, ...]
    dtype: DType
    nodes: tuple[Any, ...] = field(default=(), compare=False)  # graph nodes it computes (provenance)


@dataclass(frozen=True)
class Load:
    """``%name = load buffer[index]``, or ``other`` where a bound does not hold (then nothing is read)."""

    name: str
    buffer: str
    index: tuple[Index, ...]
    dtype: DType
    bounds: tuple[Bound, ...] = ()
    other: Lit | None = None
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class IndexValue:
    """``%name = index expr``: an index as an i64 value."""

    name: str
    index: Index
    dtype: DType
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Guard:
    """``%name = guard value < extent site n``: an integer value checked to be an index (negative counts from the end)."""

    name: str
    value: Operand
    value_dtype: DType
    extent: int
    site: int
    dtype: DType
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Store:
    """``store buffer[index] = value``; mode "add" accumulates into memory (iterations are then done in order).

    Mode "stream" is "set" for a value that is not read soon: a target may write around its caches.
    """

    buffer: str
    index: tuple[Index, ...]
    value: Operand
    mode: Literal["set", "add", "stream"] = "set"
    bounds: tuple[Bound, ...] = ()
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Accumulator:
    """``acc %name: dtype = combiner``."""

    name: str
    combiner: str
    dtype: DType
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Accumulate:
    """``%accumulator combiner= value``."""

    accumulator: str
    value: Operand
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ReadAccumulator:
    """``%name = value %accumulator``."""

    name: str
    accumulator: str
    dtype: DType
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class For:
    """``for var in extent kind { body }``; the extent is ``var.extent``."""

    var: Var
    kind: LoopKind
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class If:
    """``if bounds { body }``."""

    bounds: tuple[Bound, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Alloc:
    """A scratch buffer of the kernel: "shared" by the threads of a block, or "local" to an iteration."""

    buffer: Buffer


@dataclass(frozen=True)
class Barrier:
    """All threads of a block wait for each other."""


Stmt: TypeAlias = (
    Let | Load | IndexValue | Guard | Store | Accumulator | Accumulate | ReadAccumulator | For | If | Alloc | Barrier
)


@dataclass(frozen=True)
class Kernel:
    """One kernel: parameters and a body. ``nodes`` are the graph nodes that it computes (provenance, not identity)."""

    name: str
    params: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    nodes: tuple[Any, ...] = field(default=(), compare=False)

    def key(self) -> tuple[Any, ...]:
        """Structural identity: everything but the name and the provenance (sites are arguments of the launch)."""
        return (self.params, self.body)

    def statements(self) -> Iterator[tuple[Stmt, tuple[For, ...]]]:
        """Every statement with the loops around it, in order."""
        stack: list[tuple[Iterator[Stmt], tuple[For, ...]]] = [(iter(self.body), ())]
        while stack:
            rest, loops = stack[-1]
            stmt = next(rest, None)
            if stmt is None:
                stack.pop()
                continue
            yield stmt, loops
            if isinstance(stmt, For):
                stack.append((iter(stmt.body), (*loops, stmt)))
            elif isinstance(stmt, If):
                stack.append((iter(stmt.body), loops))


@dataclass(frozen=True)
class BufferSlot:
    """A buffer of the whole program.

    ``role``: "input", "parameter" (its Variable's array, may be written in place), "output" (allocated for the caller),
    "constant" (``data``), "arena" (at byte ``offset`` of the program's scratch memory).
    """

    name: str
    type: TensorType
    role: Literal["input", "parameter", "output", "constant", "arena"]
    offset: int = 0
    data: Any = field(default=None, compare=False)
    variable: Any = field(default=None, compare=False)
    nodes: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Launch:
    """Run a kernel on buffers, positionally. ``sites`` maps the kernel's guard sites to entries of ``Program.sites``.

    ``nodes`` are the graph nodes that this launch computes, by age, as the kernel's are: launches that share a kernel
    still lead back to lines of their own. ``offsets`` are bytes into each buffer (none: all 0): a step of a loop runs
    on its own part of a sequence, one launch a step. ``lowered`` is the kernel as it was first made for nodes of this
    shape: the same statements, whose nodes stand one by one for the launch's (:func:`passes.reuse.counterparts`).
    """

    kernel: str
    buffers: tuple[str, ...]
    site_base: int = 0
    nodes: tuple[Any, ...] = field(default=(), compare=False)
    offsets: tuple[int, ...] = ()
    lowered: Kernel | None = field(default=None, compare=False, repr=False)

    def placed(self) -> tuple[tuple[str, int], ...]:
        """Buffers with their offsets in bytes."""
        return tuple(zip(self.buffers, self.offsets or (0,) * len(self.buffers), strict=True))


@dataclass(frozen=True)
class LoopProgram:
    """A whole step: buffers, kernels (each once), launches in order.

    ``arena_size`` in bytes; every arena offset is a multiple of 64. ``sites[i]`` describes guard site i (the user's
    node and the axis's size) for error messages. ``status`` convention: targets pass one i64 status cell; a violated
    guard stores ``site_base + site + 1`` in it, and 0 means all went well.
    """

    name: str
    buffers: Mapping[str, BufferSlot]
    kernels: Mapping[str, Kernel]
    launches: tuple[Launch, ...]
    arena_size: int = 0
    sites: tuple[Any, ...] = ()

    def role(self, *roles: str) -> tuple[BufferSlot, ...]:
        """Buffers of the given roles, in order of declaration (the order of every calling convention)."""
        return tuple(b for b in self.buffers.values() if b.role in roles)
