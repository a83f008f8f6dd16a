"""Elementary functions as vector code: the CPU target's own mathematics library.

What enters: a function under construction, a float type of any number of lanes, SSA operands. What leaves: the SSA name of
the result. Invariant: NaN gives NaN, infinities, zeros of both signs and subnormals give what IEEE 754 and NumPy give, and
the error stays below the function's bound in :data:`MAX_ULP` on every machine, with FMA and without.

Method: reduce the argument to a small interval (Cody and Waite, "Software Manual for the Elementary Functions", 1980),
evaluate a minimax polynomial (Remez exchange, weighted by the relative error of the result, leading coefficients rounded
first and the rest fitted again; see :mod:`.vector_math_tables`), rebuild by exponent arithmetic. Nothing is assumed about
NaN or infinities: no fast-math flags are used. Functions without a vector form here call the C library lane by lane.

>>> from graphc.targets.cpu.llvm_text import Module
>>> f = Module("example").function("f", [("float", "x")], "float")
>>> UNARY["abs"](f, VType("f32"), "%x")
'%v1'
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from graphc.errors import CompileError
from graphc.targets.cpu import vector_math_tables as tables
from graphc.targets.cpu.llvm_text import Function, VType

__all__ = ["BINARY", "MAX_ULP", "UNARY", "Binary", "Unary", "clamp"]

Unary = Callable[[Function, VType, str], str]
Binary = Callable[[Function, VType, str, str], str]

# Largest error against the exact result, in units in the last place: (float32, float64). The C library's functions are
# glibc's, bounds from its manual ("Known Maximum Errors in Math Functions").
MAX_ULP: dict[str, tuple[float, float]] = {
    "exp": (1.0, 1.0), "log": (1.0, 1.0), "tanh": (2.0, 2.0), "erf": (2.0, 2.0), "sigmoid": (2.0, 2.0),
    "log1p": (2.0, 2.0), "expm1": (2.0, 2.0), "sin": (2.5, 2.5), "cos": (2.5, 2.5),
    "tan": (1.5, 1.5), "asin": (1.5, 1.5), "acos": (1.5, 1.5), "atan": (1.5, 1.5), "sinh": (2.5, 2.5), "cosh": (2.5, 2.5),
    "pow": (1.5, 1.5), "atan2": (1.5, 1.5),
}  # fmt: skip

_INF, _NAN = float("inf"), float("nan")


class _Format:
    """Constants of one float format."""

    def __init__(self, mantissa: int, exponent: int) -> None:
        self.mantissa = mantissa  # stored bits
        self.bias = (1 << (exponent - 1)) - 1
        self.magic = 1.5 * 2.0**mantissa  # adding it rounds to an integer and leaves that integer in the low bits
        self.magic_bits = ((self.bias + mantissa) << mantissa) + (1 << (mantissa - 1))
        self.tiny = 2.0 ** (1 - self.bias)  # least normal number
        self.one_bits = self.bias << mantissa


_FORMATS = {"f32": _Format(23, 8), "f64": _Format(52, 11)}


def _split(value: Fraction, *widths: int) -> list[float]:
    """``value`` as a sum of floats; all but the last have the given number of significant bits, so products with
    short integers are exact.

    >>> [part.hex() for part in _split(Fraction(1, 3), 4, 53)]
    ['0x1.4000000000000p-2', '0x1.5555555555555p-6']
    """
    parts = []
    for width in widths:
        if not value:
            parts.append(0.0)
            continue
        magnitude = abs(value)
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        unit = Fraction(2) ** (exponent - width + (0 if Fraction(2) ** exponent > magnitude else 1))
        part = int(value / unit) * unit  # towards zero: the rest keeps the sign
        parts.append(float(part))
        value -= part
    return parts


class _Vector:
    """Short names for the instructions on one float type, so that the formulas below read as formulas."""

    def __init__(self, function: Function, type: VType) -> None:
        if type.scalar not in _FORMATS:
            raise CompileError(f"elementary functions are defined on f32 and f64, not {type.scalar}")
        self.function, self.type, self.format = function, type, _FORMATS[type.scalar]
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

    def float(self, bits: str) -> str:
        return self.function.convert("bitcast", self.type.integer, bits, self.type)

    def table(self, name: str) -> tuple[float, ...]:
        return getattr(tables, f"{name}_{'F32' if self.single else 'F64'}")  # type: ignore[no-any-return]


# exp and its family


def _reduce_exp(v: _Vector, x: str) -> tuple[str, str]:
    """(r, t) with x = n ln 2 + r, |r| <= ln(2)/2, and t = magic + n, which holds the integer n in its low bits."""
    t = v.fma(x, v.c(1.4426950408889634), v.c(v.format.magic))
    n = v.sub(t, v.c(v.format.magic))
    # n times the high part is exact: n has at most 8 (11) bits, the high part 15 (42)
    high, low = _split(tables.LN2, *((15, 24) if v.single else (42, 53)))
    r = v.fma(n, v.c(-high), x)
    return v.fma(n, v.c(-low), r), t


def _exp_tail(v: _Vector, r: str) -> str:
    """exp(r) - 1 on the reduced interval."""
    return v.fma(v.polynomial(r, v.table("EXP")), v.mul(r, r), r)


def _power_of_two(v: _Vector, t: str, offset: int = 0) -> str:
    """2**(n + offset) from t = magic + n, where that is a normal number."""
    biased = v.integer("add", v.bits(t), offset + v.format.bias - v.format.magic_bits)
    return v.float(v.integer("shl", biased, v.format.mantissa))


def _scale(v: _Vector, y: str, t: str) -> str:
    """y * 2**n, rounded once also where the result is subnormal, infinite where it is too large."""
    if v.function.module.scalef and v.type.bits * v.type.lanes == 512:
        return _scalef(v, y, v.sub(t, v.c(v.format.magic)))
    # 2**n = 2**h * 2**(n-h), both normal; biased by twice the bias n is positive, and halving is a plain shift
    doubled = v.integer("sub", v.bits(t), v.format.magic_bits - 2 * v.format.bias)
    half = v.integer("lshr", doubled, 1)
    for exponent in (half, v.integer("sub", doubled, half)):
        y = v.mul(y, v.float(v.integer("shl", exponent, v.format.mantissa)))
    return y


def _scalef(v: _Vector, y: str, n: str) -> str:
    """AVX-512's instruction for it."""
    kind, mask = ("ps", "i16") if v.single else ("pd", "i8")
    arguments = [(v.type, y), (v.type, n), (v.type, v.c(0.0)), (mask, "-1"), ("i32", "4")]
    return v.function.call(f"llvm.x86.avx512.mask.scalef.{kind}.512", v.type, arguments)


