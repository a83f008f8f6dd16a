"""The verifier of the loop IR: kernels and programs enter, nothing leaves unless a rule is broken.

Checked: single assignment within a scope (blocks side by side may use one name); operand dtypes by the primitives'
rules; every address inside its buffer, by the ranges of loop variables and the bounds in force; stores only to what may
be written; accumulators (never across a parallel loop, running reads in serial loops only); no shadowed loop variables.
Invariant: a kernel that passes needs no checks at run time except its guards.

>>> from graphc.loops.parse import parse_kernel
>>> verify_kernel(parse_kernel('''kernel bad(in x: f32[4], out y: f32[4]) {
...   for i in 4 {
...     %0 = load x[i+1]
...     store y[i] = %0
...   }
... }'''))
Traceback (most recent call last):
    ...
graphc.errors.VerifyError: kernel bad: index i+1 of x takes 1..4, but the axis has 4 elements
    kernel bad(in x: f32[4], out y: f32[4]) {
      for i in 4 {
  -->   %0 = load x[i+1]
        store y[i] = %0
      }
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NoReturn, get_args

from graphc.errors import VerifyError
from graphc.loops.dependence import Accesses, independent
from graphc.loops.index import FloorDiv, Index, Mod, Value, Var
from graphc.loops.ir import (
    COMBINERS,
    Accumulate,
    Accumulator,
    Alloc,
    Barrier,
    Bound,
    Buffer,
    For,
    Guard,
    If,
    IndexValue,
    Kernel,
    Let,
    Lit,
    Load,
    LoopKind,
    LoopProgram,
    Operand,
    ReadAccumulator,
    Stmt,
    Store,
)
from graphc.loops.text import kernel_lines
from graphc.scalar import PRIMITIVES
from graphc.types import DType, bool_, int64

CONTEXT = 2
"""Lines shown before and after the statement that broke a rule."""


def verify_kernel(kernel: Kernel) -> None:
    """Check a kernel (rules in the module's docstring).

    Raises:
        VerifyError: names the kernel and the rule, and shows the statement among its neighbours.
    """
    _Verifier(kernel).run()


def verify_program(program: LoopProgram) -> None:
    """Check all kernels of a program and its launches: buffers exist, dtypes and sizes fit, nothing read-only is written.

    Raises:
        VerifyError: names the launch.
    """
    for kernel in program.kernels.values():
        verify_kernel(kernel)
    for slot in program.role("arena"):
        end = slot.offset + prod(slot.type.static_shape) * slot.type.dtype.itemsize
        if slot.offset % 64 or end > program.arena_size:
            raise VerifyError(
                f"program {program.name}: arena buffer {slot.name} lies at bytes {slot.offset}..{end}",
                notes=(f"the arena has {program.arena_size} bytes, offsets are multiples of 64",),
            )
    for launch in program.launches:
        kernel = _known_kernel(program, launch.kernel)
        if len(kernel.params) != len(launch.buffers):
            raise VerifyError(
                f"launch {launch.kernel}: {len(launch.buffers)} buffers for {len(kernel.params)} parameters"
            )
        for param, (name, offset) in zip(kernel.params, launch.placed(), strict=True):
            slot_ = program.buffers.get(name)
            if slot_ is None:
                raise VerifyError(f"launch {launch.kernel}: no buffer {name}")
            if launch.offsets:
                if slot_.type.dtype != param.dtype or not 0 <= offset <= slot_.type.nbytes - param.type.nbytes:
                    raise VerifyError(
                        f"launch {launch.kernel}: {name} is {slot_.type}, {param.name} wants {param.type} at byte {offset}"
                    )
            elif slot_.type.dtype != param.dtype or prod(slot_.type.static_shape) != prod(param.shape):
                raise VerifyError(f"launch {launch.kernel}: {name} is {slot_.type}, {param.name} wants {param.type}")
            if param.access != "in" and slot_.role in ("input", "constant"):
                raise VerifyError(f"launch {launch.kernel}: writes {slot_.role} {name} through {param.name}")


def _known_kernel(program: LoopProgram, name: str) -> Kernel:
    if name not in program.kernels:
        raise VerifyError(f"program {program.name}: launches {name}, which is none of its kernels")
    return program.kernels[name]


def index_range(index: Index, bounds: tuple[Bound, ...]) -> tuple[int, int]:
    """The smallest and largest value of an index where the bounds hold (an interval that may be wider than the truth).

    >>> o, i = Var("o", 3), Var("i", 8)
    >>> at = Index.of(o) * 8 + i
    >>> index_range(at + 1, ()), index_range(at + 1, (Bound(at, 20),))
    ((1, 24), (1, 20))
    >>> index_range(at * -2 + 38, (Bound(at, 20),))
    (0, 38)
    """
    low, high = index.const, index.const
    for atom, coef in index.terms:
        a, b = _atom_range(atom, bounds)
        low, high = low + min(a * coef, b * coef), high + max(a * coef, b * coef)
    for bound in bounds:  # index = factor * bound.index + rest, and 0 <= bound.index < extent
        for factor in _factors(index, bound.index):
            rest_low, rest_high = (index - bound.index * factor).bounds
            ends = 0, factor * (bound.extent - 1)
            low, high = max(low, rest_low + min(ends)), min(high, rest_high + max(ends))
    return low, high


def _factors(index: Index, bound: Index) -> set[int]:
    """How often a bound's index may be contained in another: the whole ratios of their coefficients."""
    coefficients = dict(index.terms)
    shared = ((coefficients[atom], coef) for atom, coef in bound.terms if atom in coefficients)
    return {whole // part for whole, part in shared if whole % part == 0} | {1}


def _atom_range(atom: Var | Value | FloorDiv | Mod, bounds: tuple[Bound, ...]) -> tuple[int, int]:
    match atom:
        case FloorDiv(base, divisor):
            low, high = index_range(base, bounds)
            return low // divisor, high // divisor
        case Mod(base, divisor):
            low, high = index_range(base, bounds)
            return (low % divisor, high % divisor) if low // divisor == high // divisor else (0, divisor - 1)
        case Var():
            return _var_range(atom, bounds)
    return atom.bounds


def _var_range(var: Var, bounds: tuple[Bound, ...]) -> tuple[int, int]:
    """The range of a loop variable where every bound that speaks of it alone holds."""
    low, high = var.bounds
    for bound in bounds:
        coef = bound.index.coefficient(var)
        if coef == 0 or bound.index.terms != ((var, coef),):
            continue
        a, b = -bound.index.const, bound.extent - 1 - bound.index.const  # a <= coef*var <= b
        if coef < 0:
            a, b, coef = -b, -a, -coef
        low, high = max(low, -(-a // coef)), min(high, b // coef)
    return low, high


@dataclass
class _Block:
    """An open block: what it defines, so that closing it takes that out of scope."""

    statements: Iterator[Stmt]
    opened_by: For | If | None
    names: list[str] = field(default_factory=list)
    accumulators: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.stmt: Stmt | None = None
        self.dtypes: dict[str, DType] = {}
        self.extents: dict[str, int] = {}  # guarded values
        self.assigned: set[str] = set()
        self.accumulators: dict[str, tuple[Accumulator, int]] = {}
        self.buffers: dict[str, Buffer] = {}
        self.written: set[str] = set()
        self.loops: list[For] = []
        self.bounds: tuple[Bound, ...] = ()
        self.blocks: list[_Block] = []

    def run(self) -> None:
        for param in self.kernel.params:
            if param.name in self.buffers:
                self.fail(f"parameter {param.name} is declared twice")
            self.buffers[param.name] = param
        self.blocks.append(_Block(iter(self.kernel.body), None))
        while self.blocks:
            stmt = next(self.blocks[-1].statements, None)
            if stmt is None:
                self.close(self.blocks.pop())
            else:
                self.stmt = stmt
                self.statement(stmt)

    def close(self, block: _Block) -> None:
        for name in block.names:
            self.dtypes.pop(name)
            self.extents.pop(name, None)
        for name in block.accumulators:
            self.accumulators.pop(name)
        for name in block.buffers:
            self.buffers.pop(name)
        if isinstance(block.opened_by, For):
            self.loops.pop()
        elif isinstance(block.opened_by, If):
            self.bounds = self.bounds[: -len(block.opened_by.bounds)]

    def fail(self, rule: str) -> NoReturn:
        lines = list(kernel_lines(self.kernel))
        at = next((n for n, (stmt, _) in enumerate(lines) if stmt is self.stmt and stmt is not None), 0)
        shown = lines[max(0, at - CONTEXT) : at + CONTEXT + 1]
        notes = tuple(("-->" + text[1:] if s is self.stmt and s else "  " + text) for s, text in shown)
        raise VerifyError(f"kernel {self.kernel.name}: {rule}", notes=notes)

    # --- statements ------------------------------------------------------------------------------------------------

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case Let():
                self.let(stmt)
            case Load():
                self.load(stmt)
            case IndexValue():
                self.check_index(stmt.index)
                self.define(stmt.name, stmt.dtype)
            case Guard():
                self.guard(stmt)
            case Store():
                self.store(stmt)
            case Accumulator():
                self.accumulator(stmt)
            case Accumulate():
                self.accumulate(stmt)
            case ReadAccumulator():
                declared, _ = self.known_accumulator(stmt.accumulator)
                self.same(declared.dtype, stmt.dtype, f"the value of %{stmt.accumulator}")
                self.define(stmt.name, stmt.dtype)
            case For():
                self.loop(stmt)
            case If(bounds, body):
                for bound in bounds:
                    self.check_index(bound.index)
                self.bounds += bounds
                self.blocks.append(_Block(iter(body), stmt))
            case Alloc(buffer):
                if buffer.name in self.buffers:
                    self.fail(f"buffer {buffer.name} is declared twice")
                self.buffers[buffer.name] = buffer
                self.blocks[-1].buffers.append(buffer.name)
            case Barrier():
                pass

    def define(self, name: str, dtype: DType) -> None:
        if name in self.dtypes or name in self.accumulators:
            self.fail(f"%{name} is assigned twice")
        self.assigned.add(name)
        self.dtypes[name] = dtype
        self.blocks[-1].names.append(name)

    def operand(self, operand: Operand) -> DType:
        if isinstance(operand, Lit):
            return operand.dtype
        if operand not in self.dtypes:
            self.fail(
                f"%{operand} is used out of its scope" if operand in self.assigned else f"%{operand} is not defined"
            )
        return self.dtypes[operand]

    def same(self, expected: DType, got: DType, what: str) -> None:
        if expected != got:
            self.fail(f"{what} is {expected}, not {got}")

    def let(self, stmt: Let) -> None:
        row = PRIMITIVES.get(stmt.primitive)
        if row is None:
            self.fail(f"{stmt.primitive} is no primitive")
        dtypes = [self.operand(a) for a in stmt.args]
        if len(dtypes) != row.arity:
            self.fail(f"{stmt.primitive} takes {row.arity} operands, not {len(dtypes)}")
        if row.signature == "select":
            self.same(bool_, dtypes[0], "the condition of where")
        values = dtypes[1:] if row.signature == "select" else dtypes
        for dtype in values:
            if dtype.kind not in row.kinds:
                self.fail(f"{stmt.primitive} is not defined on {dtype}")
            if dtype != values[0]:
                self.fail(f"{stmt.primitive}: operands are {values[0]} and {dtype}")
        if row.signature != "cast":
            self.same(row.result(*dtypes), stmt.dtype, f"the result of {stmt.primitive}")
        self.define(stmt.name, stmt.dtype)

    def load(self, stmt: Load) -> None:
        buffer = self.address(stmt)
        if buffer.access == "out" and buffer.space == "global" and stmt.buffer not in self.written:
            self.fail(f"{stmt.buffer} is read before anything is stored in it (declare it inout)")
        self.same(buffer.dtype, stmt.dtype, f"an element of {stmt.buffer}")
        if stmt.bounds and stmt.other is not None:
            self.same(buffer.dtype, stmt.other.dtype, "the element out of bounds")
        self.define(stmt.name, stmt.dtype)

    def guard(self, stmt: Guard) -> None:
        dtype = self.operand(stmt.value)
        if not dtype.is_integer:
            self.fail(f"a guard checks integers, not {dtype}")
        self.same(dtype, stmt.value_dtype, "the guarded value")
        self.same(int64, stmt.dtype, "the result of a guard")
        self.define(stmt.name, stmt.dtype)
        self.extents[stmt.name] = stmt.extent

    def store(self, stmt: Store) -> None:
        buffer = self.address(stmt)
        if buffer.space == "global" and buffer.access == "in":
            self.fail(f"{stmt.buffer} is read-only")
        self.same(buffer.dtype, self.operand(stmt.value), f"an element of {stmt.buffer}")
        self.written.add(stmt.buffer)

    def address(self, stmt: Load | Store) -> Buffer:
        buffer = self.buffers.get(stmt.buffer)
        if buffer is None:
            self.fail(f"{stmt.buffer} is no buffer in scope")
        if len(stmt.index) != len(buffer.shape):
            self.fail(f"{stmt.buffer} has {len(buffer.shape)} axes, not {len(stmt.index)}")
        for bound in stmt.bounds:
            self.check_index(bound.index)
        bounds = self.bounds + stmt.bounds
        dead = any(loop.var.extent == 0 for loop in self.loops)
        for index, extent in zip(stmt.index, buffer.shape, strict=True):
            self.check_index(index)
            low, high = index_range(index, bounds)
            if (low < 0 or high >= extent) and low <= high and not dead and not (extent == 0 and index.values):
                self.fail(f"index {index} of {stmt.buffer} takes {low}..{high}, but the axis has {extent} elements")
        return buffer

    def check_index(self, index: Index) -> None:
        scope = {loop.var.name: loop.var for loop in self.loops}
        for atom in index.atoms():
            if isinstance(atom, Var) and scope.get(atom.name) != atom:
                self.fail(f"index {index}: {atom.name} in {atom.extent} is not a loop around it")
            if isinstance(atom, Value) and self.extents.get(atom.name) != atom.extent:
                self.fail(f"index {index}: %{atom.name} is not guarded to be below {atom.extent}")

    def accumulator(self, stmt: Accumulator) -> None:
        if stmt.combiner not in COMBINERS:
            self.fail(f"{stmt.combiner} is no combiner")
        if stmt.name in self.dtypes or stmt.name in self.accumulators:
            self.fail(f"%{stmt.name} is assigned twice")
        self.assigned.add(stmt.name)
        self.accumulators[stmt.name] = (stmt, len(self.loops))
        self.blocks[-1].accumulators.append(stmt.name)

    def known_accumulator(self, name: str) -> tuple[Accumulator, int]:
        if name not in self.accumulators:
            self.fail(f"%{name} is no accumulator in scope")
        return self.accumulators[name]

    def accumulate(self, stmt: Accumulate) -> None:
        declared, depth = self.known_accumulator(stmt.accumulator)
        self.same(declared.dtype, self.operand(stmt.value), f"accumulator %{stmt.accumulator}")
        for loop in self.loops[depth:]:
            if loop.kind in ("parallel", "block"):  # over threads it is combined where it is read
                self.fail(f"%{stmt.accumulator} is accumulated across {loop.kind} loop {loop.var.name}")

    def loop(self, loop: For) -> None:
        if loop.kind not in get_args(LoopKind):
            self.fail(f"{loop.kind} is no kind of loop")
        if any(outer.var.name == loop.var.name for outer in self.loops):
            self.fail(f"loop variable {loop.var.name} hides that of an outer loop")
        if loop.kind == "parallel" and any(outer.kind in ("vector", "unrolled") for outer in self.loops):
            self.fail(f"parallel loop {loop.var.name} within a loop in lock step")
        if loop.kind in ("parallel", "vector", "unrolled") and not independent(
            loop, reductions=loop.kind != "parallel"
        ):
            self.loop_carried(loop)
        self.loops.append(loop)
        self.blocks.append(_Block(iter(loop.body), loop))

    def loop_carried(self, loop: For) -> None:
        """Say why a loop's iterations depend on one another; accumulating is told at the accumulate itself."""
        accesses = Accesses(loop.body)
        if accesses.running:
            name = min(accesses.running)
            self.fail(f"%{name} is read while {loop.kind} loop {loop.var.name} accumulates it (serial loops only)")
        for buffer in accesses.stores.keys() - accesses.local:
            if not accesses.apart(buffer, loop.var):
                self.fail(f"iterations of {loop.kind} loop {loop.var.name} may touch the same element of {buffer}")
