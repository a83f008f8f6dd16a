"""Composite reductions: mean, var, std, norm, logsumexp, argmax, argmin.

What enters: a value and axes (None: all). What leaves: the reduced value. Sizes of symbolic axes divide as ``size``
nodes, so that a mean over "batch" is right for every batch. NaN: as in NumPy (argmax gives the first NaN).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import (
    Operand,
    cast,
    infer_reduction,
    lift,
    normal_axes,
    normal_axis,
    reduction_calls,
    restore_axes,
    zeros_like,
)
from graphc.ops.declare import Custom, Samples, Transpose, Zero, composite
from graphc.ops.reductions import Axis, count, keep, max_op, min_op, sum_op
from graphc.ops.transcendental import as_float
from graphc.types import TensorType, bool_, int32

_FLOAT = ("float",)


def _mean(x: Node, *, axes: tuple[int, ...]) -> Node:
    return ops.div(sum_op(x, axes=axes), ops.size(count(x, axes), x.dtype))


def _mean_transpose(ct: Node, node: Node, _: int) -> Node:
    x, axes = node.inputs[0], node.attrs["axes"]
    return restore_axes(ops.div(ct, ops.size(count(x, axes), x.dtype)), x.shape, axes)


def _mean_reference(x: Any, *, axes: Any) -> Any:
    n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    with np.errstate(all="ignore"):
        return np.asarray(np.sum(x, axis=tuple(axes), dtype=x.dtype) / x.dtype.type(n))


mean_op = composite(
    "mean", _mean, infer=infer_reduction("mean", _FLOAT), reference=_mean_reference,
    derivative=Transpose(_mean_transpose, latex=(r"\tfrac1n\,{g}\,\mathbf 1",)), latex=r"\tfrac1n\sum {0}", symbol="mean",
    samples=Samples(calls=reduction_calls), doc="Average along axes; NaN of nothing.",
)  # fmt: skip


def _var(x: Node, *, axes: tuple[int, ...], ddof: int) -> Node:
    centred = ops.sub(x, restore_axes(mean_op(x, axes=axes), x.shape, axes))
    n = ops.size(count(x, axes), x.dtype)
    return ops.div(sum_op(ops.mul(centred, centred), axes=axes), ops.sub(n, ddof) if ddof else n)


def _infer_var(types: tuple[TensorType, ...], *, axes: tuple[int, ...], ddof: int) -> TensorType:
    return infer_reduction("var", _FLOAT)(types, axes=axes)


def _var_calls() -> list[Any]:
    return [
        (((5,),), {"axes": (0,), "ddof": 0}),
        (((3, 4),), {"axes": (1,), "ddof": 1}),
        (((2, 3),), {"axes": (0, 1), "ddof": 0}),
    ]


var_op = composite(
    "var", _var, infer=_infer_var, latex=r"\operatorname{{var}}({0})", symbol="var", samples=Samples(calls=_var_calls),
    doc="Mean squared distance from the mean; ddof=1 for the unbiased estimate.",
)  # fmt: skip


def _norm_slope(node: Node) -> Node:
    x, axes = node.inputs[0], node.attrs["axes"]
    safe = ops.where(ops.eq(node, 0), 1, node)  # at 0 the subgradient 0 is taken
    return ops.div(x, restore_axes(safe, x.shape, axes))


def _norm_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    return (ops.mul(restore_axes(ct, node.inputs[0].shape, node.attrs["axes"]), _norm_slope(node)),)


def _norm_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    return (
        zeros_like(node)
        if tangents[0] is None
        else sum_op(ops.mul(tangents[0], _norm_slope(node)), axes=node.attrs["axes"])
    )


norm_op = composite(
    "norm", lambda x, *, axes: ops.sqrt(sum_op(ops.mul(x, x), axes=axes)), infer=infer_reduction("norm", _FLOAT),
    derivative=Custom(_norm_vjp, _norm_jvp, latex=(r"{g}\,\tfrac{{{0}}}{{{y}}}",)), latex=r"\lVert {0} \rVert_2", symbol="‖x‖",
    samples=Samples(((0.3, 3.0),), calls=reduction_calls), doc="Euclidean length along axes; its gradient at 0 is 0.",
)  # fmt: skip


def _logsumexp(x: Node, *, axes: tuple[int, ...]) -> Node:
    top = max_op(x, axes=axes)
    shift = ops.where(ops.isfinite(top), top, 0)  # all -inf, or a +inf: no inf - inf
    e = ops.exp(ops.sub(x, restore_axes(shift, x.shape, axes)))
    return ops.add(ops.log(sum_op(e, axes=axes)), shift)


def _share(node: Node) -> Node:
    """softmax of the operand from its logsumexp: exp(x - y); all -inf shares nothing."""
    x, axes = node.inputs[0], node.attrs["axes"]
    y = ops.where(ops.eq(node, -np.inf), 0, node)
    return ops.exp(ops.sub(x, restore_axes(y, x.shape, axes)))


def _logsumexp_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    return (ops.mul(restore_axes(ct, node.inputs[0].shape, node.attrs["axes"]), _share(node)),)


def _logsumexp_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    return (
        zeros_like(node) if tangents[0] is None else sum_op(ops.mul(tangents[0], _share(node)), axes=node.attrs["axes"])
    )


logsumexp_op = composite(
    "logsumexp", _logsumexp, infer=infer_reduction("logsumexp", _FLOAT, empty=False),
    derivative=Custom(_logsumexp_vjp, _logsumexp_jvp, latex=(r"{g}\,\operatorname{{softmax}}({0})",)),
    latex=r"\ln\sum e^{{{0}}}", symbol="lse", samples=Samples(calls=reduction_calls), doc="ln(sum(exp(x))) without overflow.",
)  # fmt: skip


def _first_hit(x: Node, best: Node, axis: int) -> Node:
    hit = ops.eq(x, restore_axes(best, x.shape, (axis,)))
    if x.dtype.is_float:
        hit = ops.logical_or(hit, ops.isnan(x))
    place = ops.where(hit, ops.iota(x.shape, axis), ops.size(x.shape[axis], int32))
    return min_op(place, axes=(axis,))


def _infer_arg(name: str) -> Any:
    rule = infer_reduction(name, ("int", "uint", "float"), empty=False)

    def infer(types: tuple[TensorType, ...], *, axis: int) -> TensorType:
        return rule(types, axes=(axis,)).with_dtype(int32)

    return infer


def _arg_calls() -> list[Any]:
    return [((np.array([1.0, 3.0, 3.0, 2.0]),), {"axis": 0}), ((np.array([[1.0, np.nan, np.nan], [0.0, 0.0, -1.0]]),), {"axis": 1}),
            (((2, 3, 4),), {"axis": 1})]  # fmt: skip


argmax_op = composite(
    "argmax", lambda x, *, axis: _first_hit(x, max_op(x, axes=(axis,)), axis), infer=_infer_arg("argmax"),
    reference=lambda x, *, axis: np.asarray(np.argmax(x, axis=axis)).astype(np.int32),
    derivative=Zero("a position is piecewise constant"),
    latex=r"\operatorname{{arg\,max}} {0}", symbol="argmax", samples=Samples(calls=_arg_calls, gradient=False),
    doc="Place of the first largest.",
)  # fmt: skip
argmin_op = composite(
    "argmin", lambda x, *, axis: _first_hit(x, min_op(x, axes=(axis,)), axis), infer=_infer_arg("argmin"),
    reference=lambda x, *, axis: np.asarray(np.argmin(x, axis=axis)).astype(np.int32),
    derivative=Zero("a position is piecewise constant"),
    latex=r"\operatorname{{arg\,min}} {0}", symbol="argmin", samples=Samples(calls=_arg_calls, gradient=False),
    doc="Place of the first smallest.",
)  # fmt: skip


def mean(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Average over ``axis`` (all if None); integers average in float32. The mean of nothing is NaN.

    >>> str(mean(lift([[1, 2]]), axis=1).type)
    'f32[1]'
    """
    node = as_float(x)
    axes = normal_axes("mean", axis, node.ndim)
    return keep(mean_op(node, axes=axes), node, axes, keepdims)


