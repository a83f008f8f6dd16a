"""Run kernels and loop programs on NumPy arrays: the meaning of the loop IR, and the oracle of its targets.

What enters: a :class:`~graphc.loops.ir.Kernel` or :class:`~graphc.loops.ir.LoopProgram` and arrays. What leaves: the
arrays that it writes. Two orders give one meaning:

- ``"sequential"``: every loop iteration by iteration. Plain, slow, obviously right.
- ``"lanes"``: a loop whose iterations are independent becomes an axis of the NumPy arrays, so that one statement is
  done for all of its iterations at once (single program, multiple data). A value defined at loop depth d is an array
  of d axes, each of the loop's extent or 1 where it does not depend on the loop. ``if`` and bounds are masks; an
  accumulate reduces the axes between the accumulator and the statement; loops that carry something from one iteration
  to the next (running sums, memory written and read back) are run in order. A nest too large for memory is cut into
  ranges of its outermost loop.

Invariant: memory that nobody has written is poison (0xFF bytes: NaN as floats), so a missing store shows; an address
outside of its buffer is a :class:`~graphc.errors.VerifyError`, never a wrapped index.

>>> from graphc.loops.parse import parse_kernel
>>> kernel = parse_kernel('''kernel sums(in x: f32[2,3], out y: f32[2]) {
...   for i in 2 {
...     acc %a: f32 = add
...     for j in 3 {
...       %0 = load x[i, j]
...       %a add= %0
...     }
...     %1 = value %a
...     store y[i] = %1
...   }
... }''')
>>> run_kernel(kernel, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})["y"]
array([ 3., 12.], dtype=float32)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from graphc.errors import IndexRangeError, InputError, VerifyError
from graphc.loops.dependence import carries, inner_statements
from graphc.loops.index import Index, Value, Var
from graphc.loops.ir import (
    COMBINERS,
    Accumulate,
    Accumulator,
    Alloc,
    Barrier,
    Bound,
    For,
    Guard,
    If,
    IndexValue,
    Kernel,
    Let,
    Lit,
    Load,
    LoopProgram,
    Operand,
    ReadAccumulator,
    Stmt,
    Store,
    identity,
)  # fmt: skip
from graphc.loops.text import print_statement
from graphc.scalar import PRIMITIVES, cast
from graphc.types import as_dtype

Array = np.ndarray[Any, np.dtype[Any]]
Order = Literal["lanes", "sequential"]
LANE_LIMIT = 1 << 22
"""A nest with more iterations than this is cut along its outermost loop."""
POISON = 0xFF


def poison(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array of poison: NaN for floats, -1 for signed integers.

    >>> poison((2,), np.dtype("float32"))
    array([nan, nan], dtype=float32)
    """
    return np.full(prod(shape) * dtype.itemsize, POISON, np.uint8).view(dtype).reshape(shape)


def run_kernel(
    kernel: Kernel, arrays: Mapping[str, Array], *, order: Order = "lanes", lane_limit: int = LANE_LIMIT
) -> dict[str, Array]:
    """Run one kernel; arrays of ``inout`` parameters are copied first, so nothing of the caller's is written.

    Args:
        arrays: an array for every ``in`` and ``inout`` parameter, with its dtype and number of elements.
        order: see the module's docstring.

    Returns:
        The arrays of the ``out`` and ``inout`` parameters, by name, of the parameters' shapes.

    Raises:
        IndexRangeError: a guard was violated.
        InputError: an array is missing or does not fit its parameter.
    """
    memory: dict[str, Array] = {}
    for param in kernel.params:
        if param.access == "out":
            memory[param.name] = poison(param.shape, param.dtype.numpy)
            continue
        if param.name not in arrays:
            raise InputError(f"kernel {kernel.name}: no array for {param.name}: {param.type}")
        array = np.asarray(arrays[param.name])
        if array.dtype != param.dtype.numpy or array.size != prod(param.shape):
            raise InputError(
                f"kernel {kernel.name}: {param.name} is {param.type}, got {array.dtype}{list(array.shape)}"
            )
        memory[param.name] = (
            array.reshape(param.shape).copy() if param.access == "inout" else array.reshape(param.shape)
        )
    status = execute(kernel, memory, order=order, lane_limit=lane_limit)
    if status:
        raise IndexRangeError(f"kernel {kernel.name}: guard of site {status - 1} is violated")
    return {p.name: memory[p.name] for p in kernel.params if p.access != "in"}


