"""Indices as values: iota, sizes, take, scatter_add, take_along_axis, check_index.

What enters: values and integer values that index them. What leaves: picked or placed elements. Indices that are only
known at run time are guarded: one out of range is an IndexRangeError that names the user's line; a negative one counts
from the end (of take and scatter_add, as in NumPy). take/scatter_add are an adjoint pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, IndexRangeError, ShapeError
from graphc.ir import Node, make
from graphc.ops.broadcasting import Operand, broadcast_to, cast, lift, normal_axis, operand_notes, show, zeros_like
from graphc.ops.declare import (
    Gather,
    Guarded,
    Iota,
    Literal,
    NotDifferentiable,
    Samples,
    Template,
    Transpose,
    Zero,
    declare,
)
from graphc.ops.movement import reshape
from graphc.ops.sources import constant
from graphc.types import Dim, DType, Shape, SymDim, TensorType, as_dtype, as_shape, dim, int32, int64

# --- counting ------------------------------------------------------------------------------------------------------


def _infer_iota(types: tuple[TensorType, ...], *, shape: Shape, axis: int, dtype: DType) -> TensorType:
    if not 0 <= axis < len(shape):
        raise AttributeRuleError(f"iota: axis {axis} is outside of {show(shape)}")
    if dtype.kind == "bool":
        raise DTypeError("iota: counts in numbers, not in bools")
    return TensorType(dtype, shape)


def _iota(*, shape: Any, axis: int, dtype: DType) -> Any:
    line = np.arange(shape[axis]).astype(dtype.numpy).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.broadcast_to(line, shape).copy()


iota_op = declare(
    "iota", infer=_infer_iota, reference=_iota, derivative=NotDifferentiable("iota has no operands"), lowering=Iota(),
    latex=r"\operatorname{{iota}}", symbol="0,1,2…",
    samples=Samples(calls=lambda: [((), {"shape": (3, 4), "axis": 1, "dtype": int32}), ((), {"shape": (5,), "axis": 0,
    "dtype": int64})], gradient=False),
    doc="The index along an axis.",
)  # fmt: skip
size_op = declare(
    "size", infer=lambda types, *, dim, dtype: TensorType(dtype, ()),
    reference=lambda *, dim, dtype: np.asarray(dim, dtype.numpy), derivative=NotDifferentiable("a size has no operands"),
    lowering=Literal(lambda node: node.attrs["dim"]), latex="{dim}", symbol="size",
    samples=Samples(calls=lambda: [((), {"dim": 7, "dtype": int32})], gradient=False),
    doc="A size as a number; symbolic sizes become known at the call.",
)  # fmt: skip


def iota(shape: Any, axis: int = 0, dtype: Any = "int32") -> Node:
    """The index along ``axis``, as a value of ``shape``.

    >>> str(iota((2, 3), 1).type)
    'i32[2,3]'
    """
    sizes = as_shape(shape)
    return make(iota_op, (), {"shape": sizes, "axis": normal_axis("iota", axis, len(sizes)), "dtype": as_dtype(dtype)})


def size(extent: int | str | SymDim, dtype: Any = "float32") -> Node:
    """A size as a scalar value; it may be symbolic.

    >>> str(size("batch").type), size(3).op.name
    ('f32[]', 'constant')
    """
    d, t = dim(extent), as_dtype(dtype)
    return constant(d, t) if isinstance(d, int) else make(size_op, (), {"dim": d, "dtype": t})


def arange(start: int | str | SymDim, stop: int | None = None, step: int = 1, dtype: Any = "int32") -> Node:
    """``start, start+step, ...`` below ``stop``; with one argument from 0. A single size may be symbolic.

    >>> str(arange(2, 9, 3).type), str(arange("batch").type)
    ('i32[3]', 'i32[batch]')
    """
    if stop is None:
        start, stop = 0, dim(start)  # type: ignore[assignment]
    if step == 0 or (isinstance(stop, SymDim) and (start, step) != (0, 1)) or not isinstance(start, int):
        raise AttributeRuleError(f"arange: cannot count from {start} to {stop} in steps of {step}", source=provenance.capture(),
                                 token="arange")  # fmt: skip
    n: Dim = stop if isinstance(stop, SymDim) else max(0, -(-(stop - start) // step))  # type: ignore[operator]
    line = iota((n,), 0, dtype)
    line = line if step == 1 else ops.mul(line, step)
    return line if start == 0 else ops.add(line, start)


def full(shape: Any, value: Operand, dtype: Any = None) -> Node:
    """A value repeated to a shape; floats are float32 and ints int32 unless ``dtype`` is given.

    >>> str(full(("batch", 2), 1.5).type)
    'f32[batch,2]'
    """
    node = (
        lift(value) if dtype is None else constant(value, dtype) if not isinstance(value, Node) else cast(value, dtype)
    )
    return broadcast_to(node, as_shape(shape))


def zeros(shape: Any, dtype: Any = "float32") -> Node:
    """Zeros of a shape.

    >>> str(zeros((2, 3)).type)
    'f32[2,3]'
    """
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = "float32") -> Node:
    """Ones of a shape.

    >>> str(ones((2, 3)).type)
    'f32[2,3]'
    """
    return full(shape, 1, dtype)


# --- take and scatter_add, an adjoint pair -------------------------------------------------------------------------


def in_range(indices: Any, extent: int) -> Any:
    """The oracle's guard: indices with negatives counted from the end.

    Raises:
        IndexRangeError: one is outside of -extent .. extent-1.

    >>> in_range(np.array([0, -1]), 3).tolist()
    [0, 2]
    """
    wide = np.asarray(indices).astype(np.int64)
    bad = (wide < -extent) | (wide >= extent)
    if bad.any():
        raise IndexRangeError(f"index {wide[bad].flat[0]} is out of range for an axis of {extent}")
    return np.where(wide < 0, wide + extent, wide)


def _check_integer(name: str, t: TensorType) -> None:
    if not t.dtype.is_integer:
        raise DTypeError(f"{name}: indices must be integers, got {t}", help="convert with graphc.cast(x, 'int32')")


def _infer_take(types: tuple[TensorType, ...], *, axis: int) -> TensorType:
    x, indices = types
    _check_integer("take", indices)
    if not 0 <= axis < x.rank:
        raise AttributeRuleError(f"take: axis {axis} is outside of rank {x.rank}")
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _take_index(node: Node, index: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    axis, rank = node.attrs["axis"], node.inputs[1].ndim
    return (*index[:axis], value, *index[axis + rank :])


def _take_transpose(ct: Node, node: Node, _: int) -> Node:
    x, indices = node.inputs
    return scatter_add(zeros_like(x), indices, ct, node.attrs["axis"])


def _take_calls() -> list[Any]:
    return [(((4,), np.array([0, 3, 3, -1], np.int32)), {"axis": 0}), (((3, 4), np.array([[1, 0], [2, 2]], np.int64)), {"axis": 1}),
            (((3, 2), np.array(1, np.int32)), {"axis": 0}), (((2, 3), np.zeros((0,), np.int32)), {"axis": 1})]  # fmt: skip


take_op = declare(
    "take", infer=_infer_take, reference=lambda x, i, *, axis: np.take(x, in_range(i, x.shape[axis]), axis=axis),
    derivative=Transpose(_take_transpose),
    lowering=Gather(
        index_of=lambda node, index: index[node.attrs["axis"] : node.attrs["axis"] + node.inputs[1].ndim],
        index_map=_take_index, extent=lambda node: int(node.inputs[0].shape[node.attrs["axis"]]),
    ),
    latex="{0}[{1}]", symbol="[i]", samples=Samples(calls=_take_calls), doc="Elements of an axis picked by indices.",
)  # fmt: skip


def take(x: Operand, indices: Operand, axis: int = 0) -> Node:
    """``x`` picked along ``axis`` by integer ``indices`` of any shape, which takes the axis's place.

    At run time, an index outside of ``-n .. n-1`` raises an IndexRangeError; negative indices count from the end.

    >>> take(np.ones((5, 3), "f4"), [[0, 4]], axis=0).shape
    (1, 2, 3)
    """
    node, picked = lift(x), lift(indices)
    return take_op(node, picked, axis=normal_axis("take", axis, node.ndim))


gather = take


def _infer_scatter(types: tuple[TensorType, ...], *, axis: int) -> TensorType:
    x, indices, updates = types
    _check_integer("scatter_add", indices)
    if x.dtype != updates.dtype or x.dtype.kind == "bool":
        raise DTypeError(f"scatter_add: numbers of one dtype are wanted, got {x.dtype} and {updates.dtype}")
    if not 0 <= axis < x.rank:
        raise AttributeRuleError(f"scatter_add: axis {axis} is outside of rank {x.rank}")
    if indices.rank != 1:
        raise ShapeError(f"scatter_add: indices must have one axis, got {indices}")
    wanted = (*x.shape[:axis], indices.shape[0], *x.shape[axis + 1 :])
    if updates.shape != wanted:
        raise ShapeError(f"scatter_add: updates must be {x.with_shape(wanted)}, got {updates}")
    return x


def _scatter(x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
    out = np.array(x)
    np.add.at(np.moveaxis(out, axis, 0), in_range(indices, x.shape[axis]), np.moveaxis(updates, axis, 0))
    return out


def _scatter_transpose(ct: Node, node: Node, operand: int) -> Node:
    return ct if operand == 0 else take_op(ct, node.inputs[1], axis=node.attrs["axis"])


scatter_add_op = declare(
    "scatter_add", infer=_infer_scatter, reference=_scatter,
    derivative=Transpose(_scatter_transpose, operands=(0, 2), joint=True), lowering=Template("scatter_add"),
    latex=r"{0} \oplus_{{{1}}} {2}", symbol="+=[i]",
    samples=Samples(calls=lambda: [
        (((4,), np.array([0, 3, 3], np.int32), (3,)), {"axis": 0}), (((2, 3), np.array([2, -3], np.int64), (2, 2)), {"axis": 1}),
    ]),
    doc="Updates added at indices of an axis, in order; indices may repeat.",
)  # fmt: skip


def scatter_add(x: Operand, indices: Operand, updates: Operand, axis: int = 0) -> Node:
    """``x`` with ``updates`` added at ``indices`` along ``axis``; repeated indices add up.

    ``updates`` has the shape of ``take(x, indices, axis)``. Index errors as in :func:`take`.

    >>> scatter_add(np.zeros((5, 3), "f4"), [1, 1], np.ones((2, 3), "f4")).shape
    (5, 3)
    """
    node, picked, more = lift(x), lift(indices), lift(updates)
    a = normal_axis("scatter_add", axis, node.ndim)
    more = broadcast_to(cast(more, node.dtype), (*node.shape[:a], *picked.shape, *node.shape[a + 1 :]))
    count = picked.type.size
    flat = reshape(more, (*node.shape[:a], count, *node.shape[a + 1 :]))
    return scatter_add_op(node, reshape(picked, (count,)), flat, axis=a)


# --- guarded indices -----------------------------------------------------------------------------------------------


def _infer_check(types: tuple[TensorType, ...], *, extent: Dim) -> TensorType:
    _check_integer("check_index", types[0])
    return types[0]


check_index_op = declare(
    "check_index", infer=_infer_check, reference=lambda x, *, extent: in_range(x, extent).astype(x.dtype),
    derivative=Zero("indices have no derivative"), lowering=Guarded(lambda node: int(node.attrs["extent"])),
    latex="{0}", symbol="✓i", samples=Samples(calls=lambda: [((np.array([0, 2, -1], np.int32),), {"extent": 3})], gradient=False),
    doc="The index itself, negatives counted from the end; out of range is an error at run time.",
)  # fmt: skip


def check_index(x: Operand, extent: Dim, *, negative: bool = True) -> Node:
    """Integers checked at run time to index an axis of ``extent``; negatives count from the end, or are errors.

    >>> str(check_index([0, 1], 2).type)
    'i32[2]'
    """
    node = lift(x)
    if not negative and node.dtype.kind == "int":
        # the guard lets -n..n-1 pass: a negative label is sent to `extent`, which it rejects
        limit = size(extent, node.dtype)
        node = ops.where(ops.lt(node, 0), limit, node)
    return check_index_op(node, extent=extent)


def take_along_axis(x: Operand, indices: Operand, axis: int = -1) -> Node:
    """``out[.., j, ..] = x[.., indices[.., j, ..], ..]``: as many axes in both; the other axes broadcast.

    >>> take_along_axis(np.ones((2, 3), "f4"), [[0], [2]]).shape
    (2, 1)
    """
    node, picked = lift(x), lift(indices)
    _need_indices("take_along_axis", picked)
    if node.ndim != picked.ndim:
        raise ShapeError(f"take_along_axis: {node.type} and {picked.type} have not as many axes", source=provenance.capture(),
                         token="take_along_axis", notes=operand_notes((node, picked)))  # fmt: skip
    a = normal_axis("take_along_axis", axis, node.ndim)
    others = ops.broadcast_shapes(
        "take_along_axis", [node.shape[:a] + node.shape[a + 1 :], picked.shape[:a] + picked.shape[a + 1 :]]
    )
    node = broadcast_to(node, (*others[:a], node.shape[a], *others[a:]))
    picked = broadcast_to(picked, (*others[:a], picked.shape[a], *others[a:]))
    linear = check_index(picked, node.shape[a])
    if node.ndim == 1:
        return take_op(node, linear, axis=0)
    total = node.type.size
    linear = cast(linear, int64 if isinstance(total, SymDim) or total >= 2**31 else int32)
    position, stride = linear, 1
    for b in reversed(range(node.ndim)):  # the place in memory: sum of index * stride
        term = linear if b == a else iota(picked.shape, b, linear.dtype)
        scaled = term if isinstance(stride, int) and stride == 1 else ops.mul(term, size(stride, linear.dtype))
        position = scaled if b == node.ndim - 1 else ops.add(position, scaled)
        stride = stride * node.shape[b]  # type: ignore[assignment]
    return take_op(reshape(node, (total,)), position, axis=0)


def _need_indices(name: str, node: Node) -> None:
    if not node.dtype.is_integer:
        raise DTypeError(f"{name}: indices must be integers, got {node.type}", source=provenance.capture(), token=name)


__all__ = [
    "arange", "check_index", "full", "gather", "iota", "ones", "scatter_add", "size", "take", "take_along_axis", "zeros",
]  # fmt: skip
