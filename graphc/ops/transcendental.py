"""Exponentials, logarithms, roots, trigonometry, erf, and rounding: elementwise functions of floats.

What enters: a float value (integers and bools are cast to float32). What leaves: a value of the same type.
Derivatives are written from the result ``y`` where that saves work: exp' = y, tanh' = 1 - y^2, sqrt' = 1/(2y).
"""

from __future__ import annotations

import math

import graphc.ops as ops
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, cast, lift, promote
from graphc.ops.declare import Samples, elementwise
from graphc.types import float32


def as_float(x: Operand) -> Node:
    """``x`` as floats: integers and bools become float32.

    >>> str(as_float(lift([1, 2])).type)
    'f32[2]'
    """
    node = lift(x)
    return node if node.dtype.is_float else cast(node, float32)


_POSITIVE = Samples(((1e-3, 1e3),))
_UNIT = Samples(((-0.9, 0.9),))

exp_op = elementwise(
    "exp", partials=lambda y, x: (y,), latex="e^{{{0}}}", symbol="exp", partial_latex=("{y}",), doc="e to the x."
)
expm1_op = elementwise("expm1", partials=lambda y, x: (ops.add(y, 1),), latex="e^{{{0}}} - 1", symbol="expm1",
                       partial_latex=("{y} + 1",), doc="exp(x) - 1, precise near 0.")  # fmt: skip
log_op = elementwise("log", partials=lambda y, x: (ops.div(1, x),), latex=r"\ln {0}", symbol="ln", samples=_POSITIVE,
                     partial_latex=(r"\frac{{1}}{{{0}}}",), doc="Natural logarithm; -inf at 0, NaN below.")  # fmt: skip
log1p_op = elementwise("log1p", partials=lambda y, x: (ops.div(1, ops.add(x, 1)),), latex=r"\ln(1 + {0})", symbol="log1p",
                       samples=Samples(((-0.9, 10.0),)), partial_latex=(r"\frac{{1}}{{1 + {0}}}",),
                       doc="ln(1 + x), precise near 0.")  # fmt: skip
sqrt_op = elementwise("sqrt", partials=lambda y, x: (ops.div(0.5, y),), latex=r"\sqrt{{{0}}}", symbol="√", samples=_POSITIVE,
                      partial_latex=(r"\frac{{1}}{{2 {y}}}",), doc="Square root; NaN below 0.")  # fmt: skip
tanh_op = elementwise("tanh", partials=lambda y, x: (ops.sub(1, ops.mul(y, y)),), latex=r"\tanh {0}", symbol="tanh",
                      partial_latex=("1 - {y}^2",), doc="Hyperbolic tangent.")  # fmt: skip
sigmoid_op = elementwise("sigmoid", partials=lambda y, x: (ops.mul(y, ops.sub(1, y)),), latex=r"\sigma({0})", symbol="σ",
                         partial_latex=("{y}(1 - {y})",), doc="Logistic function 1/(1 + exp(-x)), without overflow.")  # fmt: skip
erf_op = elementwise(
    "erf", partials=lambda y, x: (ops.mul(exp_op(ops.neg(ops.mul(x, x))), 2 / math.sqrt(math.pi)),),
    latex=r"\operatorname{{erf}}({0})", symbol="erf", partial_latex=(r"\frac{{2}}{{\sqrt\pi}} e^{{-{0}^2}}",),
    doc="Gauss error function.",
)  # fmt: skip
sin_op = elementwise(
    "sin",
    partials=lambda y, x: (ops.cos(x),),
    latex=r"\sin {0}",
    symbol="sin",
    partial_latex=(r"\cos {0}",),
    doc="Sine.",
)
cos_op = elementwise("cos", partials=lambda y, x: (ops.neg(ops.sin(x)),), latex=r"\cos {0}", symbol="cos",
                     partial_latex=(r"-\sin {0}",), doc="Cosine.")  # fmt: skip
tan_op = elementwise("tan", partials=lambda y, x: (ops.add(1, ops.mul(y, y)),), latex=r"\tan {0}", symbol="tan",
                     samples=Samples(((-1.2, 1.2),)), partial_latex=("1 + {y}^2",), doc="Tangent.")  # fmt: skip
sinh_op = elementwise("sinh", partials=lambda y, x: (ops.cosh(x),), latex=r"\sinh {0}", symbol="sinh",
                      partial_latex=(r"\cosh {0}",),
                      doc="Hyperbolic sine.")  # fmt: skip
