"""Kernels and loop programs as text: what enters is loop IR, what leaves is the grammar of :mod:`graphc.loops.ir`.

:mod:`graphc.loops.parse` is the inverse. Invariant: parsing what is printed gives an equal kernel (provenance aside).
Beyond that grammar, a literal carries its dtype (``2.0:f32``), a cast names its target (``cast(%0) as f64``), and a
program lists its buffers by role.

>>> from graphc.loops.ir import Buffer, For, Kernel, Load, Store
>>> from graphc.loops.index import Index, Var
>>> from graphc.types import TensorType, float32
>>> i = Var("i", 4)
>>> at = (Index.of(i),)
>>> body = For(i, "serial", (Load("0", "x", at, float32), Store("y", at, "0")))
>>> print(print_kernel(Kernel("copy", (Buffer("x", TensorType(float32, (4,))),
...     Buffer("y", TensorType(float32, (4,)), "out")), (body,))))
kernel copy(in x: f32[4], out y: f32[4]) {
  for i in 4 {
    %0 = load x[i]
    store y[i] = %0
  }
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.loops.index import Index
from graphc.loops.ir import (
    Accumulate,
    Accumulator,
    Alloc,
    Barrier,
    Bound,
    Buffer,
    BufferSlot,
    For,
    Guard,
    If,
    IndexValue,
    Kernel,
    Launch,
    Let,
    Lit,
    Load,
    LoopProgram,
    Operand,
    ReadAccumulator,
    Stmt,
    Store,
)  # fmt: skip

CONSTANT_LIMIT = 16
"""Constants up to this many elements are printed with their data; larger ones as ``...``."""


def print_literal(literal: Lit) -> str:
    """``2.0:f32``, ``true:bool``, ``-inf:f64``."""
    value = literal.value.item() if isinstance(literal.value, np.generic) else literal.value
    if literal.dtype.kind == "bool":
        return f"{'true' if value else 'false'}:bool"
    return f"{float(value)!r}:{literal.dtype}" if literal.dtype.is_float else f"{int(value)}:{literal.dtype}"


def print_operand(operand: Operand) -> str:
    """``%name`` or a literal."""
    return print_literal(operand) if isinstance(operand, Lit) else f"%{operand}"


def print_bounds(bounds: tuple[Bound, ...]) -> str:
    """``i+j < 8, k < 3``."""
    return ", ".join(f"{b.index} < {b.extent}" for b in bounds)


def _indices(index: tuple[Index, ...]) -> str:
    return ", ".join(map(str, index))


def print_statement(stmt: Stmt) -> str:
    """The statement's own line; a loop or an ``if`` without its block."""
    match stmt:
        case Let():
            target = f" as {stmt.dtype}" if stmt.primitive == "cast" else ""
            return f"%{stmt.name} = {stmt.primitive}({', '.join(map(print_operand, stmt.args))}){target}"
        case Load():
            other = print_literal(stmt.other) if stmt.other is not None else "none"
            clause = f" if {print_bounds(stmt.bounds)} else {other}" if stmt.bounds else ""
            return f"%{stmt.name} = load {stmt.buffer}[{_indices(stmt.index)}]{clause}"
        case IndexValue():
            return f"%{stmt.name} = index {stmt.index}"
        case Guard():
            return f"%{stmt.name} = guard {print_operand(stmt.value)} < {stmt.extent} site {stmt.site}"
        case Store():
            sign = "+=" if stmt.mode == "add" else "="
            clause = " streamed" if stmt.mode == "stream" else ""
            clause += f" if {print_bounds(stmt.bounds)}" if stmt.bounds else ""
            return f"store {stmt.buffer}[{_indices(stmt.index)}] {sign} {print_operand(stmt.value)}{clause}"
        case Accumulator():
            return f"acc %{stmt.name}: {stmt.dtype} = {stmt.combiner}"
        case Accumulate(name, value):
            return f"%{name} combine= {print_operand(value)}"
        case ReadAccumulator():
            return f"%{stmt.name} = value %{stmt.accumulator}"
        case For(var, kind, _):
            return f"for {var.name} in {var.extent}" + ("" if kind == "serial" else f" {kind}")
        case If(bounds, _):
            return f"if {print_bounds(bounds)}"
        case Alloc(buffer):
            return f"alloc {buffer.space} {buffer.name}: {buffer.type}"
        case Barrier():
            return "barrier"
    raise AssertionError(f"not a statement: {stmt!r}")


def kernel_lines(kernel: Kernel) -> Iterator[tuple[Stmt | None, str]]:
    """Every line of a kernel's text with the statement it shows (None for the head and closing braces)."""
    params = ", ".join(_param(p) for p in kernel.params)
    yield None, f"kernel {kernel.name}({params}) {{"
    combiners: dict[str, str] = {}
    stack: list[Iterator[Stmt]] = [iter(kernel.body)]
    while stack:
        stmt = next(stack[-1], None)
        depth = "  " * len(stack)
        if stmt is None:
            stack.pop()
            yield None, "  " * len(stack) + "}"
            continue
        if isinstance(stmt, Accumulator):
            combiners[stmt.name] = stmt.combiner
        if isinstance(stmt, (For, If)):
            yield stmt, f"{depth}{print_statement(stmt)} {{"
            stack.append(iter(stmt.body))
        elif isinstance(stmt, Accumulate):
            yield (
                stmt,
                depth + print_statement(stmt).replace(" combine= ", f" {combiners.get(stmt.accumulator, '?')}= "),
            )
        else:
            yield stmt, depth + print_statement(stmt)


def _param(buffer: Buffer) -> str:
    return f"{buffer.access} {buffer.name}: {buffer.type}"


def print_kernel(kernel: Kernel) -> str:
    """A kernel in the grammar of :mod:`graphc.loops.ir` (example in the module's docstring)."""
    return "\n".join(line for _, line in kernel_lines(kernel))


def _slot(slot: BufferSlot) -> str:
    head = f"{slot.role} {slot.name}: {slot.type}"
    if slot.role == "arena":
        return f"{head} at {slot.offset}"
    if slot.role == "constant":
        return f"{head} = {_data(slot.data)}"
    return head


def _data(data: Any) -> str:
    array = np.asarray(data)
    if array.size > CONSTANT_LIMIT:
        return "..."
    texts = [str(v).lower() if isinstance(v, bool) else repr(v) for v in array.reshape(-1).tolist()]
    return "{" + ", ".join(texts) + "}"


def _launch(launch: Launch) -> str:
    site = f" site {launch.site_base}" if launch.site_base else ""
    given = ", ".join(f"{name} + {offset}" if offset else name for name, offset in launch.placed())
    return f"launch {launch.kernel}({given}){site}"


def print_program(program: LoopProgram) -> str:
    """A whole program: buffers by role, kernels (each once), launches in order.

    Data of constants beyond ``CONSTANT_LIMIT`` elements is elided as ``...``; sites are not printed (they lead to the
    user's lines, which are no part of the program's meaning).
    """
    lines = [f"program {program.name} arena {program.arena_size} {{"]
    lines += [f"  {_slot(slot)}" for slot in program.buffers.values()]
    for kernel in program.kernels.values():
        lines += [f"  {line}" for _, line in kernel_lines(kernel)]
    lines += [f"  {_launch(launch)}" for launch in program.launches]
    return "\n".join([*lines, "}"])
