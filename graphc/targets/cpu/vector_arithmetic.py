"""The vector code that needs no approximation: instructions, extrema, divisions, and the C library lane by lane.

What enters: a function under construction, a type of any number of lanes, SSA operands. What leaves: the SSA name of the
result. Invariant: extrema and divisions give NumPy's values for NaN, infinities, zero divisors and the least
integer too (which zero an extremum of +0 and -0 gives is open).

>>> from graphc.targets.cpu.llvm_text import Module
>>> f = Module("example").function("f", [("i32", "x")], "i32")
>>> maximum(f, VType("i32"), "%x", "0")
'%v1'
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.errors import CompileError
from graphc.targets.cpu import vector_math_tables as tables
from graphc.targets.cpu.llvm_text import Function, VType

Unary = Callable[[Function, VType, str], str]
Binary = Callable[[Function, VType, str, str], str]


class FloatFormat:
    """Constants of one float format."""

    def __init__(self, mantissa: int, exponent: int) -> None:
        self.mantissa = mantissa  # stored bits
        self.bias = (1 << (exponent - 1)) - 1
        self.magic = 1.5 * 2.0**mantissa  # adding it rounds to an integer and leaves that integer in the low bits
        self.magic_bits = ((self.bias + mantissa) << mantissa) + (1 << (mantissa - 1))
        self.tiny = 2.0 ** (1 - self.bias)  # least normal number
        self.one_bits = self.bias << mantissa


FORMATS = {"f32": FloatFormat(23, 8), "f64": FloatFormat(52, 11)}


class Vector:
    """Short names for the instructions on one float type, so that the formulas below read as formulas."""

    def __init__(self, function: Function, type: VType) -> None:
        if type.scalar not in FORMATS:
            raise CompileError(f"elementary functions are defined on f32 and f64, not {type.scalar}")
        self.function, self.type, self.format = function, type, FORMATS[type.scalar]
        self.single = type.scalar == "f32"
        self.fused = function.module.fused

    def c(self, value: float) -> str:
        return self.type.constant(value)

    def add(self, a: str, b: str) -> str:
        return self.function.op("fadd", self.type, a, b)

    def sub(self, a: str, b: str) -> str:
        return self.function.op("fsub", self.type, a, b)

    def mul(self, a: str, b: str) -> str:
        return self.function.op("fmul", self.type, a, b)

    def div(self, a: str, b: str) -> str:
        return self.function.op("fdiv", self.type, a, b)

    def neg(self, a: str) -> str:
        return self.function.op("fneg", self.type, a)

    def abs(self, a: str) -> str:
        return self.function.intrinsic("fabs", self.type, a)

    def copysign(self, magnitude: str, sign: str) -> str:
        return self.function.intrinsic("copysign", self.type, magnitude, sign)

    def fma(self, a: str, b: str, c: str) -> str:
        """Fused where the machine can: formulas below must hold either way."""
        return self.function.muladd(self.type, a, b, c)

    def test(self, predicate: str, a: str, b: str) -> str:
        return self.function.compare(predicate, self.type, a, b)

    def select(self, mask: str, a: str, b: str) -> str:
        return self.function.select(mask, self.type, a, b)

    def at_most(self, x: str, bound: float) -> str:
        """min(x, bound), NaN kept: one instruction on x86, whose ``min`` returns its second operand then."""
        return self.select(self.test("ogt", x, self.c(bound)), self.c(bound), x)

    def at_least(self, x: str, bound: float) -> str:
        return self.select(self.test("olt", x, self.c(bound)), self.c(bound), x)

    def polynomial(self, x: str, coefficients: tuple[float, ...]) -> str:
        """Horner's rule, constant term first in the list. Independent vectors hide its latency."""
        result = self.c(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, self.c(coefficient))
        return result

    def integer(self, opcode: str, a: str, b: str | int) -> str:
        other = b if isinstance(b, str) else self.type.integer.constant(b)
        return self.function.op(opcode, self.type.integer, a, other)

    def bits(self, x: str) -> str:
        return self.function.convert("bitcast", self.type, x, self.type.integer)

    def from_bits(self, bits: str) -> str:
        return self.function.convert("bitcast", self.type.integer, bits, self.type)

    def table(self, name: str) -> tuple[float, ...]:
        return getattr(tables, f"{name}_{'F32' if self.single else 'F64'}")