cosh_op = elementwise("cosh", partials=lambda y, x: (ops.sinh(x),), latex=r"\cosh {0}", symbol="cosh",
                      partial_latex=(r"\sinh {0}",),
                      doc="Hyperbolic cosine.")  # fmt: skip
# 1 - x^2 as (1 - x)(1 + x): no cancellation near the ends
asin_op = elementwise("asin", partials=lambda y, x: (_arc_slope(x),), latex=r"\arcsin {0}", symbol="asin", samples=_UNIT,
                      partial_latex=(r"\frac{{1}}{{\sqrt{{1 - {0}^2}}}}",), doc="Inverse sine.")  # fmt: skip
acos_op = elementwise("acos", partials=lambda y, x: (ops.neg(_arc_slope(x)),), latex=r"\arccos {0}", symbol="acos", samples=_UNIT,
                      partial_latex=(r"-\frac{{1}}{{\sqrt{{1 - {0}^2}}}}",), doc="Inverse cosine.")  # fmt: skip
atan_op = elementwise("atan", partials=lambda y, x: (ops.div(1, ops.add(1, ops.mul(x, x))),), latex=r"\arctan {0}", symbol="atan",
                      partial_latex=(r"\frac{{1}}{{1 + {0}^2}}",), doc="Inverse tangent.")  # fmt: skip


def _arc_slope(x: Node) -> Node:
    return ops.div(1, sqrt_op(ops.mul(ops.sub(1, x), ops.add(1, x))))


def _atan2_partials(y: Node, a: Node, b: Node) -> tuple[Node, Node]:
    norm = ops.add(ops.mul(a, a), ops.mul(b, b))
    return ops.div(b, norm), ops.neg(ops.div(a, norm))


atan2_op = elementwise(
    "atan2", partials=_atan2_partials, latex=r"\operatorname{{atan2}}({0}, {1})", symbol="atan2",
    samples=Samples(((0.2, 3.0), (0.2, 3.0))),
    partial_latex=(r"\frac{{{1}}}{{{0}^2 + {1}^2}}", r"-\frac{{{0}}}{{{0}^2 + {1}^2}}"), doc="Angle of the point (b, a).",
)  # fmt: skip

_STEPS = "rounding is piecewise constant"
_WHOLE = Samples(avoid=tuple(n / 2 for n in range(-6, 7)))
floor_op = elementwise(
    "floor", zero=_STEPS, latex=r"\lfloor {0} \rfloor", symbol="⌊x⌋", samples=_WHOLE, doc="Rounded down."
)
ceil_op = elementwise("ceil", zero=_STEPS, latex=r"\lceil {0} \rceil", symbol="⌈x⌉", samples=_WHOLE, doc="Rounded up.")
trunc_op = elementwise(
    "trunc", zero=_STEPS, latex=r"\operatorname{{trunc}}({0})", symbol="trunc", samples=_WHOLE, doc="Rounded towards 0."
)
round_op = elementwise("round", zero=_STEPS, latex=r"\operatorname{{round}}({0})", symbol="round", samples=_WHOLE,
                       doc="Rounded to the nearest, halves to even.")  # fmt: skip


def exp(x: Operand) -> Node:
    """``e ** x``.

    >>> str(exp(lift([1.0])).type)
    'f32[1]'
    """
    return exp_op(as_float(x))


def expm1(x: Operand) -> Node:
    """``exp(x) - 1``, precise near 0.

    >>> str(expm1(lift([1.0])).type)
    'f32[1]'
    """
    return expm1_op(as_float(x))


def log(x: Operand) -> Node:
    """Natural logarithm: -inf at 0, NaN below.

    >>> str(log(lift([1.0])).type)
    'f32[1]'
    """
    return log_op(as_float(x))


def log1p(x: Operand) -> Node:
    """``log(1 + x)``, precise near 0.

    >>> str(log1p(lift([1.0])).type)
    'f32[1]'
    """
    return log1p_op(as_float(x))


def log2(x: Operand) -> Node:
    """Logarithm to base 2, as ``log(x) / log(2)``.

    >>> str(log2(lift([8.0])).type)
    'f32[1]'
    """
    return ops.mul(log(x), 1 / math.log(2))


def log10(x: Operand) -> Node:
    """Logarithm to base 10, as ``log(x) / log(10)``.

    >>> str(log10(lift([8.0])).type)
    'f32[1]'
    """
    return ops.mul(log(x), 1 / math.log(10))


