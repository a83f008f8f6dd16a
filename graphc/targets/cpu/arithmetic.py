"""Scalar primitives, casts and combiners as LLVM instructions, on scalars and vectors alike.

What enters: a primitive's name, types, SSA operands. What leaves: the SSA name of the result. Invariant: pointwise code
carries no fast-math flag; floats become integers by saturation, NaN by 0; the steps of a reduction may be reassociated.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import CompileError
from graphc.scalar import PRIMITIVES
from graphc.targets.cpu.llvm_text import Function, VType
from graphc.targets.cpu.vector_math import BINARY, UNARY


def apply(f: Function, primitive: str, types: Sequence[VType], args: Sequence[str], result: VType) -> str:
    """One scalar primitive on vectors or scalars."""
    type_ = types[-1]
    if primitive == "where":
        return f.select(args[0], type_, args[1], args[2])
    if primitive == "cast":
        return convert(f, types[0], args[0], result)
    if primitive == "not":
        return f.op("xor", type_, args[0], type_.constant(True if type_.scalar == "i1" else -1))
    if primitive in ("minimum", "maximum") and not type_.is_float:
        sign = "u" if type_.is_unsigned or type_.scalar == "i1" else "s"
        return f.intrinsic(f"{sign}{primitive[:3]}", type_, *args)
    kind = "float" if type_.is_float else "bool" if type_.scalar == "i1" else "uint" if type_.is_unsigned else "int"
    template = PRIMITIVES[primitive].llvm.get(kind)
    if template is not None:
        return f.emit(template.format(*args, t=type_.llvm))
    if primitive in UNARY:
        return UNARY[primitive](f, type_, args[0])
    if primitive in BINARY:
        return BINARY[primitive](f, type_, args[0], args[1])
    raise CompileError(f"{primitive} on {kind} has no LLVM form")


def convert(f: Function, source: VType, value: str, to: VType) -> str:
    """A cast: floats to integers saturate, NaN gives 0; anything to bool asks whether it is not zero."""
    if source.scalar == to.scalar:
        return value
    if to.scalar == "i1":
        return f.compare("une" if source.is_float else "ne", source, value, source.constant(0))
    if source.is_float and to.is_float:
        return f.convert("fpext" if to.bits > source.bits else "fptrunc", source, value, to)
    if source.is_float:
        name = f"llvm.fpto{'u' if to.is_unsigned else 's'}i.sat.{to.suffix}.{source.suffix}"
        return f.call(name, to, [(source, value)])
    unsigned = source.is_unsigned or source.scalar == "i1"
    if to.is_float:
        return f.convert("uitofp" if unsigned else "sitofp", source, value, to)
    if to.bits > source.bits:
        return f.convert("zext" if unsigned else "sext", source, value, to)
    return f.convert("trunc", source, value, to) if to.bits < source.bits else value


def combine(f: Function, combiner: str, type_: VType, a: str, b: str) -> str:
    """One step of a reduction."""
    match combiner:
        case "add":
            opcode = "fadd reassoc" if type_.is_float else "or" if type_.scalar == "i1" else "add"
            return f.op(opcode, type_, a, b)
        case "mul":
            return f.op("fmul reassoc" if type_.is_float else "mul", type_, a, b)
        case "and" | "or":
            return f.op(combiner, type_, a, b)
    return apply(f, combiner, [type_, type_], [a, b], type_)


def tree(f: Function, combiner: str, type_: VType, parts: list[str]) -> str:
    """Combine partial results pairwise."""
    while len(parts) > 1:
        paired = [combine(f, combiner, type_, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + ([parts[-1]] if len(parts) % 2 else [])
    return parts[0]


def across(f: Function, combiner: str, type_: VType, value: str) -> str:
    """Combine the lanes of a vector by halving it."""
    lanes = type_.lanes
    while lanes > 1:
        lanes //= 2
        low, high = (
            f.emit(
                f"shufflevector {type_.llvm} {value}, {type_.llvm} poison, <{lanes} x i32> "
                f"<{', '.join(f'i32 {start + n}' for n in range(lanes))}>"
            )
            for start in (0, lanes)
        )
        type_ = type_.wide(lanes)
        if lanes == 1:
            vector = VType(type_.scalar).llvm
            low, high = (f.emit(f"extractelement <1 x {vector}> {v}, i64 0") for v in (low, high))
        value = combine(f, combiner, type_, low, high)
    return value


def transpose(f: Function, type_: VType, rows: Sequence[str]) -> list[str]:
    """A square of as many vectors as they have lanes, transposed: ``log2(lanes)`` rounds of pairwise shuffles.

    The first rounds stay within 128 bits, where x86 unpacks in one instruction; the others exchange 128-bit parts.
    """
    lanes = type_.lanes
    part = min(lanes, 128 // type_.bits)
    names = list(rows)
    columns = [list(range(lanes)) for _ in rows]  # the column that each lane of each vector holds
    distance = 1
    while distance < lanes:
        for n in (n for n in range(lanes) if not n & distance):
            masks = _unpack(lanes, part, distance) if distance < part else _exchange(lanes, distance)
            pair, held = (names[n], names[n + distance]), columns[n] + columns[n + distance]
            for place, mask in zip((n, n + distance), masks, strict=True):
                listed = ", ".join(f"i32 {lane}" for lane in mask)
                names[place] = f.emit(
                    f"shufflevector {type_.llvm} {pair[0]}, {type_.llvm} {pair[1]}, <{lanes} x i32> <{listed}>"
                )
                columns[place] = [held[lane] for lane in mask]
        distance *= 2
    order = {held[0]: name for held, name in zip(columns, names, strict=True)}
    return [order[column] for column in range(lanes)]


def _unpack(lanes: int, part: int, run: int) -> tuple[list[int], list[int]]:
    """Runs of two vectors in turn, from the lower and from the upper halves of each part."""
    low: list[int] = []
    high: list[int] = []
    for base in range(0, lanes, part):
        for half, mask in ((0, low), (part // 2, high)):
            for first in range(base + half, base + half + part // 2, run):
                mask += [first + n for n in range(run)] + [lanes + first + n for n in range(run)]
    return low, high


def _exchange(lanes: int, distance: int) -> tuple[list[int], list[int]]:
    """The parts of two vectors whose numbers lack the bit ``distance``, and those that have it."""
    low = [n if not n & distance else lanes + n - distance for n in range(lanes)]
    high = [n + distance if not n & distance else lanes + n for n in range(lanes)]
    return low, high
