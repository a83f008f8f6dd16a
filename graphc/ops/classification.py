"""softmax and its family, one_hot, and the losses of classifiers as composites with their textbook gradients.

What enters: logits with classes along an axis; labels as class indices or distributions. What leaves: probabilities, or
one loss an example (reductions are in :mod:`graphc.losses`). The gradient of cross-entropy is ``softmax - one_hot``.
Labels are checked at run time: one outside of ``0 .. classes-1`` is an IndexRangeError (negative labels too).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import DTypeError, IndexRangeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, broadcast_to, lift, normal_axis, restore_axes, show, zeros_like
from graphc.ops.declare import Custom, Partials, Samples, Zero, composite, same_types
from graphc.ops.reductions import max_op, sum_op
from graphc.ops.transcendental import as_float
from graphc.types import Dim, DType, SymDim, TensorType, as_dtype, dim, float32, int32


def _infer_along(name: str) -> Any:
    def infer(types: tuple[TensorType, ...], *, axis: int) -> TensorType:
        (x,) = types
        if not x.dtype.is_float:
            raise DTypeError(f"{name}: is defined on floats, got {x}")
        if not 0 <= axis < x.rank:
            raise ShapeError(f"{name}: axis {axis} is outside of {x}")
        if x.shape[axis] == 0:
            raise ShapeError(f"{name}: {x} has no elements along axis {axis}")
        return x

    return infer


def _calls() -> list[Any]:
    return [(((5,),), {"axis": 0}), (((3, 4),), {"axis": 1}), (((2, 3, 2),), {"axis": 1})]


def _shifted(x: Node, axis: int) -> Node:
    return ops.sub(x, restore_axes(ops.stop_gradient(max_op(x, axes=(axis,))), x.shape, (axis,)))


def _along(node: Node, value: Node) -> Node:
    """Sum along the node's axis, spread again."""
    axes = (node.attrs["axis"],)
    return restore_axes(sum_op(value, axes=axes), node.shape, axes)


def _softmax(x: Node, *, axis: int) -> Node:
    e = ops.exp(_shifted(x, axis))
    return ops.mul(e, restore_axes(ops.div(1, sum_op(e, axes=(axis,))), x.shape, (axis,)))  # one division a row


def _softmax_pull(g: Node, y: Node) -> Node:
    return ops.mul(y, ops.sub(g, _along(y, ops.mul(g, y))))


softmax_op = composite(
    "softmax", _softmax, infer=_infer_along("softmax"),
    # the Jacobian diag(y) - y y^T is symmetric: one formula serves both directions
    derivative=Custom(lambda ct, y: (_softmax_pull(ct, y),),
                      lambda ts, y: zeros_like(y) if ts[0] is None else _softmax_pull(ts[0], y),
                      latex=(r"{y} \odot ({g} - \langle {g}, {y} \rangle)",)),
    latex=r"\operatorname{{softmax}}({0})", symbol="softmax", samples=Samples(calls=_calls),
    doc="exp(x) / sum(exp(x)) along an axis.",
)  # fmt: skip


def _log_softmax(x: Node, *, axis: int) -> Node:
    shifted = _shifted(x, axis)
    return ops.sub(shifted, restore_axes(ops.log(sum_op(ops.exp(shifted), axes=(axis,))), x.shape, (axis,)))


def _log_softmax_jvp(tangents: tuple[Node | None, ...], y: Node) -> Node:
    t = tangents[0]
    return zeros_like(y) if t is None else ops.sub(t, _along(y, ops.mul(ops.exp(y), t)))


log_softmax_op = composite(
    "log_softmax", _log_softmax, infer=_infer_along("log_softmax"),
    derivative=Custom(lambda ct, y: (ops.sub(ct, ops.mul(ops.exp(y), _along(y, ct))),), _log_softmax_jvp,
                      latex=(r"{g} - e^{{{y}}} \textstyle\sum {g}",)),
    latex=r"\ln\operatorname{{softmax}}({0})", symbol="log softmax", samples=Samples(calls=_calls),
    doc="x - ln(sum(exp(x))) along an axis.",
)  # fmt: skip


