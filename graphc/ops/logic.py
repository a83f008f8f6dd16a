"""Comparisons (result bool), logic on bools, bits of integers. All are piecewise constant: their derivative is zero.

What enters: operands of one dtype after promotion. What leaves: a bool node, or an integer node for bit operations.
"""

from __future__ import annotations

from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError
from graphc.ir import Node, Op
from graphc.ops.broadcasting import Operand, cast, full_like, lift, promote
from graphc.ops.declare import Samples, elementwise
from graphc.types import bool_

_TWO = Samples(((-3.0, 3.0), (-3.0, 3.0)), gradient=False)
_FLAT = "a comparison is piecewise constant"


def _comparison(name: str, latex: str, symbol: str) -> Op:
    return elementwise(name, zero=_FLAT, latex=latex, symbol=symbol, samples=_TWO, doc=f"Whether a {symbol} b.")


eq_op = _comparison("eq", "{0} = {1}", "=")
ne_op = _comparison("ne", r"{0} \neq {1}", "≠")
lt_op = _comparison("lt", "{0} < {1}", "<")
le_op = _comparison("le", r"{0} \leq {1}", "≤")
gt_op = _comparison("gt", "{0} > {1}", ">")
ge_op = _comparison("ge", r"{0} \geq {1}", "≥")
isnan_op = elementwise(
    "isnan", zero=_FLAT, latex=r"\operatorname{{isnan}}({0})", samples=Samples(gradient=False), doc="Whether x is NaN."
)
isfinite_op = elementwise(
    "isfinite", zero=_FLAT, latex=r"\operatorname{{isfinite}}({0})", samples=Samples(gradient=False),
    doc="Whether x is neither NaN nor infinite.",
)  # fmt: skip

_BITS = Samples(((0.0, 15.0), (0.0, 15.0)), gradient=False)
_FLAT_BITS = "bits have no derivative"
and_op = elementwise(
    "and", zero=_FLAT_BITS, latex=r"{0} \wedge {1}", symbol="∧", samples=_BITS, doc="Logical or bitwise and."
)
or_op = elementwise(
    "or", zero=_FLAT_BITS, latex=r"{0} \vee {1}", symbol="∨", samples=_BITS, doc="Logical or bitwise or."
)
xor_op = elementwise("xor", zero=_FLAT_BITS, latex=r"{0} \oplus {1}", symbol="⊕", samples=_BITS, doc="Exclusive or.")
not_op = elementwise(
    "not", zero=_FLAT_BITS, latex=r"\neg {0}", symbol="¬", samples=_BITS, doc="Logical or bitwise not."
)
shl_op = elementwise("shl", zero=_FLAT_BITS, latex=r"{0} \ll {1}", symbol="<<", samples=_BITS, doc="Bits moved up.")
shr_op = elementwise(
    "shr",
    zero=_FLAT_BITS,
    latex=r"{0} \gg {1}",
    symbol=">>",
    samples=_BITS,
    doc="Bits moved down (signed: arithmetically).",
)


def eq(a: Operand, b: Operand) -> Node:
    """Whether ``a`` equals ``b``, element by element (NaN equals nothing). ``==`` on nodes is identity instead.

    >>> str(eq(lift([1, 2]), 1).type)
    'bool[2]'
    """
    return eq_op(*promote("eq", a, b))


def ne(a: Operand, b: Operand) -> Node:
    """Whether ``a`` differs from ``b``.

    >>> str(ne(lift([1, 2]), 1).type)
    'bool[2]'
    """
    return ne_op(*promote("ne", a, b))


def lt(a: Operand, b: Operand) -> Node:
    """Whether ``a < b``.

    >>> str(lt(lift([1, 2]), 1.5).type)
    'bool[2]'
    """
    return lt_op(*promote("lt", a, b))


def le(a: Operand, b: Operand) -> Node:
    """Whether ``a <= b``.

    >>> str(le(lift([1, 2]), 1).type)
    'bool[2]'
    """
    return le_op(*promote("le", a, b))


def gt(a: Operand, b: Operand) -> Node:
    """Whether ``a > b``.

    >>> str(gt(lift([1, 2]), 1).type)
    'bool[2]'
    """
    return gt_op(*promote("gt", a, b))


def ge(a: Operand, b: Operand) -> Node:
    """Whether ``a >= b``.

    >>> str(ge(lift([1, 2]), 1).type)
    'bool[2]'
    """
    return ge_op(*promote("ge", a, b))