def exp(function: Function, type: VType, x: str) -> str:
    """e**x: exp(x) = 2**n exp(r)."""
    v = _Vector(function, type)
    low, high = (-104.0, 89.0) if v.single else (-746.0, 710.0)
    r, t = _reduce_exp(v, v.at_most(v.at_least(x, low), high))
    return _scale(v, v.add(v.c(1.0), _exp_tail(v, r)), t)


def expm1(function: Function, type: VType, x: str) -> str:
    """e**x - 1 = 2 (2**(n-1) q + (2**(n-1) - 1/2)) with q = exp(r) - 1: no cancellation, no early overflow."""
    v = _Vector(function, type)
    low, high = (-18.0, 89.0) if v.single else (-38.0, 710.0)
    r, t = _reduce_exp(v, v.at_most(v.at_least(x, low), high))
    scale = _power_of_two(v, t, -1)
    half = v.fma(_exp_tail(v, r), scale, v.sub(scale, v.c(0.5)))
    tiny = v.test("olt", v.abs(x), v.c(v.format.tiny))  # halving a subnormal would round
    return v.copysign(v.select(tiny, x, v.add(half, half)), x)


def _exp_of_negative(v: _Vector, x: str, low: float) -> str:
    """exp(x) for low <= x <= 0 where the result is a normal number."""
    r, t = _reduce_exp(v, v.at_least(x, low))
    return v.mul(v.add(v.c(1.0), _exp_tail(v, r)), _power_of_two(v, t))


