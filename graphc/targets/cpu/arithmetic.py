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
