"""Movement: the same elements in another shape or order. reshape, transpose, flip and their kin.

What enters: a value and static attributes (sizes may be symbolic). What leaves: a value of the same dtype. Each op here is
its own adjoint with other attributes. Slices, pads and concatenations are in :mod:`graphc.ops.slicing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod as product
from typing import Any

import numpy as np

from graphc import provenance
from graphc.errors import AttributeRuleError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import (
    Operand,
    lift,
    normal_axes,
    normal_axis,
    operand_notes,
    show,
)  # fmt: skip
from graphc.ops.declare import Movement, Samples, Transpose, declare
from graphc.types import Dim, Shape, SymDim, TensorType, as_shape

# --- reshape -------------------------------------------------------------------------------------------------------


def _infer_reshape(types: tuple[TensorType, ...], *, shape: Shape) -> TensorType:
    (x,) = types
    out = x.with_shape(shape)
    if out.size != x.size:
        raise ShapeError(f"reshape: {x} has {x.size} elements, {show(shape)} has {out.size}")
    return out


def _common_groups(a: Sequence[int], b: Sequence[int]) -> list[tuple[range, range]]:
    """Cut two shapes of equal size into the shortest runs of equal size, so that index arithmetic stays local."""
    groups, i, j = [], 0, 0
    while i < len(a) or j < len(b):
        i0, j0, left, right = i, j, 1, 1
        if i < len(a):
            left, i = a[i], i + 1
        if j < len(b):
            right, j = b[j], j + 1
        while left != right:
            if left < right:
                left, i = left * a[i], i + 1
            else:
                right, j = right * b[j], j + 1
        groups.append((range(i0, i), range(j0, j)))
    return groups


def _reshape_index(node: Node, index: tuple[Any, ...]) -> tuple[Any, ...]:
    source, target = node.inputs[0].type.static_shape, node.type.static_shape
    if 0 in source:
        return (0,) * len(source)
    found: list[Any] = []
    for ins, outs in _common_groups(source, target):
        linear: Any = 0
        for j in outs:
            linear = linear * target[j] + index[j]
        inner = product(source[i] for i in ins)
        leading = True
        for i in ins:
            inner //= source[i]
            if source[i] == 1:
                found.append(0)
                continue
            part = linear if inner == 1 else linear // inner
            found.append(part if leading else part % source[i])
            leading = False
    return tuple(found)


def _reshape_calls() -> list[Any]:
    return [(((2, 6),), {"shape": (3, 4)}), (((4,),), {"shape": (2, 1, 2)}), (((2, 3, 1),), {"shape": (6,)}),
            (((1,),), {"shape": ()}), (((0, 3),), {"shape": (3, 0)})]  # fmt: skip


reshape_op = declare(
    "reshape", infer=_infer_reshape, reference=lambda x, *, shape: np.reshape(x, shape).copy(),
    derivative=Transpose(lambda ct, node, i: reshape(ct, node.inputs[0].shape), latex=(r"{g}",)), lowering=Movement(_reshape_index),
    latex=r"{0}", symbol="reshape", samples=Samples(calls=_reshape_calls), doc="Another shape of as many elements, in C order.",
)  # fmt: skip


def reshape(x: Operand, shape: Any) -> Node:
    """``x`` in another shape; one size may be -1 and is then worked out, also with symbolic sizes.

    Raises:
        ShapeError: the numbers of elements differ.

    >>> str(reshape(lift([[1.0, 2.0], [3.0, 4.0]]), (-1,)).type)
    'f32[4]'
    """
    node = lift(x)
    sizes = (shape,) if isinstance(shape, (int, str, SymDim, np.integer)) else tuple(shape)
    unknown = [i for i, d in enumerate(sizes) if isinstance(d, (int, np.integer)) and d == -1]
    if unknown:
        sizes = _with_unknown(node, sizes, unknown)
    wanted = as_shape(sizes)
    return node if node.shape == wanted else reshape_op(node, shape=wanted)


def _with_unknown(node: Node, sizes: tuple[Any, ...], unknown: list[int]) -> tuple[Any, ...]:
    rest = as_shape(d for i, d in enumerate(sizes) if i not in unknown)
    known = TensorType(node.dtype, rest).size
    total = node.type.size
    found: Dim | None = None
    if len(unknown) == 1 and known != 0:
        if isinstance(total, SymDim):
            found = total.divide(known)
        elif isinstance(known, int) and total % known == 0:
            found = total // known
    if found is None:
        why = "more than one size is -1" if len(unknown) > 1 else f"{total} elements do not divide by {known}"
        raise ShapeError(
            f"reshape: cannot fit {node.type} into {show(sizes)}, {why}", source=provenance.capture(), token="reshape",
            notes=operand_notes((node,)),
        )  # fmt: skip
    return tuple(found if i in unknown else d for i, d in enumerate(sizes))


def expand_dims(x: Operand, axis: int | Sequence[int]) -> Node:
    """New axes of size 1 at the positions ``axis`` of the result.

    >>> expand_dims(lift([1.0, 2.0]), -1).shape
    (2, 1)
    """
    node = lift(x)
    many = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    axes = normal_axes("expand_dims", many, node.ndim + len(many))
    rest = iter(node.shape)
    return reshape(node, tuple(1 if a in axes else next(rest) for a in range(node.ndim + len(many))))


def squeeze(x: Operand, axis: int | Sequence[int] | None = None) -> Node:
    """Without axes of size 1 (all of them if ``axis`` is None).

    Raises:
        ShapeError: a named axis is not of size 1.

    >>> squeeze(lift([[1.0, 2.0]])).shape
    (2,)
    """
    node = lift(x)
    axes = (
        tuple(a for a, d in enumerate(node.shape) if d == 1)
        if axis is None
        else normal_axes("squeeze", axis, node.ndim)
    )
    for a in axes:
        if node.shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of {node.type} is {node.shape[a]}, not 1", source=provenance.capture(),
                             token="squeeze")  # fmt: skip
    return reshape(node, tuple(d for a, d in enumerate(node.shape) if a not in axes))


def flatten(x: Operand, start: int = 0) -> Node:
    """Axes from ``start`` on merged into one.

    >>> flatten(lift([[1.0, 2.0]]), 1).shape
    (1, 2)
    """
    node = lift(x)
    if node.ndim == 0:
        return reshape(node, (1,))
    first = normal_axis("flatten", start, node.ndim)
    return reshape(node, (*node.shape[:first], TensorType(node.dtype, node.shape[first:]).size))


# --- transpose -----------------------------------------------------------------------------------------------------


def _infer_transpose(types: tuple[TensorType, ...], *, axes: tuple[int, ...]) -> TensorType:
    (x,) = types
    if sorted(axes) != list(range(x.rank)):
        raise AttributeRuleError(f"transpose: axes {tuple(axes)} are no permutation of the axes of {x}")
    return x.with_shape(tuple(x.shape[a] for a in axes))


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(a) for a in range(len(axes)))


transpose_op = declare(
    "transpose", infer=_infer_transpose, reference=lambda x, *, axes: np.ascontiguousarray(np.transpose(x, axes)),
    derivative=Transpose(lambda ct, node, i: transpose(ct, _inverse(node.attrs["axes"])), latex=(r"{g}^\top",)),
    lowering=Movement(lambda node, index: tuple(index[node.attrs["axes"].index(a)] for a in range(len(index)))),
    latex=r"{0}^\top", symbol="ᵀ",
    samples=Samples(calls=lambda: [(((2, 3),), {"axes": (1, 0)}), (((2, 3, 4),), {"axes": (2, 0, 1)})]),
    doc="Axes in another order.",
)  # fmt: skip


def transpose(x: Operand, axes: Sequence[int] | None = None) -> Node:
    """Axes in another order (reversed if None).

    >>> transpose(lift([[1.0, 2.0]])).shape
    (2, 1)
    """
    node = lift(x)
    order = (
        tuple(reversed(range(node.ndim)))
        if axes is None
        else tuple(normal_axis("transpose", a, node.ndim) for a in axes)
    )
    return node if order == tuple(range(node.ndim)) else transpose_op(node, axes=order)


def swapaxes(x: Operand, a: int, b: int) -> Node:
    """Two axes exchanged.

    >>> swapaxes(lift([[1.0, 2.0]]), 0, 1).shape
    (2, 1)
    """
    node = lift(x)
    order = list(range(node.ndim))
    i, j = normal_axis("swapaxes", a, node.ndim), normal_axis("swapaxes", b, node.ndim)
    order[i], order[j] = j, i
    return transpose(node, order)


def moveaxis(x: Operand, source: int, target: int) -> Node:
    """One axis moved to another position, the others in order.

    >>> moveaxis(lift([[[1.0, 2.0]]]), -1, 0).shape
    (2, 1, 1)
    """
    node = lift(x)
    i, j = normal_axis("moveaxis", source, node.ndim), normal_axis("moveaxis", target, node.ndim)
    order = [a for a in range(node.ndim) if a != i]
    order.insert(j, i)
    return transpose(node, order)


# --- flip ----------------------------------------------------------------------------------------------------------


def _infer_flip(types: tuple[TensorType, ...], *, axes: tuple[int, ...]) -> TensorType:
    if any(not 0 <= a < types[0].rank for a in axes):
        raise AttributeRuleError(f"flip: axes {tuple(axes)} do not fit {types[0]}")
    return types[0]


def _flip_index(node: Node, index: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        i * -1 + (d - 1) if a in node.attrs["axes"] else i
        for a, (i, d) in enumerate(zip(index, node.shape, strict=True))
    )


flip_op = declare(
    "flip", infer=_infer_flip, reference=lambda x, *, axes: np.ascontiguousarray(np.flip(x, axes)),
    derivative=Transpose(lambda ct, node, i: flip(ct, node.attrs["axes"])), lowering=Movement(_flip_index),
    latex=r"\operatorname{{flip}}({0})", symbol="flip",
    samples=Samples(calls=lambda: [(((4,),), {"axes": (0,)}), (((2, 3),), {"axes": (0, 1)})]), doc="Axes run backwards.",
)  # fmt: skip


def flip(x: Operand, axis: int | Sequence[int] | None = None) -> Node:
    """``x`` with axes (all if None) running backwards.

    >>> flip(lift([1.0, 2.0])).shape
    (2,)
    """
    node = lift(x)
    axes = normal_axes("flip", axis, node.ndim)
    return flip_op(node, axes=axes) if axes else node


__all__ = ["expand_dims", "flatten", "flip", "moveaxis", "reshape", "squeeze", "swapaxes", "transpose"]
