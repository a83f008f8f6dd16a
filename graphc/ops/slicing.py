"""Parts and wholes: slice, pad, concatenate, stack, split, repeat.

What enters: values and static bounds (sizes may be symbolic). What leaves: values of the same dtype. slice/pad and
concatenate/slice are adjoint pairs. Steps of slices are positive; a negative step of the user's is a flip and a slice. ::

    %1: f32[3] = slice(%x) {starts=(1,), stops=(6,), steps=(2,)}
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import (
    Operand,
    broadcast_op,
    cast,
    common_dtype,
    is_weak,
    lift,
    normal_axis,
    operand_notes,
    show,
    zeros_like,
)
from graphc.ops.declare import Custom, Movement, Samples, Template, Transpose, declare
from graphc.ops.movement import expand_dims, reshape
from graphc.types import Dim, Shape, SymDim, TensorType

# --- slice and pad, an adjoint pair --------------------------------------------------------------------------------


def slice_size(start: Dim, stop: Dim, step: int) -> Dim:
    """How many elements ``start, start+step, ... < stop`` are.

    Raises:
        ShapeError: symbolic, and the step does not divide the length.

    >>> slice_size(1, 8, 3)
    3
    """
    length = stop - start
    if isinstance(length, int):
        return -(-length // step) if length > 0 else 0
    found = length if step == 1 else length.divide(step)
    if found is None:
        raise ShapeError(f"slice: a step of {step} over a symbolic length of {length} has no fixed size")
    return found


def _infer_slice(types: tuple[TensorType, ...], *, starts: Shape, stops: Shape, steps: tuple[int, ...]) -> TensorType:
    (x,) = types
    if not len(starts) == len(stops) == len(steps) == x.rank:
        raise AttributeRuleError(f"slice: {len(starts)} starts, {len(stops)} stops, {len(steps)} steps for {x}")
    for axis, (d, start, stop, step) in enumerate(zip(x.shape, starts, stops, steps, strict=True)):
        if step < 1:
            raise AttributeRuleError(f"slice: step {step} of axis {axis} is below 1", help="flip the axis first")
        for bound in (start, stop):
            over = d - bound
            if (isinstance(over, int) and over < 0) or (isinstance(bound, int) and bound < 0):
                raise AttributeRuleError(f"slice: {start}:{stop} is outside of axis {axis} of {x}")
    return x.with_shape(tuple(slice_size(*s) for s in zip(starts, stops, steps, strict=True)))


def _slice_index(node: Node, index: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        i * step + start for i, start, step in zip(index, node.attrs["starts"], node.attrs["steps"], strict=True)
    )


def _slice_transpose(ct: Node, node: Node, _: int) -> Node:
    x = node.inputs[0]
    if ct.type.size == 0:
        return zeros_like(x)
    for axis, step in enumerate(node.attrs["steps"]):
        ct = spread(ct, axis, step)
    starts = node.attrs["starts"]
    high = tuple(d - start - c for d, start, c in zip(x.shape, starts, ct.shape, strict=True))
    return pad_op(ct, low=starts, high=high, value=0) if any(s != 0 for s in (*starts, *high)) else ct


def spread(ct: Node, axis: int, step: int) -> Node:
    """``step - 1`` zeros between the elements along an axis: [a, b] -> [a, 0, 0, b]."""
    n = ct.shape[axis]
    if step == 1 or n == 1:
        return ct
    cells = reshape(ct, (*ct.shape[: axis + 1], 1, *ct.shape[axis + 1 :]))
    zero = (0,) * cells.ndim
    wide = pad_op(cells, low=zero, high=tuple(step - 1 if a == axis + 1 else 0 for a in range(cells.ndim)), value=0)
    flat = reshape(wide, (*ct.shape[:axis], n * step, *ct.shape[axis + 1 :]))
    return slice_axis(flat, axis, 0, n * step - (step - 1))


def _slice_calls() -> list[Any]:
    return [
        (((5,),), {"starts": (1,), "stops": (4,), "steps": (1,)}),
        (((6, 4),), {"starts": (1, 0), "stops": (6, 4), "steps": (2, 3)}),
        (((7,),), {"starts": (0,), "stops": (7,), "steps": (3,)}),
        (((3, 3),), {"starts": (2, 0), "stops": (2, 3), "steps": (1, 1)}),
    ]


def _slice(x: Any, *, starts: Any, stops: Any, steps: Any) -> Any:
    return x[tuple(slice(*s) for s in zip(starts, stops, steps, strict=True))].copy()


slice_op = declare(
    "slice", infer=_infer_slice, reference=_slice, derivative=Transpose(_slice_transpose), lowering=Movement(_slice_index),
    latex="{0}[\\cdot]", symbol="[:]", samples=Samples(calls=_slice_calls),
    doc="Every step-th element from start up to stop, on each axis.",
)  # fmt: skip


def slice_axis(x: Node, axis: int, start: Dim, stop: Dim, step: int = 1) -> Node:
    """``x[start:stop:step]`` on one axis, the others whole; bounds already counted from the front.

    >>> slice_axis(lift([1.0, 2.0, 3.0]), 0, 1, 3).shape
    (2,)
    """
    if start == 0 and stop == x.shape[axis] and step == 1:
        return x
    starts = tuple(start if a == axis else 0 for a in range(x.ndim))
    stops = tuple(stop if a == axis else d for a, d in enumerate(x.shape))
    return slice_op(x, starts=starts, stops=stops, steps=tuple(step if a == axis else 1 for a in range(x.ndim)))


def _infer_pad(types: tuple[TensorType, ...], *, low: Shape, high: Shape, value: Any) -> TensorType:
    (x,) = types
    if not len(low) == len(high) == x.rank:
        raise AttributeRuleError(f"pad: {len(low)} and {len(high)} widths for {x}")
    if any(isinstance(d, int) and d < 0 for d in (*low, *high)):
        raise AttributeRuleError(
            f"pad: a width is negative, low {show(low)} and high {show(high)}", help="slice instead"
        )
    return x.with_shape(tuple(a + d + b for a, d, b in zip(low, x.shape, high, strict=True)))


def _pad_transpose(ct: Node, node: Node, _: int) -> Node:
    low = node.attrs["low"]
    stops = tuple(a + d for a, d in zip(low, node.inputs[0].shape, strict=True))
    return slice_op(ct, starts=low, stops=stops, steps=(1,) * len(low))


def _pad_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    t = tangents[0]
    return zeros_like(node) if t is None else pad_op(t, low=node.attrs["low"], high=node.attrs["high"], value=0)


pad_op = declare(
    "pad", infer=_infer_pad,
    reference=lambda x, *, low, high, value: np.pad(x, tuple(zip(low, high, strict=True)), constant_values=value) if x.ndim else x,
    # affine, not linear: the tangent is padded with zeros, whatever the value
    derivative=Custom(lambda ct, node: (_pad_transpose(ct, node, 0),), _pad_jvp), lowering=Template("pad"),
    latex=r"\operatorname{{pad}}({0})", symbol="pad",
    samples=Samples(calls=lambda: [
        (((3,),), {"low": (1,), "high": (2,), "value": 0}), (((2, 3),), {"low": (0, 1), "high": (1, 0), "value": -1.5}),
        (((0, 2),), {"low": (1, 0), "high": (1, 0), "value": 2}),
    ]),
    doc="A border of one value, low before and high after each axis.",
)  # fmt: skip


def pad(x: Operand, width: Any, value: bool | int | float = 0) -> Node:
    """``x`` with a border: ``width`` is one number, a ``(low, high)`` pair for all axes, or a pair for each axis.

    >>> pad(lift([1.0, 2.0]), (1, 0)).shape
    (3,)
    """
    node = lift(x)
    if isinstance(width, (int, np.integer)):
        pairs = [(int(width), int(width))] * node.ndim
    elif len(width) == 2 and all(isinstance(w, (int, np.integer, SymDim)) for w in width):
        pairs = [tuple(width)] * node.ndim
    else:
        pairs = [(w, w) if isinstance(w, (int, np.integer)) else tuple(w) for w in width]
    if len(pairs) != node.ndim:
        raise AttributeRuleError(f"pad: {len(pairs)} widths for {node.type}", source=provenance.capture(), token="pad",
                                 help="give one (low, high) pair for each axis")  # fmt: skip
    low, high = (tuple(p[k] if isinstance(p[k], SymDim) else int(p[k]) for p in pairs) for k in (0, 1))
    return pad_op(node, low=low, high=high, value=value) if any(w != 0 for w in (*low, *high)) else node


# --- concatenate ---------------------------------------------------------------------------------------------------


def _infer_concatenate(types: tuple[TensorType, ...], *, axis: int) -> TensorType:
    if not types:
        raise ShapeError("concatenate: nothing to concatenate")
    first = types[0]
    if not 0 <= axis < first.rank:
        raise AttributeRuleError(f"concatenate: axis {axis} is outside of rank {first.rank}")
    total: Dim = 0
    for k, t in enumerate(types):
        if t.dtype != first.dtype:
            raise DTypeError(f"concatenate: dtypes differ, {first.dtype} against {t.dtype} (operand {k})")
        rest = [(a, d, e) for a, (d, e) in enumerate(zip(first.shape, t.shape, strict=False)) if a != axis and d != e]
        if t.rank != first.rank or rest:
            what = f"axis {rest[0][0]} is {rest[0][1]} against {rest[0][2]}" if rest else "ranks differ"
            raise ShapeError(f"concatenate: {first} and {t} do not line up along axis {axis}, {what} (operand {k})")
        total = total + t.shape[axis]
    return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _concatenate_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    axis = node.attrs["axis"]
    ends = list(itertools.accumulate((n.shape[axis] for n in node.inputs), initial=0))
    return tuple(slice_axis(ct, axis, a, b) for a, b in itertools.pairwise(ends))


def _concatenate_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    parts = (zeros_like(x) if t is None else t for t, x in zip(tangents, node.inputs, strict=True))
    return concatenate_op(*parts, axis=node.attrs["axis"])


concatenate_op = declare(
    "concatenate", infer=_infer_concatenate, reference=lambda *xs, axis: np.concatenate(xs, axis=axis),
    derivative=Custom(_concatenate_vjp, _concatenate_jvp), lowering=Template("concatenate"),
    latex=r"\operatorname{{concat}}({0}, {1})", symbol="⧺",
    samples=Samples(calls=lambda: [
        (((2,), (3,)), {"axis": 0}), (((2, 1), (2, 3), (2, 2)), {"axis": 1}), (((0, 2), (2, 2)), {"axis": 0}),
    ]),
    doc="Values one after the other along an axis.",
)  # fmt: skip


def concatenate(xs: Sequence[Operand], axis: int = 0) -> Node:
    """Values one after the other along an axis that they have.

    >>> concatenate([lift([1.0]), lift([2.0, 3.0])]).shape
    (3,)
    """
    nodes = _same_dtype("concatenate", xs)
    if nodes[0].ndim == 0:
        raise ShapeError(
            "concatenate: scalars have no axis", source=provenance.capture(), token="concatenate", help="use stack"
        )
    return nodes[0] if len(nodes) == 1 else concatenate_op(*nodes, axis=normal_axis("concatenate", axis, nodes[0].ndim))


def _same_dtype(name: str, xs: Sequence[Operand]) -> tuple[Node, ...]:
    if isinstance(xs, Node) or not xs:
        raise ShapeError(f"{name}: a non-empty sequence of values is wanted", source=provenance.capture(), token=name)
    lifted = [x if is_weak(x) else lift(x) for x in xs]
    dtype = common_dtype(name, lifted)
    return tuple(cast(lift(x, dtype), dtype) for x in lifted)


def stack(xs: Sequence[Operand], axis: int = 0) -> Node:
    """Values of one shape along a new axis.

    >>> stack([lift([1.0, 2.0]), lift([3.0, 4.0])], axis=-1).shape
    (2, 2)
    """
    nodes = _same_dtype("stack", xs)
    shapes = {n.shape for n in nodes}
    if len(shapes) > 1:
        raise ShapeError(f"stack: shapes differ, {' and '.join(show(n.shape) for n in nodes)}", source=provenance.capture(),
                         token="stack", notes=operand_notes(nodes))  # fmt: skip
    where = normal_axis("stack", axis, nodes[0].ndim + 1)
    return concatenate([expand_dims(n, where) for n in nodes], where)


def split(x: Operand, parts: int | Sequence[int], axis: int = 0) -> list[Node]:
    """``x`` cut along an axis, into a number of equal parts or at the given positions (NumPy's rule).

    Raises:
        ShapeError: the axis does not divide into equal parts.

    >>> [p.shape for p in split(lift([1.0, 2.0, 3.0]), [1])]
    [(1,), (2,)]
    """
    node = lift(x)
    a = normal_axis("split", axis, node.ndim)
    size = node.shape[a]
    if isinstance(parts, (int, np.integer)):
        each = (
            (size.divide(int(parts)) if isinstance(size, SymDim) else size // parts if size % parts == 0 else None)
            if parts > 0
            else None
        )
        if each is None:
            raise ShapeError(f"split: axis {a} of {node.type} does not divide into {parts} equal parts",
                             source=provenance.capture(), token="split", help="give the positions of the cuts")  # fmt: skip
        ends: list[Dim] = [each * k for k in range(int(parts) + 1)]
    else:
        ends = [0, *(p if p >= 0 else size + p for p in parts), size]
    return [slice_axis(node, a, p, q) for p, q in itertools.pairwise(ends)]


def repeat(x: Operand, count: int, axis: int) -> Node:
    """Each element ``count`` times in a row along an axis.

    >>> repeat(lift([1.0, 2.0]), 3, 0).shape
    (6,)
    """
    node = lift(x)
    a = normal_axis("repeat", axis, node.ndim)
    shape = (*node.shape[: a + 1], count, *node.shape[a + 1 :])
    spread = broadcast_op(expand_dims(node, a + 1), shape=shape)
    return reshape(spread, (*node.shape[:a], node.shape[a] * count, *node.shape[a + 1 :]))


__all__ = ["concatenate", "pad", "repeat", "split", "stack"]