def exp2(x: Operand) -> Node:
    """``2 ** x``, as ``exp(x log 2)``.

    >>> str(exp2(lift([8.0])).type)
    'f32[1]'
    """
    return exp(ops.mul(as_float(x), math.log(2)))


def sqrt(x: Operand) -> Node:
    """Square root: NaN below 0.

    >>> str(sqrt(lift([4])).type)
    'f32[1]'
    """
    return sqrt_op(as_float(x))


def rsqrt(x: Operand) -> Node:
    """``1 / sqrt(x)``.

    >>> rsqrt(lift([4.0])).op.name
    'div'
    """
    return ops.div(1, sqrt(x))


def tanh(x: Operand) -> Node:
    """Hyperbolic tangent.

    >>> str(tanh(lift([4.0])).type)
    'f32[1]'
    """
    return tanh_op(as_float(x))


def sigmoid(x: Operand) -> Node:
    """Logistic function ``1 / (1 + exp(-x))``; never overflows; derivative ``y (1 - y)``.

    >>> str(sigmoid(lift([4.0])).type)
    'f32[1]'
    """
    return sigmoid_op(as_float(x))


def erf(x: Operand) -> Node:
    """Gauss error function.

    >>> str(erf(lift([4.0])).type)
    'f32[1]'
    """
    return erf_op(as_float(x))


def sin(x: Operand) -> Node:
    """Sine of radians.

    >>> str(sin(lift([4.0])).type)
    'f32[1]'
    """
    return sin_op(as_float(x))


def cos(x: Operand) -> Node:
    """Cosine of radians.

    >>> str(cos(lift([4.0])).type)
    'f32[1]'
    """
    return cos_op(as_float(x))


def tan(x: Operand) -> Node:
    """Tangent of radians.

    >>> str(tan(lift([4.0])).type)
    'f32[1]'
    """
    return tan_op(as_float(x))


def sinh(x: Operand) -> Node:
    """Hyperbolic sine.

    >>> str(sinh(lift([4.0])).type)
    'f32[1]'
    """
    return sinh_op(as_float(x))


def cosh(x: Operand) -> Node:
    """Hyperbolic cosine.

    >>> str(cosh(lift([4.0])).type)
    'f32[1]'
    """
    return cosh_op(as_float(x))


def asin(x: Operand) -> Node:
    """Inverse sine, NaN outside of [-1, 1].

    >>> str(asin(lift([0.5])).type)
    'f32[1]'
    """
    return asin_op(as_float(x))


def acos(x: Operand) -> Node:
    """Inverse cosine, NaN outside of [-1, 1].

    >>> str(acos(lift([0.5])).type)
    'f32[1]'
    """
    return acos_op(as_float(x))


def atan(x: Operand) -> Node:
    """Inverse tangent.

    >>> str(atan(lift([0.5])).type)
    'f32[1]'
    """
    return atan_op(as_float(x))


def atan2(a: Operand, b: Operand) -> Node:
    """Angle of the point ``(b, a)`` in radians, in [-pi, pi].

    >>> str(atan2(lift([0.5]), 1.0).type)
    'f32[1]'
    """
    return atan2_op(*promote("atan2", a, b, least="float"))


def _round_with(op: object, x: Operand) -> Node:
    node = lift(x)
    return node if not node.dtype.is_float else op(node)  # type: ignore[operator]


def floor(x: Operand) -> Node:
    """Rounded down; integers stay as they are.

    >>> str(floor(lift([0.5])).type)
    'f32[1]'
    """
    return _round_with(floor_op, x)


def ceil(x: Operand) -> Node:
    """Rounded up; integers stay as they are.

    >>> str(ceil(lift([0.5])).type)
    'f32[1]'
    """
    return _round_with(ceil_op, x)


def trunc(x: Operand) -> Node:
    """Rounded towards 0; integers stay as they are.

    >>> str(trunc(lift([0.5])).type)
    'f32[1]'
    """
    return _round_with(trunc_op, x)


def round(x: Operand) -> Node:
    """Rounded to the nearest whole number, halves to the even one; integers stay as they are.

    >>> str(round(lift([0.5])).type)
    'f32[1]'
    """
    return _round_with(round_op, x)


__all__ = [
    "acos",
    "asin",
    "atan",
    "atan2",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "log",
    "log1p",
    "log2",
    "log10",
    "round",
    "rsqrt",
    "sigmoid",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
]  # fmt: skip