def run_program(
    program: LoopProgram, arrays: Mapping[str, Array], *, order: Order = "lanes"
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run a whole program on arrays for its inputs and parameters.

    Parameters are copied first. The arena is one array of bytes and every arena buffer a view at its planned offset,
    so that two live buffers that share memory show.

    Returns:
        ``(outputs, parameters)``, both by buffer name; the parameters hold the values after the updates.

    Raises:
        IndexRangeError: a run-time index was out of its axis; names the user's line where the program knows it.
        InputError: an array is missing or does not fit.
    """
    arena = np.full(program.arena_size, POISON, np.uint8)
    memory: dict[str, Array] = {}
    for name, slot in program.buffers.items():
        shape, dtype = slot.type.static_shape, slot.type.dtype.numpy
        match slot.role:
            case "output":
                memory[name] = poison(shape, dtype)
            case "arena":
                memory[name] = _arena_view(program, arena, name)
            case "constant":
                memory[name] = np.ascontiguousarray(slot.data, dtype).reshape(shape)
            case _:
                memory[name] = _given(arrays, name, shape, dtype).copy()
    for launch in program.launches:
        kernel = program.kernels[launch.kernel]
        views = {
            p.name: _part(memory[b], offset, p.shape) for p, (b, offset) in zip(kernel.params, launch.placed(), strict=True)
        }  # C-contiguous: views, never copies
        status = execute(kernel, views, order=order)
        if status:
            raise _violation(program, launch.site_base + status - 1)
    return (
        {s.name: memory[s.name] for s in program.role("output")},
        {s.name: memory[s.name] for s in program.role("parameter")},
    )


def _part(buffer: Array, offset: int, shape: tuple[int, ...]) -> Array:
    """The part of a buffer that a launch runs on, as a view."""
    first = offset // buffer.itemsize
    return buffer.reshape(-1)[first : first + math.prod(shape)].reshape(shape)


def _arena_view(program: LoopProgram, arena: Array, name: str) -> Array:
    slot = program.buffers[name]
    shape, dtype = slot.type.static_shape, slot.type.dtype.numpy
    end = slot.offset + prod(shape) * dtype.itemsize
    if slot.offset % 64 or end > program.arena_size:
        raise VerifyError(
            f"buffer {name}: bytes {slot.offset}..{end} of an arena of {program.arena_size}, aligned to 64"
        )
    return arena[slot.offset : end].view(dtype).reshape(shape)


def _given(arrays: Mapping[str, Array], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if name not in arrays:
        raise InputError(f"no array for {name}")
    array = np.ascontiguousarray(arrays[name])
    if array.dtype != dtype or array.size != prod(shape):
        raise InputError(f"{name}: expected {dtype}{list(shape)}, got {array.dtype}{list(array.shape)}")
    return array.reshape(shape)


def _violation(program: LoopProgram, number: int) -> IndexRangeError:
    if number >= len(program.sites):
        return IndexRangeError(f"an index is out of its axis (site {number})")
    site = program.sites[number]
    message = getattr(site, "message", None)
    return IndexRangeError(message() if callable(message) else str(site), source=getattr(site, "source", None))


def execute(kernel: Kernel, memory: dict[str, Array], *, order: Order = "lanes", lane_limit: int = LANE_LIMIT) -> int:
    """Run a kernel on its parameters' arrays in place and return the status: 0, or the violated site + 1."""
    machine = _Machine(memory, order, lane_limit)
    machine.block(kernel.body)
    return machine.status


@dataclass
class _Cell:
    """An accumulator's state: one element for each lane at its declaration."""

    combiner: str
    array: Array
    depth: int


class _Machine:
    """The state of a run: memory, values, the lanes (one axis a vectorised loop) and the mask over them."""

    def __init__(self, memory: dict[str, Array], order: Order, lane_limit: int) -> None:
        self.memory = memory
        self.order = order
        self.lane_limit = lane_limit
        self.values: dict[str, Array] = {}
        self.vars: dict[str, Any] = {}  # arrays over the lanes, or ints in loops run in order
        self.cells: dict[str, _Cell] = {}
        self.scratch: dict[str, int] = {}  # kernel-local buffers -> number of leading lane axes
        self.lanes: tuple[int, ...] = ()
        self.mask: Array | None = None
        self.status = 0
        self._ordered: dict[int, bool] = {}
        self._size: dict[int, int] = {}

    # --- control ---------------------------------------------------------------------------------------------------

    def block(self, body: Iterable[Stmt]) -> None:
        for stmt in body:
            match stmt:
                case For():
                    self.loop(stmt)
                case If(bounds, inner):
                    saved, self.mask = self.mask, self.masked(bounds)
                    self.block(inner)
                    self.mask = saved
                case _:
                    self.statement(stmt)

    def loop(self, loop: For) -> None:
        extent = loop.var.extent
        if extent == 0:
            return
        if self.ordered(loop):
            for i in range(extent):
                self.vars[loop.var.name] = i
                self.block(loop.body)
            return
        each = prod(self.lanes) * self.size(loop.body)
        step = extent if loop.kind == "thread" else max(1, min(extent, self.lane_limit // each))
        saved, saved_mask = self.lanes, self.mask
        for start in range(0, extent, step):
            stop = min(start + step, extent)
            self.vars[loop.var.name] = np.arange(start, stop).reshape((1,) * len(saved) + (stop - start,))
            self.lanes = (*saved, stop - start)
            self.block(loop.body)
            self.lanes, self.mask = saved, saved_mask

    def ordered(self, loop: For) -> bool:
        """Whether the loop must be run iteration by iteration."""
        if id(loop) not in self._ordered:
            if self.order == "sequential":
                ordered = loop.kind != "thread" or not any(isinstance(s, Barrier) for s in inner_statements(loop.body))
            else:
                ordered = loop.kind == "serial" and carries(loop)
            self._ordered[id(loop)] = ordered
        return self._ordered[id(loop)]

    def size(self, body: tuple[Stmt, ...]) -> int:
        """The largest number of lanes that a statement within adds."""
        if id(body) not in self._size:
            largest = 1
            for stmt in body:
                if isinstance(stmt, For):
                    own = 1 if self.ordered(stmt) else max(stmt.var.extent, 1)
                    largest = max(largest, own * self.size(stmt.body))
                elif isinstance(stmt, If):
                    largest = max(largest, self.size(stmt.body))
            self._size[id(body)] = largest
        return self._size[id(body)]

    # --- values ----------------------------------------------------------------------------------------------------

    def expand(self, array: Any) -> Array:
        """Give an array of a shallower depth the axes of the present one."""
        array = np.asarray(array)
        return array.reshape(array.shape + (1,) * (len(self.lanes) - array.ndim))

    def operand(self, operand: Operand) -> Array:
        if isinstance(operand, Lit):
            return self.expand(np.asarray(operand.value).astype(operand.dtype.numpy))
        return self.expand(self.values[operand])

    def index(self, index: Index) -> Array:
        def read(atom: Var | Value) -> Array:
            return self.expand(self.vars[atom.name] if isinstance(atom, Var) else self.values[atom.name])

        return self.expand(np.asarray(index.evaluate(read), dtype=np.int64))

    def masked(self, bounds: tuple[Bound, ...]) -> Array | None:
        """The present mask and the bounds."""
        mask = None if self.mask is None else self.expand(self.mask)
        for bound in bounds:
            at = self.index(bound.index)
            holds = (at >= 0) & (at < bound.extent)
            mask = holds if mask is None else mask & holds
        return mask

    # --- statements ------------------------------------------------------------------------------------------------

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case Let(name, primitive, args, dtype):
                operands = [self.operand(a) for a in args]
                result = cast(operands[0], dtype) if primitive == "cast" else PRIMITIVES[primitive].numpy(*operands)
                self.values[name] = np.asarray(result).astype(dtype.numpy, copy=False)
            case Load():
                self.values[stmt.name] = self.load(stmt)
            case IndexValue(name, index, dtype):
                self.values[name] = self.index(index).astype(dtype.numpy)
            case Guard():
                self.values[stmt.name] = self.guard(stmt)
            case Store():
                self.store(stmt)
            case Accumulator(name, combiner, dtype):
                initial = np.full(self.lanes, identity(combiner, dtype), dtype.numpy)
                self.cells[name] = _Cell(combiner, initial, len(self.lanes))
            case Accumulate(name, value):
                self.accumulate(self.cells[name], self.operand(value))
            case ReadAccumulator(name, accumulator):
                self.values[name] = self.cells[accumulator].array.copy()
            case Alloc(buffer):
                self.memory[buffer.name] = poison((*self.lanes, *buffer.shape), buffer.dtype.numpy)
                self.scratch[buffer.name] = len(self.lanes)
            case Barrier():
                pass

    def address(self, stmt: Load | Store, mask: Array | None) -> list[Array]:
        """One index array an axis of the memory, checked; masked-off lanes point to element 0."""
        array = self.memory[stmt.buffer]
        own = self.scratch.get(stmt.buffer, 0)
        depth = len(self.lanes)
        result = []
        for axis in range(own):
            shape = [1] * depth
            shape[axis] = self.lanes[axis]
            result.append(np.arange(self.lanes[axis]).reshape(shape))
        for index, extent in zip(stmt.index, array.shape[own:], strict=True):
            at = self.index(index)
            if mask is not None:
                at = np.where(mask, at, 0)
            if at.size and (at.min() < 0 or at.max() >= extent) and (mask is None or mask.any()):
                raise VerifyError(
                    f"address out of the buffer: {print_statement(stmt)}",
                    notes=(f"index {index} takes {at.min()}..{at.max()}", f"the axis has {extent} elements"),
                )
            result.append(at)
        return result

    def load(self, stmt: Load) -> Array:
        array = self.memory[stmt.buffer]
        mask = self.masked(stmt.bounds)
        if array.size == 0:  # nothing can be read: a violated guard, or no lane within its bounds
            loaded = np.zeros((1,) * len(self.lanes), stmt.dtype.numpy)
        else:
            loaded = self.expand(array[tuple(self.address(stmt, mask))])
        if not stmt.bounds or mask is None:
            return loaded
        other = np.asarray(0 if stmt.other is None else stmt.other.value).astype(stmt.dtype.numpy)
        return np.where(mask, loaded, other)

    def guard(self, stmt: Guard) -> Array:
        value = self.operand(stmt.value).astype(np.int64)
        at = np.where(value < 0, value + stmt.extent, value)
        inside = (at >= 0) & (at < stmt.extent)
        bad = ~inside if self.mask is None else ~inside & self.expand(self.mask)
        if bad.any() and not self.status:
            self.status = stmt.site + 1
        return np.where(inside, at, 0)

    def store(self, stmt: Store) -> None:
        array, value, mask = self.memory[stmt.buffer], self.operand(stmt.value), self.masked(stmt.bounds)
        if value.dtype != array.dtype:
            raise VerifyError(f"{print_statement(stmt)}: stores {value.dtype} into a buffer of {array.dtype}")
        if array.size == 0 or (mask is not None and not mask.any()):
            return
        address = self.address(stmt, mask)
        if array.ndim == 0:  # every lane stores in the one element
            array, address = array.reshape(1), [self.expand(np.zeros((), np.int64))]
        shape = np.broadcast_shapes(value.shape, *(a.shape for a in address), () if mask is None else mask.shape)
        if stmt.mode == "add":
            shape = self.lanes
        wide = [np.broadcast_to(a, shape) for a in address]
        value = np.broadcast_to(value, shape)
        if mask is not None:
            chosen = np.broadcast_to(mask, shape)
            wide, value = [a[chosen] for a in wide], value[chosen]
        if stmt.mode == "add":
            np.add.at(array, tuple(wide), value)
        else:
            array[tuple(wide)] = value

    def accumulate(self, cell: _Cell, value: Array) -> None:
        combiner = COMBINERS[cell.combiner]
        wide = np.broadcast_to(value, self.lanes)
        with np.errstate(all="ignore"):
            if self.mask is not None:
                neutral = np.asarray(identity(cell.combiner, as_dtype(value.dtype))).astype(value.dtype)
                wide = np.where(self.expand(self.mask), wide, neutral)
            axes = tuple(range(cell.depth, len(self.lanes)))
            if axes:
                wide = combiner.reduce(wide, axis=axes, dtype=wide.dtype)
            cell.array = np.asarray(combiner(cell.array, wide)).astype(cell.array.dtype, copy=False)
