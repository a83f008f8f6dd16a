"""Reductions over axes, and running sums.

What enters: a value and the axes (None: all; negative count from the end). What leaves: a value without these axes, or
with axes of size 1 if ``keepdims``. Sums keep the operand's dtype (bools are counted in int32). Ties of max and min
share the gradient evenly. NaN wins in max and min, as in NumPy. ::

    %0: f32[batch] = sum(%x) {axes=(1,)}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError
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
    sum_op,
    zeros_like,
)  # fmt: skip
from graphc.ops.declare import (
    Custom,
    NotDifferentiable,
    Partial,
    Reduction,
    Samples,
    Template,
    Transpose,
    Zero,
    declare,
)
from graphc.types import Dim, TensorType, bool_, int32

COMBINERS = {
    "add": np.add, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip
Axis: TypeAlias = "int | Sequence[int] | None"


def _winners(node: Node) -> tuple[Node, Node]:
    """Where the operand equals its extremum (1.0 or 0.0), and how many do."""
    x, axes = node.inputs[0], node.attrs["axes"]
    mask = cast(ops.eq(x, restore_axes(node, x.shape, axes)), node.dtype)
    return mask, sum_op(mask, axes=axes)


def _extremum_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    mask, count = _winners(node)
    return (ops.mul(mask, restore_axes(ops.div(ct, count), mask.shape, node.attrs["axes"])),)


def _extremum_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    if tangents[0] is None:
        return zeros_like(node)
    mask, count = _winners(node)
    return ops.div(sum_op(ops.mul(mask, tangents[0]), axes=node.attrs["axes"]), count)


_EXTREMUM = Custom(_extremum_vjp, _extremum_jvp, latex=(r"{g}\,\frac{{[{0} = {y}]}}{{\sum [{0} = {y}]}}",))
max_op = declare(
    "max", infer=infer_reduction("max", ("int", "uint", "float"), empty=False),
    reference=lambda x, *, axes: np.asarray(np.max(x, axis=tuple(axes))), derivative=_EXTREMUM,
    lowering=Reduction("maximum"), latex=r"\max {0}", symbol="max", samples=Samples(calls=reduction_calls),
    doc="Largest along axes; ties share the gradient.",
)  # fmt: skip
min_op = declare(
    "min", infer=infer_reduction("min", ("int", "uint", "float"), empty=False),
    reference=lambda x, *, axes: np.asarray(np.min(x, axis=tuple(axes))), derivative=_EXTREMUM,
    lowering=Reduction("minimum"), latex=r"\min {0}", symbol="min", samples=Samples(calls=reduction_calls),
    doc="Smallest along axes; ties share the gradient.",
)  # fmt: skip


def _prod_slope(node: Node) -> Node:
    """Product of all *other* elements, without dividing by zero."""
    x, axes = node.inputs[0], node.attrs["axes"]
    is_zero = ops.eq(x, 0)
    safe = ops.where(is_zero, 1, x)
    rest = restore_axes(prod_op(safe, axes=axes), x.shape, axes)
    zeros = restore_axes(sum_op(cast(is_zero, int32), axes=axes), x.shape, axes)
    others = ops.sub(zeros, cast(is_zero, int32))
    return ops.where(ops.eq(others, 0), ops.div(rest, safe), 0)


def _prod_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    x = node.inputs[0]
    return (ops.mul(restore_axes(ct, x.shape, node.attrs["axes"]), _prod_slope(node)),)


def _prod_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    if tangents[0] is None:
        return zeros_like(node)
    return sum_op(ops.mul(tangents[0], _prod_slope(node)), axes=node.attrs["axes"])


prod_op = declare(
    "prod", infer=infer_reduction("prod", ("int", "uint", "float")),
    reference=lambda x, *, axes: np.asarray(np.prod(x, axis=tuple(axes), dtype=x.dtype)),
    derivative=Custom(_prod_vjp, _prod_jvp, latex=(r"{g}\,\tfrac{{{y}}}{{{0}}}",)), lowering=Reduction("mul"),
    latex=r"\prod {0}", symbol="Π", samples=Samples(((0.3, 2.0),), calls=reduction_calls),
    doc="Product along axes. The gradient is right at zeros too; second derivatives exactly at zeros are not given.",
)  # fmt: skip


def _truth_calls() -> list[Any]:
    x = np.array([[True, False, True], [True, True, True]])
    return [((x,), {"axes": (1,)}), ((x,), {"axes": (0, 1)}), ((x,), {"axes": (0,)})]


all_op = declare(
    "all", infer=infer_reduction("all", ("bool",)), reference=lambda x, *, axes: np.asarray(np.all(x, axis=tuple(axes))),
    derivative=Zero("logic is piecewise constant"), lowering=Reduction("and"), latex=r"\bigwedge {0}", symbol="∀",
    samples=Samples(calls=_truth_calls, gradient=False), doc="Whether all along axes are true.",
)  # fmt: skip
any_op = declare(
    "any", infer=infer_reduction("any", ("bool",)), reference=lambda x, *, axes: np.asarray(np.any(x, axis=tuple(axes))),
    derivative=Zero("logic is piecewise constant"), lowering=Reduction("or"), latex=r"\bigvee {0}", symbol="∃",
    samples=Samples(calls=_truth_calls, gradient=False), doc="Whether any along axes is true.",
)  # fmt: skip


def _infer_partial(types: tuple[TensorType, ...], *, combiner: str, axes: tuple[int, ...], size: int) -> TensorType:
    (x,) = types
    if not axes or tuple(axes) != tuple(range(len(axes))) or len(axes) > x.rank:
        raise AttributeRuleError(f"partial: axes {tuple(axes)} are not the leading axes of {x}")
    if combiner not in COMBINERS or (combiner != "add" and len(axes) < x.rank):
        raise AttributeRuleError(f"partial: {combiner} is no combiner for axes {tuple(axes)} of {x}")
    shape = x.static_shape
    if size < 1 or shape[0] < 1:
        raise AttributeRuleError(f"partial: blocks of {size} of {shape[0]} rows")
    return x.with_shape((-(-shape[0] // size), *shape[len(axes) :]))


def _partial(x: Any, *, combiner: str, axes: tuple[int, ...], size: int) -> Any:
    blocks = [x[start : start + size] for start in range(0, x.shape[0], size)]
    return np.stack([COMBINERS[combiner].reduce(b, axis=tuple(axes), dtype=x.dtype) for b in blocks])


partial_op = declare(
    "partial", infer=_infer_partial, reference=_partial,
    derivative=NotDifferentiable("passes make it of a reduction, after gradients have been taken"),
    lowering=Partial(), latex=r"\operatorname{{partial}}({0})", symbol="Σ|",
    samples=Samples(calls=lambda: [(((5,),), {"combiner": "add", "axes": (0,), "size": 2}),
                                   (((6, 4),), {"combiner": "maximum", "axes": (0, 1), "size": 2}),
                                   (((7, 3),), {"combiner": "add", "axes": (0,), "size": 3})], gradient=False),
    doc="Reductions of blocks of the first axis, over leading axes: a step of a large reduction.",
)  # fmt: skip


def _infer_cumsum(types: tuple[TensorType, ...], *, axis: int, reverse: bool) -> TensorType:
    (x,) = types
    if not 0 <= axis < x.rank:
        raise AttributeRuleError(f"cumsum: axis {axis} is outside of rank {x.rank}")
    if x.dtype == bool_:
        raise DTypeError("cumsum: is defined on numbers, got bool", help="convert with graphc.cast(x, 'int32')")
    return x


def _cumsum(x: Any, *, axis: int, reverse: bool) -> Any:
    y = np.flip(x, axis) if reverse else x
    y = np.cumsum(y, axis=axis, dtype=x.dtype)
    return np.ascontiguousarray(np.flip(y, axis)) if reverse else y


cumsum_op = declare(
    "cumsum", infer=_infer_cumsum, reference=_cumsum,
    derivative=Transpose(lambda ct, node, i: ops.cumsum(ct, node.attrs["axis"], not node.attrs["reverse"])),
    lowering=Template("cumsum"), latex=r"\operatorname{{cumsum}}({0})", symbol="Σ≤",
    samples=Samples(calls=lambda: [(((4,),), {"axis": 0, "reverse": False}), (((2, 3),), {"axis": 1, "reverse": True})]),
    doc="Running sum along an axis, from its end if reverse.",
)  # fmt: skip


def keep(y: Node, x: Node, axes: tuple[int, ...], keepdims: bool) -> Node:
    """The result of a reduction of ``x``, with the removed axes put back as size 1 if wanted.

    >>> keep(lift(1.0), lift([1.0]), (0,), True).shape
    (1,)
    """
    return ops.reshape(y, tuple(1 if a in axes else d for a, d in enumerate(x.shape))) if keepdims else y


def _numeric(x: Operand) -> Node:
    node = lift(x)
    return cast(node, int32) if node.dtype == bool_ else node


def sum(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Sum over ``axis`` (all if None), in the dtype of ``x``; bools are counted in int32. The sum of nothing is 0.

    >>> str(sum(lift([[1.0, 2.0]]), axis=1).type)
    'f32[1]'
    """
    node = _numeric(x)
    axes = normal_axes("sum", axis, node.ndim)
    return keep(sum_op(node, axes=axes), node, axes, keepdims)