def libm(name: str) -> Callable[..., str]:
    """An emitter that calls libm's function of that name for each lane."""

    def emit(function: Function, type: VType, *operands: str) -> str:
        v = Vector(function, type)
        symbol = name + ("f" if v.single else "")

        def call(*scalars: str) -> str:
            return function.call(symbol, type.one, [(type.one, scalar) for scalar in scalars])

        return function.per_lane(type, call, *operands)

    emit.__name__ = name
    emit.__doc__ = f"{name} by the C library, lane by lane."
    return emit


def instruction(name: str) -> Unary:
    """An emitter of one LLVM intrinsic on floats; on integers (already whole) the identity."""

    def emit(function: Function, type: VType, x: str) -> str:
        return function.intrinsic(name, type, x) if type.is_float else x

    emit.__name__ = name
    return emit


def absolute(function: Function, type: VType, x: str) -> str:
    """|x|; the least integer stays (it wraps, as in NumPy)."""
    if type.is_float:
        return function.intrinsic("fabs", type, x)
    if type.is_unsigned:
        return x
    negative = function.op("sub", type, type.constant(0), x)
    return function.select(function.compare("slt", type, x, type.constant(0)), type, negative, x)


def sign(function: Function, type: VType, x: str) -> str:
    """-1, 0 or 1; NaN gives NaN, and both zeros give +0 (as in NumPy)."""
    zero, one = type.constant(0), type.constant(1)
    if type.is_float:
        negative = function.select(function.compare("olt", type, x, zero), type, type.constant(-1.0), zero)
        result = function.select(function.compare("ogt", type, x, zero), type, one, negative)
        return function.select(function.compare("uno", type, x, x), type, x, result)
    up = function.compare("ne" if type.is_unsigned else "sgt", type, x, zero)
    if type.is_unsigned:
        return function.select(up, type, one, zero)
    negative = function.select(function.compare("slt", type, x, zero), type, type.constant(-1), zero)
    return function.select(up, type, one, negative)


def square_root(function: Function, type: VType, x: str) -> str:
    """The square root, correctly rounded."""
    return function.intrinsic("sqrt", type, x)


def is_finite(function: Function, type: VType, x: str) -> str:
    """Whether x is neither infinite nor NaN; gives a mask."""
    return function.compare("olt", type, function.intrinsic("fabs", type, x), type.constant(float("inf")))


def _extremum(float_test: str, signed: str, unsigned: str) -> Binary:
    def emit(function: Function, type: VType, a: str, b: str) -> str:
        if not type.is_float:
            return function.intrinsic(unsigned if type.is_unsigned else signed, type, a, b)
        if not a.startswith("%"):
            a, b = b, a
        # x86's min and max are exactly this select; they give b where either is NaN, so a's NaN must be put back
        if not b.startswith("%") and "0x7FF8" not in b:  # a constant that is no NaN
            return function.select(function.compare(float_test, type, b, a), type, b, a)
        chosen = function.select(function.compare(float_test, type, a, b), type, a, b)
        return function.select(function.compare("uno", type, a, a), type, a, chosen)

    return emit


minimum = _extremum("olt", "smin", "umin")
maximum = _extremum("ogt", "smax", "umax")


def clamp(function: Function, type: VType, x: str, low: str, high: str) -> str:
    """max(min(x, high), low), NaN kept."""
    return maximum(function, type, minimum(function, type, x, high), low)


def copysign(function: Function, type: VType, magnitude: str, sign_of: str) -> str:
    """|magnitude| with the sign of the other, zeros and NaN included."""
    return function.intrinsic("copysign", type, magnitude, sign_of)