def var(x: Operand, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Node:
    """Mean squared distance from the mean; ``ddof=1`` divides by n - 1.

    >>> str(var(lift([[1.0, 2.0]]), axis=1).type)
    'f32[1]'
    """
    node = as_float(x)
    axes = normal_axes("var", axis, node.ndim)
    return keep(var_op(node, axes=axes, ddof=int(ddof)), node, axes, keepdims)


def std(x: Operand, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Node:
    """Square root of :func:`var`.

    >>> str(std(lift([[1.0, 2.0]]), axis=1).type)
    'f32[1]'
    """
    return ops.sqrt(var(x, axis, keepdims, ddof))


def norm(x: Operand, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Node:
    """Length of vectors along ``axis`` (of all elements if None): ``ord`` 1, 2 or infinity. The gradient at 0 is 0.

    >>> str(norm(lift([[3.0, 4.0]]), axis=1).type)
    'f32[1]'
    """
    node = as_float(x)
    if ord == 1:
        return ops.sum(ops.abs(node), axis, keepdims)
    if ord == float("inf"):
        return ops.max(ops.abs(node), axis, keepdims)
    if ord != 2:
        raise AttributeRuleError(
            f"norm: ord={ord!r} is not supported", source=provenance.capture(), token="norm", help="choose 1, 2 or inf"
        )
    axes = normal_axes("norm", axis, node.ndim)
    return keep(norm_op(node, axes=axes), node, axes, keepdims)


def logsumexp(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """``log(sum(exp(x)))`` without overflow; its gradient is the softmax.

    >>> str(logsumexp(lift([[3.0, 4.0]]), axis=1).type)
    'f32[1]'
    """
    node = as_float(x)
    axes = normal_axes("logsumexp", axis, node.ndim)
    return keep(logsumexp_op(node, axes=axes), node, axes, keepdims)


def _arg(name: str, op: Any, x: Operand, axis: int | None, keepdims: bool) -> Node:
    node = lift(x)
    node = cast(node, int32) if node.dtype == bool_ else node
    if axis is None:
        place = op(ops.reshape(node, (-1,)), axis=0)
        return keep(place, node, tuple(range(node.ndim)), keepdims)
    if node.ndim == 0:
        raise ShapeError(f"{name}: a scalar has no axis", source=provenance.capture(), token=name)
    a = normal_axis(name, axis, node.ndim)
    return keep(op(node, axis=a), node, (a,), keepdims)


def argmax(x: Operand, axis: int | None = None, keepdims: bool = False) -> Node:
    """Place of the first largest along ``axis`` (in all elements if None), int32; NaN counts as largest.

    >>> str(argmax(lift([[3.0, 4.0]]), axis=1).type)
    'i32[1]'
    """
    return _arg("argmax", argmax_op, x, axis, keepdims)


def argmin(x: Operand, axis: int | None = None, keepdims: bool = False) -> Node:
    """Place of the first smallest along ``axis`` (in all elements if None), int32; NaN counts as smallest.

    >>> str(argmin(lift([[3.0, 4.0]]), axis=1).type)
    'i32[1]'
    """
    return _arg("argmin", argmin_op, x, axis, keepdims)


__all__ = ["argmax", "argmin", "logsumexp", "mean", "norm", "std", "var"]