def sigmoid(function: Function, type: VType, x: str) -> str:
    """1/(1 + e**-x): p = e/(1 + e) with e = exp(-|x|), which cannot overflow, for x < 0; 1 - p for the others.

    The rounding error of 1 + e is known exactly (e <= 1) and corrected: dp = -p (1 - p) times it.
    """
    v = _Vector(function, type)
    one = v.c(1.0)
    e = exp(function, type, v.neg(v.abs(x)))
    denominator = v.add(one, e)
    error = v.sub(e, v.sub(denominator, one))
    p = v.div(e, denominator)
    complement = v.sub(one, p)
    below = v.fma(v.mul(v.neg(p), error), complement, p)
    return v.select(v.test("olt", x, v.c(0.0)), below, complement)


def tanh(function: Function, type: VType, x: str) -> str:
    """An odd polynomial below 0.625, above it 1 - 2/(exp(2|x|) + 1), where the quotient is small."""
    v = _Vector(function, type)
    z = v.mul(x, x)
    near = v.fma(v.mul(v.polynomial(z, v.table("TANH")), z), x, x)
    size = v.abs(x)
    e = _exp_of_negative(v, v.mul(size, v.c(-2.0)), -40.0 if v.single else -80.0)
    far = v.add(v.div(v.mul(v.c(-2.0), e), v.add(v.c(1.0), e)), v.c(1.0))
    return v.copysign(v.select(v.test("olt", size, v.c(0.625)), near, far), x)


def erf(function: Function, type: VType, x: str) -> str:
    """x + x P(x*x) below 1, above it 1 - exp(Q(|x|)) with Q fitted to log(erfc) (after N. Juffa's float version)."""
    v = _Vector(function, type)
    near = v.fma(v.polynomial(v.mul(x, x), v.table("ERF")), x, x)
    size = v.abs(x)
    t = v.at_most(size, 4.0) if v.single else v.sub(v.at_most(size, 6.0), v.c(1.0))
    log_erfc = v.polynomial(t, v.table("LOG_ERFC"))
    far = v.sub(v.c(1.0), _exp_of_negative(v, log_erfc, -80.0))
    return v.select(v.test("olt", size, v.c(1.0)), near, v.copysign(far, x))


# log and its family


def _log_parts(v: _Vector, x: str) -> tuple[str, str, str]:
    """(k, m, biased) with x = 2**k m, sqrt(1/2) <= m < sqrt(2), k as a float; biased is the integer k + bias. x is normal."""
    f = v.format
    root = v.type.integer.constant(0x3F3504F3 if v.single else 0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)
    shifted = v.integer("add", v.integer("sub", v.bits(x), root), f.one_bits)
    biased = v.integer("lshr", shifted, f.mantissa)
    m = v.float(v.integer("add", v.integer("and", shifted, (1 << f.mantissa) - 1), root))
    # an integer below 2**mantissa put under the exponent of 2**mantissa reads as 2**mantissa + integer
    spread = v.float(v.integer("or", biased, (f.bias + f.mantissa) << f.mantissa))
    return v.sub(spread, v.c(2.0**f.mantissa + f.bias)), m, biased


