"""Metrics as symbolic scalars: what a model gets right, as a mean over the batch's examples.

What enters: predictions ``[batch, ...]`` and targets. What leaves: a float32 scalar. Invariant: each is a mean over
examples, so the mean over batches weighted by their sizes is the mean over a data set.

>>> import graphc.ops as ops
>>> from graphc.interpreter import evaluate
>>> evaluate(accuracy(ops.constant([[0.1, 0.9], [0.8, 0.2]]), ops.constant([1, 1]))).item()
0.5
"""

from __future__ import annotations

from graphc import ops, provenance
from graphc.errors import DTypeError, ShapeError
from graphc.ir import Node
from graphc.losses import mae as mean_absolute_error
from graphc.losses import mse as mean_squared_error

__all__ = [
    "accuracy",
    "binary_accuracy",
    "mean",
    "mean_absolute_error",
    "mean_squared_error",
    "top_k_accuracy",
]


def mean(values: Node) -> Node:
    """The mean of all values, a scalar."""
    return ops.mean(ops.cast(values, "float32") if not values.dtype.is_float else values)


def accuracy(logits: Node, label: Node) -> Node:
    """The share of examples whose largest logit is the label's (the first of equal ones counts).

    Args:
        logits: ``[batch, ..., classes]``. label: integers ``[batch, ...]``.

    Raises:
        ShapeError, DTypeError: they do not fit.
    """
    _check_labels("accuracy", logits, label)
    return mean(ops.eq(ops.cast(ops.argmax(logits, axis=-1), label.dtype), label))


def top_k_accuracy(logits: Node, label: Node, k: int = 5) -> Node:
    """The share of examples with fewer than ``k`` logits above the label's (ties count in its favour).

    Raises:
        ShapeError, DTypeError: the operands do not fit, or ``k`` is below 1.

    >>> from graphc.interpreter import evaluate
    >>> evaluate(top_k_accuracy(ops.constant([[3.0, 2.0, 1.0]]), ops.constant([1]), k=2)).item()
    1.0
    """
    _check_labels("top_k_accuracy", logits, label)
    if k < 1:
        raise ShapeError(f"top_k_accuracy: k is at least 1, got {k}", source=provenance.capture())
    classes = ops.iota(logits.shape, logits.ndim - 1, label.dtype)
    column = ops.reshape(label, (*label.shape, 1))
    own = ops.sum(ops.where(ops.eq(classes, column), logits, 0.0), axis=-1, keepdims=True)
    above = ops.sum(ops.cast(logits > own, "int32"), axis=-1)
    return mean(above < k)


def binary_accuracy(logits: Node, label: Node) -> Node:
    """The share of logits on the label's side of 0; labels above one half are positive.

    Raises:
        ShapeError: the shapes differ.

    >>> from graphc.interpreter import evaluate
    >>> evaluate(binary_accuracy(ops.constant([2.0, -1.0]), ops.constant([1, 1]))).item()
    0.5
    """
    if logits.shape != label.shape:
        raise ShapeError(
            f"binary_accuracy: logits are {logits.type}, labels {label.type}", source=provenance.capture(),
            help="both need one shape; reshape one of them",
        )  # fmt: skip
    positive = label > 0.5 if label.dtype.is_float else ops.ne(ops.cast(label, "int32"), 0)
    return mean(ops.eq(logits > 0.0, positive))


def _check_labels(name: str, logits: Node, label: Node) -> None:
    if not label.dtype.is_integer:
        raise DTypeError(f"{name}: labels are integers, got {label.type}", source=provenance.capture(), token=name)
    if logits.shape[:-1] != label.shape or logits.ndim == 0:
        raise ShapeError(
            f"{name}: logits are {logits.type}, labels {label.type}", source=provenance.capture(), token=name,
            help="logits have one axis more than labels, the last: the classes",
        )  # fmt: skip
