"""Print a loop program as one JavaScript expression.

What enters: a :class:`LoopProgram` of plain (serial or parallel) loops. What leaves: text whose value is an object
``{buffers, run}``: ``buffers`` describes the arrays that a caller gives (name -> role, dtype, shape) and
``run(arrays)`` executes all launches on typed arrays by name and gives 0, or a violated guard's site plus 1. Invariant: the
text needs nothing from outside and names nothing globally; arena buffers are views of one ArrayBuffer, as planned. ::

    const program = eval(text);
    program.run({x: new Float32Array([1, 2]), "out.y": y});
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod

import numpy as np

from graphc.errors import CompileError
from graphc.loops.index import Index, row_major
from graphc.loops.ir import (
    Accumulate,
    Accumulator,
    Alloc,
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
    identity,
)
from graphc.targets.cuda.expressions import value_name
from graphc.targets.js import expressions as js
from graphc.types import DType


def program_source(program: LoopProgram) -> str:
    """The program as a JavaScript expression.

    Raises:
        CompileError: a kernel's loops are mapped to another target.
    """
    numbers = {name: n for n, name in enumerate(program.kernels)}
    kernels = "\n\n".join(_KernelPrinter(k, f"kernel{numbers[name]}").text() for name, k in program.kernels.items())
    given = {
        s.name: {"role": s.role, "dtype": s.type.dtype.numpy.name, "shape": list(s.type.static_shape)}
        for s in program.role("input", "parameter", "output")
    }
    lines = ["  const run = given => {", "    status[0] = 0;"]
    lines += [f"    {_launch(program, launch, numbers[launch.kernel])}" for launch in program.launches]
    lines += ["    return status[0];", "  };", f"  return {{buffers: {json.dumps(given)}, run}};"]
    constants = [
        f"  const constant{n} = {_constant(s)};" for n, s in enumerate(program.buffers.values()) if s.role == "constant"
    ]
    head = ['  "use strict";', f"  const arena = new ArrayBuffer({program.arena_size}), status = [0];", *constants]
    body = "\n".join([*head, js.helpers_used(kernels), kernels, *lines])
    return f"(() => {{\n{body}\n}})()\n"


def _constant(slot: BufferSlot) -> str:
    data = np.asarray(slot.data).reshape(-1)
    values = ", ".join(js.literal(Lit(value, slot.type.dtype)) for value in data.tolist())
    return f"new {js.ARRAYS[slot.type.dtype.short]}([{values}])"


def _launch(program: LoopProgram, launch: Launch, number: int) -> str:
    order = list(program.buffers)
    made = []
    for name, offset in launch.placed():
        slot = program.buffers[name]
        array = js.ARRAYS[slot.type.dtype.short]
        count = prod(slot.type.static_shape)
        if slot.role == "arena":
            rest = count - offset // slot.type.dtype.itemsize
            made.append(f"new {array}(arena, {slot.offset + offset}, {rest})")
            continue
        whole = f"constant{order.index(name)}" if slot.role == "constant" else f"given[{json.dumps(name)}]"
        made.append(f"{whole}.subarray({offset // slot.type.dtype.itemsize})" if offset else whole)
    return f"kernel{number}({', '.join([*made, str(launch.site_base)])});"


class _KernelPrinter:
    """Prints one kernel as a function of typed arrays and the number of its first guard site."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.buffers: dict[str, Buffer] = {p.name: p for p in kernel.params}
        self.dtypes: dict[str, DType] = {}
        self.accumulators: dict[str, Accumulator] = {}
        self.indices: set[str] = set()  # guarded values: numbers, also where their dtype is int64

    def text(self) -> str:
        params = ", ".join([*(self.array(p.name) for p in self.kernel.params), "sites"])
        lines = [f"  const {self.name} = ({params}) => {{"]
        stack: list[Iterator[Stmt]] = [iter(self.kernel.body)]
        while stack:
            pad = "  " * (len(stack) + 1)
            stmt = next(stack[-1], None)
            if stmt is None:
                stack.pop()
                lines.append("  " * (len(stack) + 1) + ("}" if stack else "};"))
            elif isinstance(stmt, (For, If)):
                lines.append(pad + self.opened(stmt))
                stack.append(iter(stmt.body))
            else:
                lines.append(pad + self.statement(stmt))
        return "\n".join(lines)

    def array(self, buffer: str) -> str:
        return f"$_{value_name(buffer)}"

    def opened(self, stmt: For | If) -> str:
        if isinstance(stmt, If):
            return f"if ({js.bounds_text(stmt.bounds)}) {{"
        if stmt.kind not in ("serial", "parallel"):
            raise CompileError(f"kernel {self.kernel.name}: a {stmt.kind} loop has no meaning in JavaScript")
        name = stmt.var.name
        return f"for (let {name} = 0; {name} < {stmt.var.extent}; {name}++) {{"

    def statement(self, stmt: Stmt) -> str:
        match stmt:
            case Let(name, primitive, args, dtype):
                made = js.primitive(primitive, [self.operand(a) for a in args], dtype, self.dtype(args[-1]))
                return self.define(name, dtype, made)
            case Load():
                return self.define(stmt.name, stmt.dtype, self.loaded(stmt))
            case IndexValue(name, index, dtype):
                text = js.index_text(index)
                return self.define(name, dtype, f"BigInt({text})" if dtype.short == "i64" else js.wrapped(f"({text})", dtype))
            case Guard(name, value, _, extent, site, dtype):
                self.indices.add(name)
                return self.define(
                    name, dtype, f"graphc_guard({self.operand(value)}, {extent}, status, sites + {site + 1})"
                )
            case Store():
                return self.stored(stmt)
            case Accumulator(name, combiner, dtype):
                self.accumulators[name] = stmt
                return f"let {value_name(name)} = {js.literal(Lit(identity(combiner, dtype), dtype))};"
            case Accumulate(name, value):
                acc, target = self.accumulators[name], value_name(name)
                return f"{target} = {js.combine(acc.combiner, acc.dtype, target, self.operand(value))};"
            case ReadAccumulator(name, accumulator, dtype):
                return self.define(name, dtype, value_name(accumulator))
            case Alloc(buffer):
                self.buffers[buffer.name] = buffer
                made = f"new {js.ARRAYS[buffer.dtype.short]}({prod(buffer.shape)})"
                return f"const {self.array(buffer.name)} = {made};"
        raise CompileError(f"kernel {self.kernel.name}: {type(stmt).__name__} has no meaning in JavaScript")

    def define(self, name: str, dtype: DType, expression: str) -> str:
        self.dtypes[name] = dtype
        return f"const {value_name(name)} = {expression};"

    def operand(self, operand: Operand) -> str:
        if isinstance(operand, Lit):
            return js.literal(operand)
        wide = operand in self.indices and self.dtypes[operand].short == "i64"
        return f"BigInt({value_name(operand)})" if wide else value_name(operand)

    def dtype(self, operand: Operand) -> DType:
        return operand.dtype if isinstance(operand, Lit) else self.dtypes[operand]

    def place(self, buffer: str, index: tuple[Index, ...]) -> str:
        return f"{self.array(buffer)}[{js.index_text(row_major(index, self.buffers[buffer].shape))}]"

    def loaded(self, stmt: Load) -> str:
        other = js.literal(stmt.other if stmt.other is not None else Lit(0, stmt.dtype))
        if prod(self.buffers[stmt.buffer].shape) == 0:
            return other  # nothing is there to read: only a violated guard comes here
        place = self.place(stmt.buffer, stmt.index)
        return f"{js.bounds_text(stmt.bounds)} ? {place} : {other}" if stmt.bounds else place

    def stored(self, stmt: Store) -> str:
        buffer = self.buffers[stmt.buffer]
        if prod(buffer.shape) == 0:
            return ";  // the buffer is empty"
        place, value = self.place(stmt.buffer, stmt.index), self.operand(stmt.value)
        if stmt.mode == "add":
            value = js.combine("add", buffer.dtype, place, value)
        return f"if ({js.bounds_text(stmt.bounds)}) {place} = {value};" if stmt.bounds else f"{place} = {value};"