def _log_sum(v: _Vector, k: str, r: str) -> str:
    """k ln 2 + log(1 + r) for r in [sqrt(1/2) - 1, sqrt(2) - 1]; the small terms first."""
    high, low = _split(tables.LN2, *((15, 24) if v.single else (42, 53)))
    if v.single:
        r2 = v.mul(r, r)
        tail = v.mul(v.mul(v.polynomial(r, v.table("LOG")), r), r2)
        tail = v.fma(r2, v.c(-0.5), v.fma(k, v.c(low), tail))
        return v.fma(k, v.c(high), v.add(r, tail))
    # log(1+r) = r - (h - s (h + R)), h = r*r/2, s = r/(2+r), R an even series in s (fdlibm's arrangement)
    s = v.div(r, v.add(v.c(2.0), r))
    z = v.mul(s, s)
    series = v.mul(z, v.polynomial(z, v.table("LOG")))
    h = v.mul(v.mul(v.c(0.5), r), r)
    tail = v.fma(s, v.add(h, series), v.mul(k, v.c(low)))
    return v.fma(k, v.c(high), v.sub(r, v.sub(h, tail)))


def _log_edges(v: _Vector, x: str, pole: float, y: str) -> str:
    """-inf at the pole, NaN left of it, +inf and NaN as they are."""
    y = v.select(v.test("ult", x, v.c(_INF)), y, x)  # +inf (NaN is caught below)
    y = v.select(v.test("ogt", x, v.c(pole)), y, v.c(_NAN))
    return v.select(v.test("oeq", x, v.c(pole)), v.c(-_INF), y)


def log(function: Function, type: VType, x: str) -> str:
    """The natural logarithm: x = 2**k m gives k ln 2 + log(m)."""
    v = _Vector(function, type)
    up = v.format.mantissa + 2
    tiny = v.test("olt", x, v.c(v.format.tiny))  # a subnormal is scaled into the normal range first
    k, m, _ = _log_parts(v, v.select(tiny, v.mul(x, v.c(2.0**up)), x))
    k = v.select(tiny, v.sub(k, v.c(float(up))), k)
    return _log_edges(v, x, 0.0, _log_sum(v, k, v.sub(m, v.c(1.0))))


def log1p(function: Function, type: VType, x: str) -> str:
    """log(1 + x): the rounding error of 1 + x, found by Knuth's two-sum, is scaled and put back into the mantissa."""
    v = _Vector(function, type)
    one = v.c(1.0)
    u = v.add(one, x)
    rest = v.sub(u, one)
    error = v.add(v.sub(one, v.sub(u, rest)), v.sub(x, rest))
    k, m, biased = _log_parts(v, u)
    # 2**(1-k), and half the error: so the exponent field stays in range up to the largest x
    field = v.integer("sub", v.type.integer.constant(2 * v.format.bias + 1), biased)
    down = v.float(v.integer("shl", field, v.format.mantissa))
    y = _log_sum(v, k, v.fma(v.mul(error, v.c(0.5)), down, v.sub(m, one)))
    y = _log_edges(v, x, -1.0, y)
    return v.select(v.test("olt", v.abs(x), v.c(v.format.tiny)), x, y)  # keeps -0 and subnormals


# sin and cos


def _half_turns(v: _Vector, x: str, offset: float) -> tuple[str, str]:
    """(r, t): r = x - (n + offset) pi in [-pi/2, pi/2], t = magic + n."""
    magic = v.c(v.format.magic)
    scaled = v.mul(x, v.c(0.3183098861837907))
    t = v.add(v.sub(scaled, v.c(offset)) if offset else scaled, magic)
    n = v.sub(t, magic)
    n = v.add(n, v.c(offset)) if offset else n
    if v.fused:  # each step is exact or rounds a remainder that has not cancelled
        widths = (24, 24, 24) if v.single else (53, 53, 53)
    else:  # products of n (below 2**13, 2**19) with these parts are exact
        widths = (10, 10, 10, 24) if v.single else (33, 33, 33, 53)
    r = x
    for part in _split(tables.PI, *widths):
        r = v.fma(n, v.c(-part), r)
    return r, t


