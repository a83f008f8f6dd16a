"""Elementary functions as vector code: the CPU target's own mathematics library.

What enters: a function under construction, a float type of any number of lanes, SSA operands. What leaves: the SSA
name of the result. Invariant: NaN gives NaN, infinities, zeros of both signs and subnormals give what
NumPy gives, and the error stays below the bound in :data:`MAX_ULP` on every machine, with FMA and without.

Method: reduce the argument to a small interval (Cody and Waite, "Software Manual for the Elementary Functions",
1980), evaluate a minimax polynomial (Remez exchange, weighted by the relative error of the result; see
:mod:`.vector_math_tables`), rebuild by exponent arithmetic. Nothing is assumed about NaN or infinities: no fast-math
flags are used. Functions without a vector form here call the C library lane by lane.

>>> from graphc.targets.cpu.llvm_text import Module
>>> f = Module("example").function("f", [("float", "x")], "float")
>>> UNARY["abs"](f, VType("f32"), "%x")
'%v1'
"""

from __future__ import annotations

from fractions import Fraction

from graphc.targets.cpu import vector_math_tables as tables
from graphc.targets.cpu.llvm_text import Function, VType
from graphc.targets.cpu.vector_arithmetic import (
    Binary,
    Unary,
    Vector,
    absolute,
    clamp,
    copysign,
    floordiv,
    instruction,
    is_finite,
    libm,
    maximum,
    minimum,
    mod,
    sign,
    square_root,
)

__all__ = ["BINARY", "MAX_ULP", "UNARY", "Binary", "Unary", "clamp", "maximum", "minimum"]

# Largest error against the exact result, in units in the last place: (float32, float64). For the C library's
# functions these are limits that the tests hold glibc to, no promise of other libraries.
MAX_ULP: dict[str, tuple[float, float]] = {
    "exp": (1.0, 1.0), "log": (1.0, 1.0), "tanh": (2.0, 2.0), "erf": (2.0, 2.0), "sigmoid": (2.0, 2.0),
    "log1p": (2.0, 2.0), "expm1": (2.0, 2.0),
    "sin": (2.5, 2.5), "cos": (2.5, 2.5),
    "tan": (1.5, 1.5), "asin": (1.5, 1.5), "acos": (1.5, 1.5), "atan": (1.5, 1.5), "sinh": (2.5, 2.5), "cosh": (2.5, 2.5),
    "pow": (1.5, 1.5), "atan2": (1.5, 1.5),
}  # fmt: skip

_INF, _NAN = float("inf"), float("nan")


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


# exp and its family


def _reduce_exp(v: Vector, x: str) -> tuple[str, str]:
    """(r, t) with x = n ln 2 + r, |r| <= ln(2)/2, and t = magic + n, which holds the integer n in its low bits."""
    t = v.fma(x, v.c(1.4426950408889634), v.c(v.format.magic))
    n = v.sub(t, v.c(v.format.magic))
    # n times the high part is exact: n has at most 8 (11) bits, the high part 15 (42)
    high, low = _split(tables.LN2, *((15, 24) if v.single else (42, 53)))
    r = v.fma(n, v.c(-high), x)
    return v.fma(n, v.c(-low), r), t


def _exp_tail(v: Vector, r: str) -> str:
    """exp(r) - 1 on the reduced interval."""
    return v.fma(v.polynomial(r, v.table("EXP")), v.mul(r, r), r)


def _power_of_two(v: Vector, t: str, offset: int = 0) -> str:
    """2**(n + offset) from t = magic + n, where that is a normal number."""
    biased = v.integer("add", v.bits(t), offset + v.format.bias - v.format.magic_bits)
    return v.from_bits(v.integer("shl", biased, v.format.mantissa))


def _scale(v: Vector, y: str, t: str) -> str:
    """y * 2**n, rounded once also where the result is subnormal, infinite where it is too large."""
    if v.function.module.scalef and v.type.bits * v.type.lanes == 512:
        return _scalef(v, y, v.sub(t, v.c(v.format.magic)))
    # 2**n = 2**h * 2**(n-h), both normal; biased by twice the bias n is positive, and halving is a plain shift
    doubled = v.integer("sub", v.bits(t), v.format.magic_bits - 2 * v.format.bias)
    half = v.integer("lshr", doubled, 1)
    for exponent in (half, v.integer("sub", doubled, half)):
        y = v.mul(y, v.from_bits(v.integer("shl", exponent, v.format.mantissa)))
    return y


def _scalef(v: Vector, y: str, n: str) -> str:
    """AVX-512's instruction for it."""
    kind, mask = ("ps", "i16") if v.single else ("pd", "i8")
    arguments: list[tuple[VType | str, str]]
    arguments = [(v.type, y), (v.type, n), (v.type, v.c(0.0)), (mask, "-1"), ("i32", "4")]
    return v.function.call(f"llvm.x86.avx512.mask.scalef.{kind}.512", v.type, arguments)


