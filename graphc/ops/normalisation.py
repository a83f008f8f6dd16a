"""layer_norm as a composite with its textbook gradient.

What enters: values ``[..., n]``, a gain and a shift ``[n]``. What leaves: each row with mean 0 and variance 1, scaled and
shifted. Invariant: the gradient is written with the forward's own statistics, so that equal subexpressions meet and a row
is read once forward and once backward.

Source: Ba, Kiros, Hinton, "Layer normalization" (2016), equations 3 and 4.
"""

from __future__ import annotations

from typing import Any

import graphc.ops as ops
from graphc.errors import DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import Operand, promote_dtypes, restore_axes, zeros_like
from graphc.ops.declare import Custom, Samples, composite
from graphc.ops.reductions import sum_op
from graphc.ops.statistics import mean_op
from graphc.types import TensorType


def _infer(types: tuple[TensorType, ...], *, eps: float) -> TensorType:
    if len(types) != 3:
        raise ShapeError(f"layer_norm: takes a value, a gain and a shift, got {len(types)} operands")
    x, gain, shift = types
    if not x.dtype.is_float:
        raise DTypeError(f"layer_norm: is defined on floats, got {x}")
    if {gain.dtype, shift.dtype} != {x.dtype}:
        raise DTypeError(f"layer_norm: dtypes differ, {x} against {gain} and {shift}")
    if x.rank == 0 or x.shape[-1] == 0:
        raise ShapeError(f"layer_norm: {x} has no features in its last axis")
    for name, t in (("gain", gain), ("shift", shift)):
        if t.shape != x.shape[-1:]:
            raise ShapeError(f"layer_norm: the {name} is {t}, the features are {x.shape[-1]}")
    return x


def _over_rows(x: Node, value: Node) -> Node:
    """A value for each row, spread over the row."""
    return restore_axes(value, x.shape, (x.ndim - 1,))


def _row_mean(x: Node) -> Node:
    return mean_op(x, axes=(x.ndim - 1,))


def _centred(x: Node, eps: float) -> tuple[Node, Node]:
    """The row with mean 0, and one over its standard deviation (a value for each row)."""
    centred = ops.sub(x, _over_rows(x, _row_mean(x)))
    return centred, ops.rsqrt(ops.add(_row_mean(ops.mul(centred, centred)), eps))


def _standard(x: Node, eps: float) -> Node:
    """The row with mean 0 and variance 1."""
    centred, scale = _centred(x, eps)
    return ops.mul(centred, _over_rows(x, scale))


def _along_features(x: Node, value: Node) -> Node:
    """A value for each feature, spread over the rows."""
    return restore_axes(value, x.shape, tuple(range(x.ndim - 1)))


def _layer_norm(x: Node, gain: Node, shift: Node, *, eps: float) -> Node:
    standard = _standard(x, eps)
    return ops.add(ops.mul(standard, _along_features(x, gain)), _along_features(x, shift))


def _pull(x: Node, back: Node, eps: float) -> Node:
    """The cotangent of x for the cotangent ``back`` of the standardised rows; symmetric, so it pushes tangents as well."""
    centred, scale = _centred(x, eps)
    # the sum over the centred row runs in the same pass over memory as the variance; over the standardised one, after it
    share = ops.mul(_row_mean(ops.mul(back, centred)), ops.mul(scale, scale))
    moved = ops.sub(ops.sub(back, _over_rows(x, _row_mean(back))), ops.mul(centred, _over_rows(x, share)))
    return ops.mul(_over_rows(x, scale), moved)


def _vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    x, gain, _ = node.inputs
    eps = node.attrs["eps"]
    rows = tuple(range(x.ndim - 1))
    standard = _standard(x, eps)
    d_gain, d_shift = ops.mul(ct, standard), ct
    if rows:
        d_gain, d_shift = sum_op(d_gain, axes=rows), sum_op(d_shift, axes=rows)
    return _pull(x, ops.mul(ct, _along_features(x, gain)), eps), d_gain, d_shift


def _jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    x, gain, _ = node.inputs
    dx, d_gain, d_shift = tangents
    total = zeros_like(node)
    if dx is not None:
        total = ops.add(total, ops.mul(_pull(x, dx, node.attrs["eps"]), _along_features(x, gain)))
    if d_gain is not None:
        total = ops.add(total, ops.mul(_standard(x, node.attrs["eps"]), _along_features(x, d_gain)))
    return total if d_shift is None else ops.add(total, _along_features(x, d_shift))


def _calls() -> list[Any]:
    return [
        (((4,), (4,), (4,)), {"eps": 1e-5}),
        (((3, 5), (5,), (5,)), {"eps": 1e-5}),
        (((2, 3, 2), (2,), (2,)), {"eps": 0.1}),
    ]


layer_norm_op = composite(
    "layer_norm", _layer_norm, infer=_infer,
    derivative=Custom(_vjp, _jvp, latex=(
        r"\tfrac{{1}}{{\sigma}}\big({g}' - \overline{{{g}'}} - \hat{{x}}\,\overline{{{g}'\hat{{x}}}}\big)",
        r"\textstyle\sum {g} \odot \hat{{x}}", r"\textstyle\sum {g}",
    )),
    latex=r"\tfrac{{{0} - \mu}}{{\sigma}} \odot {1} + {2}", symbol="layer norm", samples=Samples(calls=_calls),
    doc="Rows with mean 0 and variance 1, times a gain, plus a shift.",
)  # fmt: skip


def layer_norm(x: Operand, gain: Operand, shift: Operand, eps: float = 1e-5) -> Node:
    """``(x - mean) / sqrt(var + eps) * gain + shift`` over the last axis: ``[..., n], [n], [n] -> [..., n]``.

    Raises:
        DTypeError: not floats of one kind. ShapeError: gain or shift are not ``[n]``, or n is 0.

    Source: Ba, Kiros, Hinton, "Layer normalization" (2016).

    >>> x = ops.input("x", ("batch", 8))
    >>> str(layer_norm(x, ops.ones((8,)), ops.zeros((8,))).type)
    'f32[batch,8]'
    """
    a, b, c = promote_dtypes("layer_norm", x, gain, shift)
    return layer_norm_op(a, b, c, eps=float(eps))