def _sine(function: Function, type: VType, x: str, library: str, offset: float) -> str:
    v = _Vector(function, type)
    r, t = _half_turns(v, x, offset)
    z = v.mul(r, r)
    y = v.fma(v.mul(v.polynomial(z, v.table("SIN")), z), r, r)
    parity = v.integer("shl", v.bits(t), v.type.bits - 1)
    if offset:  # cos(x) = -(-1)**n sin(r)
        parity = v.integer("xor", parity, -1 << (v.type.bits - 1))
    y = v.float(v.integer("xor", v.bits(y), parity))
    bound = (32768.0 if v.fused else 8192.0) if v.single else 524288.0
    outside = v.test("uge", v.abs(x), v.c(bound))
    (result,) = function.if_then(
        function.any_lane(type.lanes, outside),
        lambda: [v.select(outside, _libm(library)(function, type, x), y)],
        results=[type], fallback=[y], weights=(1, 1000),
    )  # fmt: skip
    return result


def sin(function: Function, type: VType, x: str) -> str:
    """sin(x) = (-1)**n sin(x - n pi). Far arguments (beyond 32768 in f32, 524288 in f64) go to the C library lane by lane."""
    v = _Vector(function, type)
    y = _sine(function, type, x, "sin", 0.0)
    return v.select(v.test("oeq", x, v.c(0.0)), x, y)  # keeps -0


def cos(function: Function, type: VType, x: str) -> str:
    """cos(x) = -(-1)**n sin(x - (n + 1/2) pi); far arguments as for :func:`sin`."""
    return _sine(function, type, x, "cos", 0.5)


# The C library, lane by lane


def _libm(name: str) -> Callable[..., str]:
    """An emitter that calls libm's function of that name for each lane."""

    def emit(function: Function, type: VType, *operands: str) -> str:
        v = _Vector(function, type)
        symbol = name + ("f" if v.single else "")

        def call(*scalars: str) -> str:
            return function.call(symbol, type.one, [(type.one, scalar) for scalar in scalars])

        return function.per_lane(type, call, *operands)

    emit.__name__ = name
    emit.__doc__ = f"{name} by the C library, lane by lane."
    return emit


# Instructions


def _instruction(name: str) -> Unary:
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
    return function.compare("olt", type, function.intrinsic("fabs", type, x), type.constant(_INF))


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
    v = _Vector(function, type)
    zero = v.c(0.0)
    rest = _libm("fmod")(function, type, a, b)
    differ = function.op("xor", type.mask, v.test("olt", b, zero), v.test("olt", rest, zero))
    result = v.select(v.test("oeq", rest, zero), v.copysign(zero, b), v.select(differ, v.add(rest, b), rest))
    return v.select(v.test("oeq", b, zero), rest, result)


def _float_floordiv(function: Function, type: VType, a: str, b: str) -> str:
    """The floor of the exact quotient (NumPy's floor_divide): (a - mod) / b, corrected to a whole number."""
    v = _Vector(function, type)
    zero = v.c(0.0)
    rest = _libm("fmod")(function, type, a, b)
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


UNARY: dict[str, Unary] = {
    "exp": exp, "log": log, "tanh": tanh, "erf": erf, "sigmoid": sigmoid, "log1p": log1p, "expm1": expm1,
    "sin": sin, "cos": cos,
    **{name: _libm(name) for name in ("tan", "asin", "acos", "atan", "sinh", "cosh")},
    "abs": absolute, "sign": sign, "sqrt": square_root, "isfinite": is_finite,
    "floor": _instruction("floor"), "ceil": _instruction("ceil"), "trunc": _instruction("trunc"),
    "round": _instruction("roundeven"),
}  # fmt: skip

BINARY: dict[str, Binary] = {
    "pow": _libm("pow"), "atan2": _libm("atan2"), "minimum": minimum, "maximum": maximum, "copysign": copysign,
    "mod": mod, "floordiv": floordiv,
}  # fmt: skip