# --- labels --------------------------------------------------------------------------------------------------------


def _hits(labels: Node, classes: Dim) -> Node:
    """Where the class index equals the (guarded) label: the labels' shape and a last axis of classes."""
    shape = (*labels.shape, classes)
    checked = ops.check_index(labels, classes, negative=False)
    return ops.eq(broadcast_to(ops.expand_dims(checked, -1), shape), ops.iota(shape, len(shape) - 1, labels.dtype))


def _infer_one_hot(types: tuple[TensorType, ...], *, classes: Dim, dtype: DType) -> TensorType:
    if not types[0].dtype.is_integer:
        raise DTypeError(
            f"one_hot: labels must be integers, got {types[0]}", help="convert with graphc.cast(x, 'int32')"
        )
    return TensorType(dtype, (*types[0].shape, classes))


def _check_labels(labels: Any, classes: int) -> None:
    bad = (labels < 0) | (labels >= classes)
    if np.any(bad):
        raise IndexRangeError(f"label {np.asarray(labels)[bad].flat[0]} is out of range for {classes} classes")


def _one_hot_array(labels: Any, *, classes: int, dtype: DType) -> Any:
    _check_labels(labels, classes)
    return (np.asarray(labels)[..., None] == np.arange(classes)).astype(dtype.numpy)


one_hot_op = composite(
    "one_hot", lambda labels, *, classes, dtype: ops.cast(_hits(labels, classes), dtype), infer=_infer_one_hot,
    reference=_one_hot_array, derivative=Zero("labels have no derivative"), latex=r"\mathbf e_{{{0}}}", symbol="one_hot",
    samples=Samples(calls=lambda: [((np.array([0, 2, 1], np.int32),), {"classes": 3, "dtype": float32}),
                                   ((np.array([[1], [0]], np.int64),), {"classes": 2, "dtype": int32})], gradient=False),
    doc="1 at the label and 0 elsewhere, along a new last axis.",
)  # fmt: skip


def _infer_cross_entropy(types: tuple[TensorType, ...]) -> TensorType:
    logits, labels = types
    if not logits.dtype.is_float or not labels.dtype.is_integer:
        raise DTypeError(f"cross_entropy: float logits and integer labels are wanted, got {logits} and {labels}")
    if logits.rank == 0 or logits.shape[:-1] != labels.shape:
        raise ShapeError(f"cross_entropy: labels must be {show(logits.shape[:-1])} for logits {logits}, got {labels}")
    return logits.with_shape(logits.shape[:-1])


def _cross_entropy(logits: Node, labels: Node) -> Node:
    last = logits.ndim - 1
    shifted = _shifted(logits, last)
    picked = sum_op(ops.where(_hits(labels, logits.shape[-1]), shifted, 0), axes=(last,))
    return ops.sub(ops.log(sum_op(ops.exp(shifted), axes=(last,))), picked)


def _surplus(node: Node) -> Node:
    """softmax(logits) - one_hot(labels)."""
    logits, labels = node.inputs
    target = one_hot_op(labels, classes=logits.shape[-1], dtype=logits.dtype)
    return ops.sub(softmax_op(logits, axis=logits.ndim - 1), target)


def _cross_entropy_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    logits = node.inputs[0]
    return ops.mul(_surplus(node), restore_axes(ct, logits.shape, (logits.ndim - 1,))), None


def _cross_entropy_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    if tangents[0] is None:
        return zeros_like(node)
    return sum_op(ops.mul(_surplus(node), tangents[0]), axes=(node.ndim,))


def _cross_entropy_calls() -> list[Any]:
    return [
        (((4, 3), np.array([0, 2, 1, 1], np.int32)), {}),
        (((3,), np.array(2, np.int64)), {}),
        (((0, 3), np.zeros(0, np.int32)), {}),
    ]


cross_entropy_op = composite(
    "cross_entropy", _cross_entropy, infer=_infer_cross_entropy,
    derivative=Custom(_cross_entropy_vjp, _cross_entropy_jvp,
    latex=(r"(\operatorname{{softmax}}({0}) - \mathbf e_{{{1}}})\,{g}", "")),
    latex=r"-\ln\operatorname{{softmax}}({0})_{{{1}}}", symbol="CE", samples=Samples(calls=_cross_entropy_calls),
    doc="Negative log probability of the label under softmax of the last axis, one an example.",
)  # fmt: skip