def _float_mod(function: Function, type: VType, a: str, b: str) -> str:
    """Remainder with the divisor's sign (NumPy's mod): fmod, moved by b where the signs differ; 0 has b's sign."""
    v = Vector(function, type)
    zero = v.c(0.0)
    rest = libm("fmod")(function, type, a, b)
    differ = function.op("xor", type.mask, v.test("olt", b, zero), v.test("olt", rest, zero))
    result = v.select(v.test("oeq", rest, zero), v.copysign(zero, b), v.select(differ, v.add(rest, b), rest))
    return v.select(v.test("oeq", b, zero), rest, result)


def _float_floordiv(function: Function, type: VType, a: str, b: str) -> str:
    """The floor of the exact quotient (NumPy's floor_divide): (a - mod) / b, corrected to a whole number."""
    v = Vector(function, type)
    zero = v.c(0.0)
    rest = libm("fmod")(function, type, a, b)
    quotient = v.div(v.sub(a, rest), b)
    differ = function.op("xor", type.mask, v.test("olt", b, zero), v.test("olt", rest, zero))
    differ = function.op("and", type.mask, differ, v.test("une", rest, zero))
    quotient = v.select(differ, v.sub(quotient, v.c(1.0)), quotient)
    floor = function.intrinsic("floor", type, quotient)
    floor = v.select(v.test("ogt", v.sub(quotient, floor), v.c(0.5)), v.add(floor, v.c(1.0)), floor)
    plain = v.div(a, b)
    floor = v.select(v.test("oeq", quotient, zero), v.copysign(zero, plain), floor)
    return v.select(v.test("oeq", b, zero), plain, floor)


def _integer_division(function: Function, type: VType, a: str, b: str) -> tuple[str, str, str, str]:
    """(quotient, remainder, b, mask of zero divisors), towards zero, of a division that cannot trap.

    A zero divisor and (least integer, -1) are replaced by divisor 1.
    """
    prefix = "u" if type.is_unsigned else "s"
    none = function.compare("eq", type, b, type.constant(0))
    unsafe = none
    if not type.is_unsigned:
        least = function.compare("eq", type, a, type.constant(-1 << (type.bits - 1)))
        wraps = function.op("and", type.mask, least, function.compare("eq", type, b, type.constant(-1)))
        unsafe = function.op("or", type.mask, none, wraps)
    safe = function.select(unsafe, type, type.constant(1), b)
    quotient = function.op(prefix + "div", type, a, safe)
    rest = function.op("sub", type, a, function.op("mul", type, quotient, safe))
    return quotient, rest, safe, none


def _needs_floor(function: Function, type: VType, rest: str, divisor: str) -> str:
    """Where division towards zero is one above the floor: a remainder whose sign is not the divisor's."""
    signs = function.op("xor", type, rest, divisor)
    differ = function.compare("slt", type, signs, type.constant(0))
    return function.op("and", type.mask, differ, function.compare("ne", type, rest, type.constant(0)))


def mod(function: Function, type: VType, a: str, b: str) -> str:
    """Remainder with the divisor's sign; an integer modulo 0 is 0 (as in NumPy)."""
    if type.is_float:
        return _float_mod(function, type, a, b)
    _, rest, safe, none = _integer_division(function, type, a, b)
    if not type.is_unsigned:
        moved = function.op("add", type, rest, safe)
        rest = function.select(_needs_floor(function, type, rest, safe), type, moved, rest)
    return function.select(none, type, type.constant(0), rest)


def floordiv(function: Function, type: VType, a: str, b: str) -> str:
    """The floor of a / b; an integer by 0 is 0, the least integer by -1 is itself (as in NumPy)."""
    if type.is_float:
        return _float_floordiv(function, type, a, b)
    quotient, rest, safe, none = _integer_division(function, type, a, b)
    if not type.is_unsigned:
        less = function.op("sub", type, quotient, type.constant(1))
        quotient = function.select(_needs_floor(function, type, rest, safe), type, less, quotient)
    return function.select(none, type, type.constant(0), quotient)