def exp(function: Function, type: VType, x: str) -> str:
    """e**x: exp(x) = 2**n exp(r)."""
    v = Vector(function, type)
    low, high = (-104.0, 89.0) if v.single else (-746.0, 710.0)
    r, t = _reduce_exp(v, v.at_most(v.at_least(x, low), high))
    return _scale(v, v.add(v.c(1.0), _exp_tail(v, r)), t)


def expm1(function: Function, type: VType, x: str) -> str:
    """e**x - 1 = 2 (2**(n-1) q + (2**(n-1) - 1/2)) with q = exp(r) - 1: no cancellation, no early overflow."""
    v = Vector(function, type)
    low, high = (-18.0, 89.0) if v.single else (-38.0, 710.0)
    r, t = _reduce_exp(v, v.at_most(v.at_least(x, low), high))
    scale = _power_of_two(v, t, -1)
    half = v.fma(_exp_tail(v, r), scale, v.sub(scale, v.c(0.5)))
    tiny = v.test("olt", v.abs(x), v.c(v.format.tiny))  # halving a subnormal would round
    return v.copysign(v.select(tiny, x, v.add(half, half)), x)


def _exp_of_negative(v: Vector, x: str, low: float) -> str:
    """exp(x) for low <= x <= 0 where the result is a normal number."""
    r, t = _reduce_exp(v, v.at_least(x, low))
    return v.mul(v.add(v.c(1.0), _exp_tail(v, r)), _power_of_two(v, t))


def sigmoid(function: Function, type: VType, x: str) -> str:
    """1/(1 + e**-x): p = e/(1 + e) with e = exp(-|x|), which cannot overflow, for x < 0; 1 - p for the others.

    The rounding error of 1 + e is known exactly (e <= 1) and corrected: dp = -p (1 - p) times it.
    """
    v = Vector(function, type)
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
    v = Vector(function, type)
    z = v.mul(x, x)
    near = v.fma(v.mul(v.polynomial(z, v.table("TANH")), z), x, x)
    size = v.abs(x)
    e = _exp_of_negative(v, v.mul(size, v.c(-2.0)), -40.0 if v.single else -80.0)
    far = v.add(v.div(v.mul(v.c(-2.0), e), v.add(v.c(1.0), e)), v.c(1.0))
    return v.copysign(v.select(v.test("olt", size, v.c(0.625)), near, far), x)


def erf(function: Function, type: VType, x: str) -> str:
    """x + x P(x*x) below a bound near 1, above it 1 - erfc(|x|), where an error of erfc counts for little.

    float32: erfc = 1/Q**8 with Q fitted to erfc**(-1/8) (after Abramowitz and Stegun, 7.1.28): a dozen instructions, and
    half the latency of an exponential. float64: erfc = exp(Q) with Q fitted to log(erfc) (N. Juffa).
    """
    v = Vector(function, type)
    size = v.abs(x)
    near = v.fma(v.polynomial(v.mul(x, x), v.table("ERF")), x, x)
    if v.single:
        bound, power = 1.125, v.polynomial(v.at_most(size, 4.0), v.table("ERFC_ROOT"))
        for _ in range(3):
            power = v.mul(power, power)
        erfc = v.div(v.c(1.0), power)
    else:
        bound, log_erfc = 1.0, v.polynomial(v.sub(v.at_most(size, 6.0), v.c(1.0)), v.table("LOG_ERFC"))
        erfc = _exp_of_negative(v, log_erfc, -80.0)
    return v.select(v.test("olt", size, v.c(bound)), near, v.copysign(v.sub(v.c(1.0), erfc), x))


# log and its family


def _log_parts(v: Vector, x: str) -> tuple[str, str, str]:
    """(k, m, biased) with x = 2**k m, sqrt(1/2) <= m < sqrt(2), k a float; biased is the integer k + bias. x is normal."""
    f = v.format
    root = v.type.integer.constant(0x3F3504F3 if v.single else 0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)
    shifted = v.integer("add", v.integer("sub", v.bits(x), root), f.one_bits)
    biased = v.integer("lshr", shifted, f.mantissa)
    m = v.from_bits(v.integer("add", v.integer("and", shifted, (1 << f.mantissa) - 1), root))
    # an integer below 2**mantissa put under the exponent of 2**mantissa reads as 2**mantissa + integer
    spread = v.from_bits(v.integer("or", biased, (f.bias + f.mantissa) << f.mantissa))
    return v.sub(spread, v.c(2.0**f.mantissa + f.bias)), m, biased


def _log_sum(v: Vector, k: str, r: str) -> str:
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


def _log_edges(v: Vector, x: str, pole: float, y: str) -> str:
    """-inf at the pole, NaN left of it, +inf and NaN as they are."""
    y = v.select(v.test("ult", x, v.c(_INF)), y, x)  # +inf (NaN is caught below)
    y = v.select(v.test("ogt", x, v.c(pole)), y, v.c(_NAN))
    return v.select(v.test("oeq", x, v.c(pole)), v.c(-_INF), y)


