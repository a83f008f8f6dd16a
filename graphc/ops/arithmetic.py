"""Arithmetic, elementwise: + - * / // % ** and their kin.

What enters: two operands (nodes, numbers, arrays), broadcast and promoted. What leaves: a node of the common type.
Conventions at kinks: |x|' at 0 is 0; a tie of maximum or minimum gives each operand half of the gradient. Integer ``//``
and ``%`` by zero give 0, as NumPy does. ``/`` on integers is true division in float32.
"""

from __future__ import annotations

import graphc.ops as ops
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, cast, full_like, lift, ones_like, promote
from graphc.ops.declare import Samples, elementwise

_TWO = Samples(((-3.0, 3.0), (-3.0, 3.0)))
_DIVISOR = Samples(((-3.0, 3.0), (0.5, 3.0)))

add_op = elementwise(
    "add", partials=lambda y, a, b: (ones_like(y), ones_like(y)), latex="{0} + {1}", symbol="+", samples=_TWO,
    partial_latex=("1", "1"), doc="Sum of two values.",
)  # fmt: skip
sub_op = elementwise(
    "sub", partials=lambda y, a, b: (ones_like(y), full_like(y, -1)), latex="{0} - {1}", symbol="−", samples=_TWO,
    partial_latex=("1", "-1"), doc="Difference of two values.",
)  # fmt: skip
mul_op = elementwise(
    "mul", partials=lambda y, a, b: (b, a), latex=r"{0} \cdot {1}", symbol="×", samples=_TWO,
    partial_latex=("{1}", "{0}"), doc="Product of two values, element by element.",
)  # fmt: skip
div_op = elementwise(
    "div", partials=lambda y, a, b: (div(1, b), neg(div(y, b))), latex=r"\frac{{{0}}}{{{1}}}", symbol="÷",
    samples=_DIVISOR, partial_latex=(r"\frac{{1}}{{{1}}}", r"-\frac{{{y}}}{{{1}}}"), doc="True division.",
)  # fmt: skip
floordiv_op = elementwise(
    "floordiv", zero="floor division is piecewise constant", latex=r"\lfloor {0} / {1} \rfloor", symbol="//",
    samples=Samples(((-9.0, 9.0), (0.5, 3.0)), gradient=False), doc="Quotient rounded down; integers by 0 give 0.",
)  # fmt: skip
mod_op = elementwise(
    "mod", partials=lambda y, a, b: (ones_like(y), neg(floordiv(a, b))), latex=r"{0} \bmod {1}", symbol="%",
    samples=Samples(((0.1, 0.9), (1.1, 3.0))), partial_latex=("1", r"-\lfloor {0}/{1} \rfloor"),
    doc="Remainder with the divisor's sign; integers by 0 give 0.",
)  # fmt: skip


def _pow_partials(y: Node, a: Node, b: Node) -> tuple[Node, Node]:
    # b = 0 makes the power constant in a (also at a = 0), and 0^b is constant in b: no 0 * inf
    free = ops.eq(b, 0)
    by_base = ops.where(free, 0, mul(b, pow_op(a, ops.where(free, 1, sub(b, 1)))))
    by_exponent = mul(y, ops.log(ops.where(ops.eq(a, 0), 1, a)))
    return by_base, by_exponent


pow_op = elementwise(
    "pow", partials=_pow_partials, latex="{0}^{{{1}}}", symbol="^", samples=Samples(((0.3, 3.0), (-2.0, 2.0))),
    partial_latex=("{1} {0}^{{{1} - 1}}", r"{y} \ln {0}"), doc="Power; a negative base needs a whole exponent.",
)  # fmt: skip


def _tie_share(wins: Node, ties: Node, like: Node) -> Node:
    return ops.where(ties, full_like(like, 0.5), cast(wins, like.dtype))


def _maximum_partials(y: Node, a: Node, b: Node) -> tuple[Node, Node]:
    tie = ops.eq(a, b)
    return _tie_share(ops.gt(a, b), tie, y), _tie_share(ops.gt(b, a), tie, y)


def _minimum_partials(y: Node, a: Node, b: Node) -> tuple[Node, Node]:
    tie = ops.eq(a, b)
    return _tie_share(ops.lt(a, b), tie, y), _tie_share(ops.lt(b, a), tie, y)


maximum_op = elementwise(
    "maximum", partials=_maximum_partials, latex=r"\max({0}, {1})", symbol="max", samples=_TWO,
    partial_latex=("[{0} > {1}]", "[{1} > {0}]"), doc="The larger of two; NaN wins; a tie halves the gradient.",
)  # fmt: skip
minimum_op = elementwise(
    "minimum", partials=_minimum_partials, latex=r"\min({0}, {1})", symbol="min", samples=_TWO,
    partial_latex=("[{0} < {1}]", "[{1} < {0}]"), doc="The smaller of two; NaN wins; a tie halves the gradient.",
)  # fmt: skip
neg_op = elementwise("neg", partials=lambda y, x: (full_like(y, -1),), latex="-{0}", symbol="−", partial_latex=("-1",),
                     doc="Sign reversed.")  # fmt: skip
sign_op = elementwise("sign", zero="the sign is piecewise constant", latex=r"\operatorname{{sign}}({0})", symbol="sign",
                      samples=Samples(avoid=(0.0,)), doc="-1, 0 or 1; NaN stays NaN.")  # fmt: skip
abs_op = elementwise("abs", partials=lambda y, x: (sign_op(x),), latex="|{0}|", symbol="|x|", samples=Samples(avoid=(0.0,)),
                     partial_latex=(r"\operatorname{{sign}}({0})",), doc="Magnitude; the derivative at 0 is 0.")  # fmt: skip