def isnan(x: Operand) -> Node:
    """Whether ``x`` is NaN; False on integers and bools.

    >>> str(isnan(lift([1.0])).type)
    'bool[1]'
    """
    node = lift(x)
    return isnan_op(node) if node.dtype.is_float else broadcast_bool(node, False)


def isfinite(x: Operand) -> Node:
    """Whether ``x`` is neither NaN nor infinite; True on integers and bools.

    >>> str(isfinite(lift([1.0])).type)
    'bool[1]'
    """
    node = lift(x)
    return isfinite_op(node) if node.dtype.is_float else broadcast_bool(node, True)


def broadcast_bool(like: Node, value: bool) -> Node:
    """One bool repeated to the shape of ``like``.

    >>> str(broadcast_bool(lift([1, 2]), True).type)
    'bool[2]'
    """
    return full_like(cast(like, bool_), value)


def _truth(name: str, x: Operand) -> Node:
    node = lift(x)
    if node.dtype != bool_:
        raise DTypeError(
            f"{name}: wants bools, got {node.type}", source=provenance.capture(), token=name,
            help="compare first, e.g. graphc.ne(x, 0), or use bitwise_and / bitwise_or / bitwise_xor / bitwise_not",
        )  # fmt: skip
    return node


def logical_and(a: Operand, b: Operand) -> Node:
    """Both. Raises DTypeError unless both are bools.

    >>> str(logical_and(lift([True, False]), True).type)
    'bool[2]'
    """
    return and_op(*promote("logical_and", _truth("logical_and", a), _truth("logical_and", b)))


def logical_or(a: Operand, b: Operand) -> Node:
    """Either or both.

    >>> str(logical_or(lift([True, False]), True).type)
    'bool[2]'
    """
    return or_op(*promote("logical_or", _truth("logical_or", a), _truth("logical_or", b)))


def logical_xor(a: Operand, b: Operand) -> Node:
    """One but not both.

    >>> str(logical_xor(lift([True, False]), True).type)
    'bool[2]'
    """
    return xor_op(*promote("logical_xor", _truth("logical_xor", a), _truth("logical_xor", b)))


def logical_not(x: Operand) -> Node:
    """Not ``x``.

    >>> str(logical_not(lift([True, False])).type)
    'bool[2]'
    """
    return not_op(_truth("logical_not", x))


def bitwise_and(a: Operand, b: Operand) -> Node:
    """Bits set in both (on bools: both).

    >>> str(bitwise_and(lift([6, 3]), 2).type)
    'i32[2]'
    """
    return and_op(*promote("and", a, b))


def bitwise_or(a: Operand, b: Operand) -> Node:
    """Bits set in either.

    >>> str(bitwise_or(lift([6, 3]), 2).type)
    'i32[2]'
    """
    return or_op(*promote("or", a, b))


def bitwise_xor(a: Operand, b: Operand) -> Node:
    """Bits set in one but not both.

    >>> str(bitwise_xor(lift([6, 3]), 2).type)
    'i32[2]'
    """
    return xor_op(*promote("xor", a, b))


def bitwise_not(x: Operand) -> Node:
    """All bits turned over (on bools: not).

    >>> str(bitwise_not(lift([6, 3])).type)
    'i32[2]'
    """
    return not_op(lift(x))


def shift_left(x: Operand, count: int) -> Node:
    """Bits moved up by a fixed count.

    Raises:
        AttributeRuleError: the count is not from 0 to the width less one.

    >>> str(shift_left(lift([6, 3]), 2).type)
    'i32[2]'
    """
    return shl_op(*_shift("shl", x, count))


def shift_right(x: Operand, count: int) -> Node:
    """Bits moved down by a fixed count; signed integers keep their sign.

    >>> str(shift_right(lift([6, 3]), 2).type)
    'i32[2]'
    """
    return shr_op(*_shift("shr", x, count))


def _shift(name: str, x: Operand, count: int) -> tuple[Node, ...]:
    node = lift(x)
    width = node.dtype.itemsize * 8
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < width:
        raise AttributeRuleError(
            f"{name}: the count must be a Python int from 0 to {width - 1}, got {count!r}",
            source=provenance.capture(), token=name,
        )  # fmt: skip
    return promote(name, node, count)


__all__ = [
    "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "eq", "ge", "gt", "isfinite", "isnan", "le",
    "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne", "shift_left", "shift_right",
]  # fmt: skip
