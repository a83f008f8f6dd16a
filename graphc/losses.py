"""Losses: what a prediction costs against the truth.

What enters: predictions and targets with matching shapes (symbolic "batch" is fine). What leaves: a scalar for
``reduction`` "mean" or "sum", one loss an example (or element) for "none". Every loss is stable for all finite inputs. ::

    loss = graphc.losses.cross_entropy(logits, label)     # logits f32[batch,10], label i32[batch]
"""

from __future__ import annotations

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, operand_notes, show
from graphc.ops.classification import bce_op, cross_entropy_op, soft_cross_entropy_op


def reduce(loss: Node, reduction: str, name: str = "reduction") -> Node:
    """A loss an example reduced by "mean", "sum" or "none".

    Raises:
        AttributeRuleError: another word.

    >>> reduce(ops.lift([1.0, 2.0]), "sum").shape
    ()
    """
    match reduction:
        case "mean":
            return ops.mean(loss)
        case "sum":
            return ops.sum(loss)
        case "none":
            return loss
    raise AttributeRuleError(f"{name}: reduction={reduction!r}", source=provenance.capture(), token=name,
                             help="choose 'mean', 'sum' or 'none'")  # fmt: skip


def cross_entropy(logits: Operand, target: Operand, *, axis: int = -1, reduction: str = "mean") -> Node:
    """Negative log probability of the target under ``softmax(logits)``.

    Args:
        logits: floats with classes along ``axis``.
        target: class indices (integers, the shape of ``logits`` without ``axis``), or distributions (floats, its shape).
        reduction: "mean" over examples, "sum", or "none".

    A class index outside of ``0 .. classes-1`` raises an IndexRangeError at run time. The gradient in the logits is
    ``softmax(logits) - one_hot(target)``, see Bishop, Pattern Recognition and Machine Learning (2006), eq. 4.109.

    Raises:
        ShapeError, DTypeError: the target does not fit the logits.

    >>> x = ops.input("x", ("batch", 10)); label = ops.input("label", ("batch",), "int32")
    >>> str(cross_entropy(x, label, reduction="none").type)
    'f32[batch]'
    """
    x, t = ops.as_float(logits), ops.lift(target)
    if x.ndim == 0:
        raise ShapeError(
            "cross_entropy: logits need an axis of classes", source=provenance.capture(), token="cross_entropy"
        )
    x = ops.moveaxis(x, axis, -1) if axis not in (-1, x.ndim - 1) else x
    if t.dtype.is_integer:
        if t.shape != x.shape[:-1]:
            raise ShapeError(
                f"cross_entropy: class indices must be {show(x.shape[:-1])}, got {show(t.shape)}", source=provenance.capture(),
                token="cross_entropy", notes=operand_notes((x, t)),
                help="one index an example; for distributions pass floats of the logits' shape",
            )  # fmt: skip
        return reduce(cross_entropy_op(x, t), reduction, "cross_entropy")
    if not t.dtype.is_float:
        raise DTypeError(f"cross_entropy: the target is {t.dtype}", source=provenance.capture(), token="cross_entropy",
                         help="class indices are integers, distributions floats")  # fmt: skip
    t = ops.moveaxis(t, axis, -1) if t.ndim == x.ndim and axis not in (-1, x.ndim - 1) else t
    if t.shape != x.shape:
        raise ShapeError(f"cross_entropy: distributions must be {show(x.shape)}, got {show(t.shape)}", source=provenance.capture(),
                         token="cross_entropy", notes=operand_notes((x, t)))  # fmt: skip
    x, t = ops.promote_dtypes("cross_entropy", x, t)
    return reduce(soft_cross_entropy_op(x, t), reduction, "cross_entropy")


def binary_cross_entropy_with_logits(logits: Operand, target: Operand, *, reduction: str = "mean") -> Node:
    """``-t log s(x) - (1 - t) log(1 - s(x))`` with the sigmoid ``s``, computed as ``softplus(x) - x t``.

    ``target`` holds probabilities or 0 and 1 (bools and integers are converted), broadcast against ``logits``.

    >>> binary_cross_entropy_with_logits(ops.lift([0.5, -2.0]), [1, 0]).shape
    ()
    """
    x, t = ops.promote("binary_cross_entropy_with_logits", ops.as_float(logits), target)
    return reduce(bce_op(x, t), reduction, "binary_cross_entropy_with_logits")


def mse(prediction: Operand, target: Operand, *, reduction: str = "mean") -> Node:
    """Squared difference.

    >>> mse(ops.lift([0.5, -2.0]), [1.0, 0.0], reduction="none").shape
    (2,)
    """
    return reduce(ops.square(ops.sub(*_pair("mse", prediction, target))), reduction, "mse")


def mae(prediction: Operand, target: Operand, *, reduction: str = "mean") -> Node:
    """Absolute difference; its derivative at equality is 0.

    >>> mae(ops.lift([0.5, -2.0]), [1.0, 0.0]).shape
    ()
    """
    return reduce(ops.abs(ops.sub(*_pair("mae", prediction, target))), reduction, "mae")


def huber(prediction: Operand, target: Operand, *, delta: float = 1.0, reduction: str = "mean") -> Node:
    """``d^2 / 2`` for differences up to ``delta``, then linear: ``delta (|d| - delta / 2)`` (Huber 1964).

    >>> huber(ops.lift([0.5, -2.0]), [1.0, 0.0]).shape
    ()
    """
    d = ops.abs(ops.sub(*_pair("huber", prediction, target)))
    near = ops.mul(ops.square(d), 0.5)
    far = ops.mul(ops.sub(d, delta / 2), delta)
    return reduce(ops.where(ops.le(d, delta), near, far), reduction, "huber")


def _pair(name: str, prediction: Operand, target: Operand) -> tuple[Node, Node]:
    """Two operands as floats of *one* shape: a loss that broadcast [n,1] against [n] would be silently wrong."""
    a, b = ops.promote_dtypes(name, ops.as_float(prediction), target)
    if a.shape != b.shape and () not in (a.shape, b.shape):
        raise ShapeError(f"{name}: shapes differ, {show(a.shape)} against {show(b.shape)}", source=provenance.capture(), token=name,
                         notes=operand_notes((a, b)), help="reshape one so that they are equal")  # fmt: skip
    return a, b


__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "huber", "mae", "mse", "reduce"]