copysign_op = elementwise(
    "copysign", partials=lambda y, a, b: (mul(sign_op(a), ops.copysign(ones_like(b), b)), None),
    latex=r"|{0}|\operatorname{{sign}}({1})", symbol="copysign",
    samples=Samples(((0.1, 3.0), (-3.0, 3.0)), avoid=(0.0,)), doc="Magnitude of the first, sign of the second.",
)  # fmt: skip


def add(a: Operand, b: Operand) -> Node:
    """``a + b``, broadcast and promoted. Raises ShapeError, DTypeError if they do not meet.

    >>> str(add(lift([1.0, 2.0]), 1).type)
    'f32[2]'
    """
    return add_op(*promote("add", a, b))


def sub(a: Operand, b: Operand) -> Node:
    """``a - b``, broadcast and promoted.

    >>> str(sub(lift([1, 2]), lift([[1], [2]])).type)
    'i32[2,2]'
    """
    return sub_op(*promote("sub", a, b))


def mul(a: Operand, b: Operand) -> Node:
    """``a * b`` element by element, broadcast and promoted.

    >>> str(mul(lift([1, 2]), 0.5).type)
    'f32[2]'
    """
    return mul_op(*promote("mul", a, b))


def div(a: Operand, b: Operand) -> Node:
    """``a / b``: true division; integers are divided in float32.

    >>> str(div(lift([1, 2]), 2).type)
    'f32[2]'
    """
    return div_op(*promote("div", a, b, least="float"))


def floordiv(a: Operand, b: Operand) -> Node:
    """``a // b``: rounded down; an integer divided by 0 gives 0, as in NumPy.

    >>> str(floordiv(lift([7, 8]), 2).type)
    'i32[2]'
    """
    return floordiv_op(*promote("floordiv", a, b))


def mod(a: Operand, b: Operand) -> Node:
    """``a % b`` with the divisor's sign; an integer modulo 0 gives 0, as in NumPy.

    >>> str(mod(lift([7, 8]), 4).type)
    'i32[2]'
    """
    return mod_op(*promote("mod", a, b))


def pow(a: Operand, b: Operand) -> Node:
    """``a ** b``. Small whole exponents become multiplications, 0.5 a square root; integers need such an exponent.

    Raises:
        DTypeError: an integer base and an exponent that is no whole number >= 0 known at declaration.

    >>> pow(lift([1.0, 2.0]), 2).op.name, pow(lift([1.0, 2.0]), 0.5).op.name
    ('mul', 'sqrt')
    """
    if isinstance(b, (int, float)) and isinstance(a, Node):
        if b == 0.5:
            return ops.sqrt(a)
        if float(b).is_integer() and (
            (a.dtype.is_integer and b >= 0 and isinstance(b, int)) or (a.dtype.is_float and abs_(b) <= 4)
        ):
            power = whole_power(a, int(abs_(b)))
            return reciprocal(power) if b < 0 else power
    nodes = promote("pow", a, b)
    return pow_op(*nodes)


def abs_(x: float) -> float:
    """Magnitude of a Python number (``abs`` is the op here)."""
    return -x if x < 0 else x


def whole_power(x: Node, exponent: int) -> Node:
    """``x`` to a whole power by repeated squaring.

    >>> whole_power(lift(3.0), 1).op.name
    'constant'
    """
    result: Node | None = None
    square_ = x
    while exponent:
        if exponent & 1:
            result = square_ if result is None else mul(result, square_)
        exponent >>= 1
        if exponent:
            square_ = mul(square_, square_)
    return ones_like(x) if result is None else result


def neg(x: Operand) -> Node:
    """``-x``.

    >>> neg(lift([1, 2])).op.name
    'neg'
    """
    return neg_op(lift(x))


def abs(x: Operand) -> Node:
    """``|x|``; its derivative at 0 is 0.

    >>> str(abs(lift([-1, 2])).type)
    'i32[2]'
    """
    return abs_op(lift(x))


def sign(x: Operand) -> Node:
    """-1, 0 or 1 by the sign of ``x``, in its dtype.

    >>> str(sign(lift([-1.0])).type)
    'f32[1]'
    """
    return sign_op(lift(x))


def maximum(a: Operand, b: Operand) -> Node:
    """The larger of two values; NaN if either is. A tie gives each operand half of the gradient.

    >>> str(maximum(lift([1.0, 2.0]), 0).type)
    'f32[2]'
    """
    return maximum_op(*promote("maximum", a, b))


def minimum(a: Operand, b: Operand) -> Node:
    """The smaller of two values; NaN if either is. A tie gives each operand half of the gradient.

    >>> str(minimum(lift([1.0, 2.0]), 0).type)
    'f32[2]'
    """
    return minimum_op(*promote("minimum", a, b))


def copysign(a: Operand, b: Operand) -> Node:
    """``|a|`` with the sign of ``b`` (the sign bit: -0.0 counts as negative).

    >>> str(copysign(lift([1.0]), -1.0).type)
    'f32[1]'
    """
    return copysign_op(*promote("copysign", a, b, least="float"))


def square(x: Operand) -> Node:
    """``x * x``.

    >>> square(lift([2.0])).op.name
    'mul'
    """
    node = lift(x)
    return mul(node, node)


def reciprocal(x: Operand) -> Node:
    """``1 / x``.

    >>> reciprocal(lift([2.0])).op.name
    'div'
    """
    return div(1, lift(x))


__all__ = [
    "abs", "add", "copysign", "div", "floordiv", "maximum", "minimum", "mod", "mul", "neg", "pow", "reciprocal", "sign",
    "square", "sub",
]  # fmt: skip