def prod(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Product over ``axis`` (all if None). The product of nothing is 1.

    >>> str(prod(lift([[1.0, 2.0]]), axis=1).type)
    'f32[1]'
    """
    node = _numeric(x)
    axes = normal_axes("prod", axis, node.ndim)
    return keep(prod_op(node, axes=axes), node, axes, keepdims)


def max(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Largest over ``axis`` (all if None); NaN wins; ties share the gradient evenly.

    Raises:
        ShapeError: there are no elements.

    >>> str(max(lift([[1.0, 2.0]]), axis=-1, keepdims=True).type)
    'f32[1,1]'
    """
    node = _numeric(x)
    axes = normal_axes("max", axis, node.ndim)
    return keep(max_op(node, axes=axes), node, axes, keepdims)


def min(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Smallest over ``axis`` (all if None); NaN wins; ties share the gradient evenly.

    >>> str(min(lift([[1.0, 2.0]]), axis=-1).type)
    'f32[1]'
    """
    node = _numeric(x)
    axes = normal_axes("min", axis, node.ndim)
    return keep(min_op(node, axes=axes), node, axes, keepdims)


def _bools(name: str, x: Operand) -> Node:
    node = lift(x)
    if node.dtype != bool_:
        raise DTypeError(f"{name}: wants bools, got {node.type}", source=provenance.capture(), token=name,
                         help="compare first, e.g. graphc.ne(x, 0)")  # fmt: skip
    return node


def all(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Whether all bools over ``axis`` are true.

    >>> str(all(lift([True, False])).type)
    'bool[]'
    """
    node = _bools("all", x)
    axes = normal_axes("all", axis, node.ndim)
    return keep(all_op(node, axes=axes), node, axes, keepdims)


def any(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """Whether any bool over ``axis`` is true.

    >>> str(any(lift([True, False])).type)
    'bool[]'
    """
    node = _bools("any", x)
    axes = normal_axes("any", axis, node.ndim)
    return keep(any_op(node, axes=axes), node, axes, keepdims)


def cumsum(x: Operand, axis: int = -1, reverse: bool = False) -> Node:
    """Running sum along one axis; with ``reverse`` from the end.

    >>> str(cumsum(lift([1.0, 2.0])).type)
    'f32[2]'
    """
    node = _numeric(x)
    return cumsum_op(node, axis=normal_axis("cumsum", axis, node.ndim), reverse=bool(reverse))


def count(x: Node, axes: tuple[int, ...]) -> Dim:
    """How many elements a reduction folds into one.

    >>> count(lift([[1.0, 2.0]]), (0, 1))
    2
    """
    total: Dim = 1
    for a in axes:
        total = total * x.shape[a]
    return total


__all__ = ["all", "any", "cumsum", "max", "min", "prod", "sum"]