def log(function: Function, type: VType, x: str) -> str:
    """The natural logarithm: x = 2**k m gives k ln 2 + log(m)."""
    v = Vector(function, type)
    up = v.format.mantissa + 2
    tiny = v.test("olt", x, v.c(v.format.tiny))  # a subnormal is scaled into the normal range first
    k, m, _ = _log_parts(v, v.select(tiny, v.mul(x, v.c(2.0**up)), x))
    k = v.select(tiny, v.sub(k, v.c(float(up))), k)
    return _log_edges(v, x, 0.0, _log_sum(v, k, v.sub(m, v.c(1.0))))


def log1p(function: Function, type: VType, x: str) -> str:
    """log(1 + x): the rounding error of 1 + x, found by Knuth's two-sum, is scaled and put back into the mantissa."""
    v = Vector(function, type)
    one = v.c(1.0)
    u = v.add(one, x)
    rest = v.sub(u, one)
    error = v.add(v.sub(one, v.sub(u, rest)), v.sub(x, rest))
    k, m, biased = _log_parts(v, u)
    # 2**(1-k), and half the error: so the exponent field stays in range up to the largest x
    field = v.integer("sub", v.type.integer.constant(2 * v.format.bias + 1), biased)
    down = v.from_bits(v.integer("shl", field, v.format.mantissa))
    y = _log_sum(v, k, v.fma(v.mul(error, v.c(0.5)), down, v.sub(m, one)))
    y = _log_edges(v, x, -1.0, y)
    return v.select(v.test("olt", v.abs(x), v.c(v.format.tiny)), x, y)  # keeps -0 and subnormals


# sin and cos


def _half_turns(v: Vector, x: str, offset: float) -> tuple[str, str]:
    """(r, t): r = x - (n + offset) pi in [-pi/2, pi/2], t = magic + n."""
    magic = v.c(v.format.magic)
    scaled = v.mul(x, v.c(0.3183098861837907))
    t = v.add(v.sub(scaled, v.c(offset)) if offset else scaled, magic)
    n = v.sub(t, magic)
    n = v.add(n, v.c(offset)) if offset else n
    if v.fused:  # each step is exact or rounds a remainder that has not cancelled
        widths: tuple[int, ...] = (24, 24, 24) if v.single else (53, 53, 53)
    else:  # products of n (below 2**13, 2**19) with these parts are exact
        widths = (10, 10, 10, 24) if v.single else (33, 33, 33, 53)
    r = x
    for part in _split(tables.PI, *widths):
        r = v.fma(n, v.c(-part), r)
    return r, t


def _sine(function: Function, type: VType, x: str, library: str, offset: float) -> str:
    v = Vector(function, type)
    r, t = _half_turns(v, x, offset)
    z = v.mul(r, r)
    y = v.fma(v.mul(v.polynomial(z, v.table("SIN")), z), r, r)
    parity = v.integer("shl", v.bits(t), v.type.bits - 1)
    if offset:  # cos(x) = -(-1)**n sin(r)
        parity = v.integer("xor", parity, -1 << (v.type.bits - 1))
    y = v.from_bits(v.integer("xor", v.bits(y), parity))
    bound = (32768.0 if v.fused else 8192.0) if v.single else 524288.0
    outside = v.test("uge", v.abs(x), v.c(bound))
    (result,) = function.if_then(
        function.any_lane(type.lanes, outside),
        lambda: [v.select(outside, libm(library)(function, type, x), y)],
        results=[type], fallback=[y], weights=(1, 1000),
    )  # fmt: skip
    return result


def sin(function: Function, type: VType, x: str) -> str:
    """sin(x) = (-1)**n sin(x - n pi). Far arguments (32768 in f32, 524288 in f64) go to the C library."""
    v = Vector(function, type)
    y = _sine(function, type, x, "sin", 0.0)
    return v.select(v.test("oeq", x, v.c(0.0)), x, y)  # keeps -0


def cos(function: Function, type: VType, x: str) -> str:
    """cos(x) = -(-1)**n sin(x - (n + 1/2) pi); far arguments as for :func:`sin`."""
    return _sine(function, type, x, "cos", 0.5)


UNARY: dict[str, Unary] = {
    "exp": exp, "log": log, "tanh": tanh, "erf": erf, "sigmoid": sigmoid, "log1p": log1p, "expm1": expm1,
    "sin": sin, "cos": cos,
    **{name: libm(name) for name in ("tan", "asin", "acos", "atan", "sinh", "cosh")},
    "abs": absolute, "sign": sign, "sqrt": square_root, "isfinite": is_finite,
    "floor": instruction("floor"), "ceil": instruction("ceil"), "trunc": instruction("trunc"),
    "round": instruction("roundeven"),
}  # fmt: skip

BINARY: dict[str, Binary] = {
    "pow": libm("pow"), "atan2": libm("atan2"), "minimum": minimum, "maximum": maximum, "copysign": copysign,
    "mod": mod, "floordiv": floordiv,
}  # fmt: skip
