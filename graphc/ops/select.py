"""Choosing: where, clip, stop_gradient, chain_product and the user's own derivatives.

``where`` is select-safe. Its adjoint sends exact zeros to the branch not taken, and products of cotangents further back
are :func:`chain_product`, in which an exact zero cotangent wins over an infinite or NaN partial. So the gradient of
``where(x > 0, log(x), 0)`` at 0 is 0 and not ``0 * inf = NaN``, without the second ``where`` that other systems need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import DifferentiationError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import (
    Operand,
    broadcast_shapes,
    broadcast_to,
    cast,
    full_like,
    lift,
    promote,
    promote_dtypes,
    zeros_like,
)  # fmt: skip
from graphc.ops.declare import Custom, Movement, Samples, Zero, composite, declare, elementwise, same_types
from graphc.types import TensorType, bool_


def _where_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    condition = node.inputs[0]
    zero = zeros_like(ct)
    return None, where_op(condition, ct, zero), where_op(condition, zero, ct)


def _where_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    zero = zeros_like(node)
    _, a, b = tangents
    return where_op(node.inputs[0], zero if a is None else a, zero if b is None else b)


def _where_calls() -> list[Any]:
    c = np.array([[True, False, True], [False, False, True]])
    return [((c, (2, 3), (2, 3)), {})]


where_op = elementwise(
    "where", derivative=Custom(_where_vjp, _where_jvp, latex=("", r"[{0}]\,{g}", r"[\neg {0}]\,{g}")),
    latex=r"{0}\;?\;{1} : {2}", symbol="?:", samples=Samples(calls=_where_calls),
    doc="The second where the first holds, else the third.",
)  # fmt: skip


def where(condition: Operand, a: Operand, b: Operand) -> Node:
    """``a`` where ``condition`` holds, else ``b``; all three are broadcast. No gradient leaks from the branch not taken.

    Raises:
        DTypeError: the condition is not bool.

    >>> str(where(lift([True, False]), 1.0, 0).type)
    'f32[2]'
    """
    c = lift(condition)
    if c.dtype != bool_:
        raise DTypeError(f"where: the condition must be bool, got {c.type}", source=provenance.capture(), token="where",
                         help="compare first, e.g. graphc.ne(x, 0)")  # fmt: skip
    x, y = promote_dtypes("where", a, b)
    shape = broadcast_shapes("where", [c.shape, x.shape, y.shape], (c, x, y))
    return where_op(*(broadcast_to(n, shape) for n in (c, x, y)))


def clip(x: Operand, low: Operand | None = None, high: Operand | None = None) -> Node:
    """``x`` kept within ``low`` and ``high`` (either may be None). The gradient is halved exactly on a bound.

    >>> clip(lift([1.0]), 0, 2).op.name
    'minimum'
    """
    node = lift(x)
    if low is not None:
        node = ops.maximum(node, low)
    return node if high is None else ops.minimum(node, high)


def nan_to_num(x: Operand, nan: float = 0.0) -> Node:
    """``x`` with NaN replaced (infinities stay).

    >>> nan_to_num(lift([1.0])).op.name
    'where'
    """
    node = lift(x)
    return node if not node.dtype.is_float else where(ops.isnan(node), full_like(node, nan), node)


# --- products of cotangents ----------------------------------------------------------------------------------------


def _chain_expand(ct: Node, partial: Node) -> Node:
    return where(ops.eq(ct, 0), zeros_like(ct), ops.mul(ct, partial))


def _chain_vjp(g: Node, node: Node) -> tuple[Node | None, ...]:
    ct, partial = node.inputs
    # for the partial: g may be infinite where the branch was not taken, so the primal zero must win
    return chain_product(g, partial), chain_product(ct, g)


def _chain_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    (ct, partial), (t_ct, t_partial) = node.inputs, tangents
    terms = [] if t_ct is None else [chain_product(t_ct, partial)]
    terms += [] if t_partial is None else [chain_product(ct, t_partial)]  # the primal zero wins over a NaN tangent
    return ops.add(*terms) if len(terms) == 2 else terms[0] if terms else zeros_like(node)


def _infer_chain(types: tuple[TensorType, ...]) -> TensorType:
    out = same_types("chain_product", types)
    if not out.dtype.is_float:
        raise DTypeError(f"chain_product: is defined on floats, got {out}")
    return out


chain_product_op = composite(
    "chain_product", _chain_expand, infer=_infer_chain,
    # bilinear like a product: differentiating the expansion instead would lose d/dct = partial at ct = 0
    derivative=Custom(_chain_vjp, _chain_jvp), latex=r"{0} \cdot {1}", symbol="×₀",
    samples=Samples(((-3.0, 3.0), (-3.0, 3.0))), doc="Product in which an exact zero on the left wins over NaN and infinity.",
)  # fmt: skip


def chain_product(ct: Operand, partial: Operand) -> Node:
    """``ct * partial``, but 0 wherever ``ct`` is 0, even if ``partial`` is infinite or NaN: the chain rule behind a where.

    >>> str(chain_product(lift([0.0]), lift([float("inf")])).type)
    'f32[1]'
    """
    return chain_product_op(*promote("chain_product", ct, partial))


# --- derivatives of the user's -------------------------------------------------------------------------------------

stop_gradient_op = declare(
    "stop_gradient", infer=lambda types: types[0], reference=lambda x: x, derivative=Zero("stop_gradient stops it"),
    lowering=Movement(lambda node, index: index), latex=r"\operatorname{{stop}}({0})", symbol="stop",
    samples=Samples(calls=lambda: [(((2, 3),), {})], gradient=False), doc="The value itself, through which no derivative passes.",
)  # fmt: skip


def stop_gradient(x: Operand) -> Node:
    """``x`` as a constant for differentiation.

    >>> stop_gradient(lift([1.0])).op.name
    'stop_gradient'
    """
    return stop_gradient_op(lift(x))


class CustomFunction:
    """A function of the user's with derivatives of the user's; call it on nodes. Made by :func:`custom`."""

    def __init__(self, fn: Callable[..., Node], vjp: Callable[..., Any] | None, jvp: Callable[..., Any] | None) -> None:
        self.fn, self.vjp, self.jvp = fn, vjp, jvp
        self.__name__ = getattr(fn, "__name__", "custom")
        self.__doc__ = fn.__doc__

    def __call__(self, *operands: Operand) -> Node:
        return custom_op(*(lift(o) for o in operands), function=self)

    def __repr__(self) -> str:
        return self.__name__


def _custom_expand(*inputs: Node, function: CustomFunction) -> Node:
    result = function.fn(*inputs)
    if not isinstance(result, Node):
        raise DTypeError(f"custom: {function} returned {type(result).__name__}, not a symbolic value")
    return result


def _custom_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    function: CustomFunction = node.attrs["function"]
    if function.vjp is None:
        raise DifferentiationError(f"{function} declares no vjp", source=node.source, token=str(function),
                                   help="pass vjp= to graphc.custom")  # fmt: skip
    found = function.vjp(ct, node, *node.inputs)
    cotangents = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if len(cotangents) != len(node.inputs):
        raise DifferentiationError(
            f"the vjp of {function} returned {len(cotangents)} cotangents for {len(node.inputs)} operands",
            source=node.source, token=str(function), help="return one for each operand, None where there is none",
        )  # fmt: skip
    return tuple(
        None if c is None else _fitted(function, cast(lift(c), x.dtype), x)
        for c, x in zip(cotangents, node.inputs, strict=True)
    )


def _fitted(function: CustomFunction, ct: Node, x: Node) -> Node:
    if ct.shape not in (x.shape, ()):
        raise ShapeError(f"the vjp of {function} gave a cotangent {ct.type} for an operand {x.type}", source=x.source)
    return broadcast_to(ct, x.shape)


def _custom_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node | None:
    function: CustomFunction = node.attrs["function"]
    if function.jvp is None:
        return None  # forward mode transposes the vjp
    full = tuple(zeros_like(x) if t is None else t for t, x in zip(tangents, node.inputs, strict=True))
    return broadcast_to(cast(lift(function.jvp(full, node, *node.inputs)), node.dtype), node.shape)


custom_op = composite(
    "custom", _custom_expand, derivative=Custom(_custom_vjp, _custom_jvp), latex=r"\operatorname{{{function}}}({0})",
    symbol="ƒ", samples=None, doc="A function of the user's with a derivative of the user's.",
)  # fmt: skip


def custom(
    fn: Callable[..., Node] | None = None, *, vjp: Callable[..., Node | Sequence[Node | None]] | None = None,
    jvp: Callable[..., Node] | None = None,
) -> Any:  # fmt: skip
    """Give a function derivatives of your own; also a decorator, ``@custom(vjp=...)``.

    Args:
        fn: graph code, ``fn(*operands) -> Node``.
        vjp: ``vjp(ct, y, *operands)`` gives one cotangent an operand (a Node if there is one operand; None for none).
        jvp: ``jvp(tangents, y, *operands)`` gives the tangent of ``y``; missing tangents arrive as zeros.

    Forward mode without a ``jvp`` transposes the ``vjp``, which must be linear in ``ct``; differentiating a function that
    has neither raises a DifferentiationError.

    >>> @custom(vjp=lambda ct, y, x: ops.clip(ct, -1, 1))
    ... def clipped_gradient(x):
    ...     return x
    >>> clipped_gradient(lift([1.0])).op.name
    'custom'
    """
    if fn is None:
        return lambda fn: CustomFunction(fn, vjp, jvp)
    return CustomFunction(fn, vjp, jvp)


__all__ = ["CustomFunction", "chain_product", "clip", "custom", "nan_to_num", "stop_gradient", "where"]
