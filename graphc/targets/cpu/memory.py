"""Loads, stores and guards as LLVM text.

What enters: a statement, the frame of the function, the lanes in force. What leaves: instructions. Invariants: a masked
or conditional lane touches no memory; a buffer without elements is never read; an index that a guard let through is in
range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.loops import ir
from graphc.loops.index import Index, Var, row_major
from graphc.targets.cpu.arithmetic import transpose
from graphc.targets.cpu.frame import I64, Frame, scalar_of
from graphc.targets.cpu.lanes import Lanes, Point
from graphc.targets.cpu.llvm_text import Function, VType


def load(frame: Frame, load: ir.Load, lanes: Lanes) -> None:
    buffer = frame.buffers[load.buffer]
    flat = row_major(load.index, buffer.shape)
    bounds = (*load.bounds, *lanes.bounds)
    depends = frame.depends(flat, lanes).union(*(frame.depends(b.index, lanes) for b in bounds))

    def make(point: Point, wide: bool) -> str:
        if buffer.type.size == 0:  # reached where a guard failed, or behind a bound that never holds
            other = load.other.value if load.other and load.bounds else 0
            return VType(scalar_of(load.dtype), lanes.width if wide else 1).constant(other)
        if bounds:
            return bounded_load(frame, load, bounds, flat, point, lanes if wide else None)
        if not wide:
            address = frame.address(buffer, flat, point, None, 0)
            return load_element(frame.function, buffer, address)
        along = turned_axis(flat, lanes)
        if along is not None and buffer.dtype.kind != "bool":
            return turned_load(frame, buffer, flat, point, lanes, along)
        return wide_load(frame, buffer, flat, point, lanes)

    frame.define(load.name, scalar_of(load.dtype), depends, lanes, make)


def turned_axis(flat: Index, lanes: Lanes) -> Var | None:
    """The unrolled variable along which a load is contiguous, if whole squares of it and the lanes can be turned.

    Example: lanes run along j in 8, k in 8 is unrolled around them, and the load is of ``w[j, k]``.
    """
    vector = lanes.vector
    if vector is None or flat.values or vector.extent % lanes.width or not flat.is_affine_in(vector):
        return None
    if flat.coefficient(vector) in (0, 1):
        return None
    for var in lanes.variables:
        if var != vector and flat.is_affine_in(var) and flat.coefficient(var) == 1 and var.extent % lanes.width == 0:
            return var
    return None


def turned_load(frame: Frame, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes, along: Var) -> str:
    """A vector across rows that are contiguous along ``along``: a square of whole loads, transposed in registers."""
    assert lanes.vector is not None
    width = lanes.width
    type_ = VType(scalar_of(buffer.dtype), width)
    corner = {**point, along: point[along] // width * width}
    rows = [frame.address(buffer, flat, corner, lanes, lane) for lane in range(width)]

    def column(number: int) -> str:
        return frame.cached(("turned", *rows, number), lambda: columns()[number])

    def columns() -> list[str]:
        made = transpose(frame.function, type_, [frame.function.load(type_, row) for row in rows])
        for number, name in enumerate(made):
            frame.cache[-1]["turned", *rows, number] = name
        return made

    return column(point[along] - corner[along])


def load_element(f: Function, buffer: ir.Buffer, address: str) -> str:
    if buffer.dtype.kind != "bool":
        return f.load(VType(scalar_of(buffer.dtype)), address)
    return f.compare("ne", VType("i8"), f.load(VType("i8"), address), "0")


def wide_load(frame: Frame, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes,
    bounds: Sequence[ir.Bound] = (), other: bool | int | float = 0,
) -> str:  # fmt: skip
    f = frame.function
    assert lanes.vector is not None
    active = lanes.active(point[lanes.vector])
    memory = VType("i8" if buffer.dtype.kind == "bool" else scalar_of(buffer.dtype), lanes.width)
    if frame.is_contiguous(flat, lanes):
        address = frame.address(buffer, flat, point, lanes, 0)
        mask = frame.lane_mask(bounds, point, lanes)
        if mask:
            loaded = f.masked_load(memory, address, mask, memory.constant(other))
        else:
            loaded = f.load(memory, address)
        return f.compare("ne", memory, loaded, "zeroinitializer") if buffer.dtype.kind == "bool" else loaded
    result = "zeroinitializer"
    register = VType(scalar_of(buffer.dtype), lanes.width)
    for lane in range(active):
        address = frame.address(buffer, flat, point, lanes, lane)
        result = f.insert(register, result, load_element(f, buffer, address), lane)
    return result


def bounded_load(
    frame: Frame, load: ir.Load, bounds: Sequence[ir.Bound], flat: Index, point: Point, lanes: Lanes | None
) -> str:
    """A load that reads nothing where a bound does not hold: a mask, or a branch a lane."""
    f, buffer = frame.function, frame.buffers[load.buffer]
    one = VType(scalar_of(load.dtype))
    other = one.constant(load.other.value if load.other else 0)
    if lanes is not None and frame.is_contiguous(flat, lanes):
        return wide_load(frame, buffer, flat, point, lanes, bounds, load.other.value if load.other else 0)
    count = 1 if lanes is None or lanes.vector is None else lanes.active(point[lanes.vector])
    result = "zeroinitializer"
    for lane in range(count):
        holds = frame.bounds_hold(bounds, point, lanes, lane)
        frame.cache.append({})

        def read(lane: int = lane) -> tuple[str]:
            return (load_element(f, buffer, frame.address(buffer, flat, point, lanes, lane)),)

        (value,) = f.if_then(holds, read, results=[one], fallback=[other])
        frame.cache.pop()
        if lanes is None:
            return value
        result = f.insert(one.wide(lanes.width), result, value, lane)
    return result


def store(frame: Frame, store: ir.Store, lanes: Lanes) -> None:
    buffer = frame.buffers[store.buffer]
    flat = row_major(store.index, buffer.shape)
    wide = lanes.vector is not None
    store = replace(store, bounds=(*store.bounds, *lanes.bounds))
    for point in lanes.points():
        if wide and frame.is_contiguous(flat, lanes):
            wide_store(frame, store, buffer, flat, point, lanes)
            continue
        active = lanes.active(point[lanes.vector]) if lanes.vector is not None else 1
        value = frame.operand(store.value, point, wide, lanes)
        type_ = VType(scalar_of(buffer.dtype), lanes.width if wide else 1)
        for lane in range(active):
            store_lane(frame, store, buffer, flat, point, lanes, lane, frame.function.extract(type_, value, lane))


def store_lane(
    frame: Frame,
    store: ir.Store,
    buffer: ir.Buffer,
    flat: Index,
    point: Point,
    lanes: Lanes,
    lane: int,
    value: str,
) -> None:
    f = frame.function
    where = lanes if lanes.vector is not None else None

    def write() -> None:
        address = frame.address(buffer, flat, point, where, lane)
        store_element(f, store, buffer, address, value)

    if not store.bounds:
        write()
        return
    holds = frame.bounds_hold(store.bounds, point, where, lane)
    frame.cache.append({})
    f.if_then(holds, write)
    frame.cache.pop()


def store_element(f: Function, store: ir.Store, buffer: ir.Buffer, address: str, value: str) -> None:
    type_ = VType(scalar_of(buffer.dtype))
    if buffer.dtype.kind == "bool":
        byte = VType("i8")
        value = f.convert("zext", type_, value, byte)
        f.store(byte, f.op("or", byte, f.load(byte, address), value) if store.mode == "add" else value, address)
        return
    if store.mode == "add":
        value = f.op("fadd" if type_.is_float else "add", type_, f.load(type_, address), value)
    f.store(type_, value, address)


def wide_store(frame: Frame, store: ir.Store, buffer: ir.Buffer, flat: Index, point: Point, lanes: Lanes) -> None:
    f = frame.function
    value = frame.operand(store.value, point, True, lanes)
    type_ = VType(scalar_of(buffer.dtype), lanes.width)
    address = frame.address(buffer, flat, point, lanes, 0)
    mask = frame.lane_mask(store.bounds, point, lanes)
    if buffer.dtype.kind == "bool":
        type_, value = VType("i8", lanes.width), f.convert("zext", type_, value, VType("i8", lanes.width))
    if store.mode == "add":
        old = f.masked_load(type_, address, mask) if mask else f.load(type_, address)
        plus = "or" if buffer.dtype.kind == "bool" else "fadd" if type_.is_float else "add"
        value = f.op(plus, type_, old, value)
    if mask:
        f.masked_store(type_, value, address, mask)
    elif store.mode == "stream" and frame.streams and type_.bytes * type_.lanes >= STREAM and whole_lines(flat, lanes):
        stream(f, type_, value, address)
    else:
        f.store(type_, value, address)


STREAM = 16  # bytes of a streamed store, and what arrays are aligned to by any allocator


def whole_lines(flat: Index, lanes: Lanes) -> bool:
    """Whether every chunk starts at a multiple of its lanes, so that it is aligned where its buffer is."""
    moving = [c for atom, c in flat.terms if atom != lanes.vector]
    return all(c % lanes.width == 0 for c in (*moving, flat.const))


def stream(f: Function, type_: VType, value: str, address: str) -> None:
    """Write a vector around the caches, in aligned parts of 16 bytes (an array need not be aligned to more)."""
    hint = f.module.once("streamed", "!{i32 1}")
    part = type_.wide(STREAM // type_.bytes)
    for start in range(0, type_.lanes, part.lanes):
        lanes = ", ".join(f"i32 {start + n}" for n in range(part.lanes))
        piece = value
        if part.lanes < type_.lanes:
            wide = f"{type_.llvm} {value}, {type_.llvm} poison"
            piece = f.emit(f"shufflevector {wide}, <{part.lanes} x i32> <{lanes}>")
        where = f.gep(address, start, VType(type_.scalar)) if start else address
        f.store(part, piece, where, align=STREAM, suffix=f", !nontemporal {hint}")


def guard(frame: Frame, guard: ir.Guard, lanes: Lanes) -> None:
    """A checked index: negative counts from the end; out of range reports its site and becomes 0."""
    f = frame.function
    depends = frame.operand_depends(guard.value).union(*(frame.depends(b.index, lanes) for b in lanes.bounds))

    def make(point: Point, wide: bool) -> str:
        width = lanes.width if wide else 1
        type_ = VType("i64", width)
        raw = frame.operand(guard.value, point, wide, lanes)
        source = VType(scalar_of(guard.value_dtype), width)
        if source.bits < 64:
            raw = f.convert("zext" if source.is_unsigned or source.bits == 1 else "sext", source, raw, type_)
        negative = f.compare("slt", type_, raw, type_.constant(0))
        turned = f.select(negative, type_, f.op("add", type_, raw, type_.constant(guard.extent)), raw)
        bad = f.compare("uge", type_, turned, type_.constant(guard.extent))
        if wide:
            mask = frame.lane_mask(lanes.bounds, point, lanes)
        else:
            mask = frame.bounds_hold(lanes.bounds, point, None)
        if mask not in ("", "true"):
            bad = f.op("and", type_.mask, bad, mask)
        site = f.op("add", I64, frame.site_base, str(guard.site + 1))
        f.if_then(f.any_lane(width, bad), lambda: f.store(I64, site, frame.status), weights=(1, 2000))
        return f.select(bad, type_, type_.constant(0), turned)

    frame.define(guard.name, "i64", depends, lanes, make)