def _infer_soft(types: tuple[TensorType, ...]) -> TensorType:
    out = same_types("soft_cross_entropy", types)
    if not out.dtype.is_float or out.rank == 0:
        raise ShapeError(f"soft_cross_entropy: float logits with classes along the last axis are wanted, got {out}")
    return out.with_shape(out.shape[:-1])


def _soft_cross_entropy(logits: Node, target: Node) -> Node:
    last = logits.ndim - 1
    return ops.neg(sum_op(ops.mul(target, log_softmax_op(logits, axis=last)), axes=(last,)))


soft_cross_entropy_op = composite(
    "soft_cross_entropy", _soft_cross_entropy, infer=_infer_soft, latex=r"-\langle {1}, \ln\operatorname{{softmax}}({0}) \rangle",
    symbol="CE", samples=Samples(((-3.0, 3.0), (0.0, 1.0)), calls=lambda: [(((4, 3), (4, 3)), {}), (((3,), (3,)), {})]),
    doc="Cross-entropy against a distribution along the last axis, one an example.",
)  # fmt: skip


def _infer_bce(types: tuple[TensorType, ...]) -> TensorType:
    out = same_types("binary_cross_entropy_with_logits", types)
    if not out.dtype.is_float:
        raise DTypeError(f"binary_cross_entropy_with_logits: is defined on floats, got {out}")
    return out


def _bce_array(x: Any, z: Any) -> Any:
    with np.errstate(all="ignore"):
        return (np.logaddexp(x.astype(np.float64), 0) - x.astype(np.float64) * z).astype(x.dtype)


bce_op = composite(
    "binary_cross_entropy_with_logits", lambda x, z: ops.sub(ops.softplus(x), ops.mul(x, z)),
    infer=_infer_bce, reference=_bce_array,
    derivative=Partials(lambda y, x, z: (ops.sub(ops.sigmoid(x), z), ops.neg(x)), (r"\sigma({0}) - {1}", "-{0}")),
    latex=r"\ln(1 + e^{{{0}}}) - {0}\,{1}", symbol="BCE", samples=Samples(((-3.0, 3.0), (0.0, 1.0))),
    doc="Negative log likelihood of a yes/no label under sigmoid(x), without overflow.",
)  # fmt: skip


def softmax(x: Operand, axis: int = -1) -> Node:
    """``exp(x) / sum(exp(x))`` along ``axis``, without overflow.

    Raises:
        ShapeError: the axis has no elements.

    >>> str(softmax(lift([[1.0, 2.0]])).type)
    'f32[1,2]'
    """
    node = as_float(x)
    return softmax_op(node, axis=normal_axis("softmax", axis, node.ndim))


def log_softmax(x: Operand, axis: int = -1) -> Node:
    """``log(softmax(x))`` along ``axis``, precise for small probabilities.

    >>> str(log_softmax(lift([[1.0, 2.0]])).type)
    'f32[1,2]'
    """
    node = as_float(x)
    return log_softmax_op(node, axis=normal_axis("log_softmax", axis, node.ndim))


def one_hot(labels: Operand, classes: int | str | SymDim, dtype: Any = "float32") -> Node:
    """1 at the label and 0 elsewhere, along a new last axis of ``classes``.

    At run time, a label outside of ``0 .. classes-1`` raises an IndexRangeError; negatives do not count from the end.

    >>> str(one_hot([2, 0], 3).type)
    'f32[2,3]'
    """
    node = lift(labels)
    if not node.dtype.is_integer:
        raise DTypeError(f"one_hot: labels must be integers, got {node.type}", source=provenance.capture(), token="one_hot",
                         help="convert with graphc.cast(x, 'int32')")  # fmt: skip
    return one_hot_op(node, classes=dim(classes), dtype=as_dtype(dtype))


__all__ = ["log_softmax", "one_hot", "softmax"]
