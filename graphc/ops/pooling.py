"""Pooling: the largest or the mean of windows of ``[batch, spatial..., channels]``, and the window ops behind it.

What enters: images with channels last. What leaves: one value a window and channel. ``windows`` gathers every window
(a movement: it costs nothing where it is read), ``fold_windows`` adds windows back in their places; they are adjoint.
Windows may overlap, leave gaps, or fall short of the end. Ties share the gradient of a maximum evenly. ::

    %1: f32[batch,12,12,2,2,32] = windows(%x) {window=(2, 2), strides=(2, 2)}
    %2: f32[batch,12,12,32] = max(%1) {axes=(3, 4)}
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import graphc.ops as ops
from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node, Op
from graphc.ops.broadcasting import (
    Operand,
    broadcast_to,
    cast,
    lift,
    operand_notes,
    restore_axes,
    sum_op,
    zeros_like,
)
from graphc.ops.declare import Custom, Movement, Samples, Template, Transpose, composite, declare
from graphc.ops.movement import reshape, transpose
from graphc.ops.reductions import max_op
from graphc.ops.slicing import pad_op, slice_op
from graphc.ops.sources import constant
from graphc.ops.spatial import Padding, PerAxis, paddings, per_axis, spatial_sizes, window_count, window_view
from graphc.types import TensorType

# --- windows and their sum, an adjoint pair ------------------------------------------------------------------------


def _infer_windows(types: tuple[TensorType, ...], *, window: tuple[int, ...], strides: tuple[int, ...]) -> TensorType:
    (x,) = types
    rank = len(window)
    if len(strides) != rank or x.rank < rank + 1:
        raise AttributeRuleError(f"windows: {rank} windows and {len(strides)} strides for {x}")
    counts = []
    for n, w, s in zip(x.shape[1 : 1 + rank], window, strides, strict=True):
        if not isinstance(n, int) or w < 1 or s < 1 or n < w:
            raise ShapeError(f"windows: windows of {w} at stride {s} do not fit size {n} of {x}")
        counts.append(window_count(n, w, s))
    return x.with_shape((x.shape[0], *counts, *window, *x.shape[1 + rank :]))


def _windows(x: Any, *, window: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    rank = len(window)
    for a, (w, s) in enumerate(zip(window, strides, strict=True)):
        x = window_view(x, 1 + 2 * a, w, window_count(x.shape[1 + 2 * a], w, s), s, 1)
    places = [1 + 2 * a for a in range(rank)]
    return np.ascontiguousarray(np.transpose(x, [0, *places, *(p + 1 for p in places), *range(1 + 2 * rank, x.ndim)]))


def _windows_index(node: Node, index: tuple[Any, ...]) -> tuple[Any, ...]:
    strides = node.attrs["strides"]
    rank = len(strides)
    places, offsets = index[1 : 1 + rank], index[1 + rank : 1 + 2 * rank]
    return (index[0], *(p * s + k for p, s, k in zip(places, strides, offsets, strict=True)), *index[1 + 2 * rank :])


def _windows_transpose(ct: Node, node: Node, _: int) -> Node:
    """Windows side by side move back to their places; others are added up."""
    window, strides = node.attrs["window"], node.attrs["strides"]
    rank = len(window)
    sizes = tuple(int(d) for d in node.inputs[0].shape[1 : 1 + rank])  # type: ignore[arg-type]
    if window != strides:
        return fold_windows_op(ct, window=window, strides=strides, sizes=sizes)
    pairs = [a for p in range(rank) for a in (1 + p, 1 + rank + p)]
    rest = range(1 + 2 * rank, ct.ndim)
    covered = tuple(int(c) * w for c, w in zip(ct.shape[1 : 1 + rank], window, strict=True))  # type: ignore[arg-type]
    x = reshape(transpose(ct, (0, *pairs, *rest)), (ct.shape[0], *covered, *(ct.shape[a] for a in rest)))
    if covered == sizes:
        return x
    high = (0, *(n - c for n, c in zip(sizes, covered, strict=True)), *(0 for _ in rest))
    return pad_op(x, low=(0,) * x.ndim, high=high, value=0)


def _window_calls() -> list[Any]:
    return [
        (((2, 6, 4, 2),), {"window": (2, 2), "strides": (2, 2)}), (((1, 5, 7, 1),), {"window": (3, 2), "strides": (2, 1)}),
        (((2, 7, 2),), {"window": (2,), "strides": (3,)}), (((1, 7, 5, 1),), {"window": (3, 2), "strides": (3, 2)}),
        (((0, 4, 4, 1),), {"window": (2, 2), "strides": (1, 1)}),
    ]  # fmt: skip


windows_op = declare(
    "windows", infer=_infer_windows, reference=_windows, derivative=Transpose(_windows_transpose, latex=(r"\operatorname{{fold}}({g})",)),
    lowering=Movement(_windows_index), latex=r"\operatorname{{windows}}({0})", symbol="▦",
    samples=Samples(calls=_window_calls), doc="All windows of the spatial axes, as axes of their own after the places.",
)  # fmt: skip


def _infer_fold(
    types: tuple[TensorType, ...], *, window: tuple[int, ...], strides: tuple[int, ...], sizes: tuple[int, ...]
) -> TensorType:
    (x,) = types
    rank = len(window)
    if x.dtype.kind == "bool":
        raise DTypeError("fold_windows: is defined on numbers, got bool", help="convert with graphc.cast(x, dtype)")
    if not rank == len(strides) == len(sizes) or x.rank < 1 + 2 * rank:
        raise AttributeRuleError(f"fold_windows: {rank} windows, {len(strides)} strides and {len(sizes)} sizes for {x}")
    counts = tuple(window_count(n, w, s) for n, w, s in zip(sizes, window, strides, strict=True))
    if x.shape[1 : 1 + 2 * rank] != (*counts, *window):
        raise ShapeError(f"fold_windows: {x} does not hold {counts} windows of {window}")
    return x.with_shape((x.shape[0], *sizes, *x.shape[1 + 2 * rank :]))


def _fold(x: Any, *, window: tuple[int, ...], strides: tuple[int, ...], sizes: tuple[int, ...]) -> Any:
    rank = len(window)
    y = np.zeros((x.shape[0], *sizes, *x.shape[1 + 2 * rank :]), x.dtype)
    for offsets in itertools.product(*map(range, window)):
        places = tuple(
            slice(k, k + (c - 1) * s + 1, s) for k, c, s in zip(offsets, x.shape[1 : 1 + rank], strides, strict=True)
        )
        y[(slice(None), *places)] += x[(slice(None), *(slice(None) for _ in range(rank)), *offsets)]
    return y


fold_windows_op = declare(
    "fold_windows", infer=_infer_fold, reference=_fold,
    derivative=Transpose(
        lambda ct, node, _: windows_op(ct, window=node.attrs["window"], strides=node.attrs["strides"]),
        latex=(r"\operatorname{{windows}}({g})",),
    ),
    lowering=Template("fold_windows"), latex=r"\operatorname{{fold}}({0})", symbol="▦ᵀ",
    samples=Samples(calls=lambda: [
        (((2, 2, 2),), {"window": (2,), "strides": (1,), "sizes": (3,)}),
        (((1, 2, 3, 3, 2, 2),), {"window": (3, 2), "strides": (2, 1), "sizes": (6, 4)}),
        (((2, 2, 2, 1),), {"window": (2,), "strides": (3,), "sizes": (7,)}),
    ]),
    doc="Windows added back in their places; where they overlap they add up.",
)  # fmt: skip

# --- what users call -----------------------------------------------------------------------------------------------


def _lowest(x: Node) -> int | float:
    if x.dtype.is_float:
        return -np.inf
    if x.dtype.kind == "bool":
        raise DTypeError(f"max_pool: is defined on numbers, got {x.type}", help="convert with graphc.cast(x, dtype)")
    return int(np.iinfo(x.dtype.numpy).min)


def _padded(x: Node, low: tuple[int, ...], high: tuple[int, ...], value: int | float) -> Node:
    return pad_op(x, low=(0, *low, 0), high=(0, *high, 0), value=value) if any((*low, *high)) else x


def _window_axes(rank: int) -> tuple[int, ...]:
    return tuple(range(1 + rank, 1 + 2 * rank))


def _expand_max_pool(
    x: Node, *, window: tuple[int, ...], strides: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]
) -> Node:
    cells = windows_op(_padded(x, low, high, _lowest(x)), window=window, strides=strides)
    return max_op(cells, axes=_window_axes(len(window)))


def _winners(node: Node) -> tuple[Node, Node]:
    """Which elements of each window equal its maximum (1.0 or 0.0), and how many do."""
    x, window = node.inputs[0], node.attrs["window"]
    wide = _padded(x, node.attrs["low"], node.attrs["high"], _lowest(x))
    cells = windows_op(wide, window=window, strides=node.attrs["strides"])
    axes = _window_axes(len(window))
    mask = cast(ops.eq(cells, restore_axes(node, cells.shape, axes)), node.dtype)
    return mask, sum_op(mask, axes=axes)


def _max_pool_vjp(ct: Node, node: Node) -> tuple[Node | None, ...]:
    mask, count = _winners(node)
    share = restore_axes(ops.div(ct, count), mask.shape, _window_axes(len(node.attrs["window"])))
    return (_unpooled(ops.mul(mask, share), node),)


def _max_pool_jvp(tangents: tuple[Node | None, ...], node: Node) -> Node:
    if tangents[0] is None:
        return zeros_like(node)
    mask, count = _winners(node)
    wide = _padded(tangents[0], node.attrs["low"], node.attrs["high"], 0)
    cells = windows_op(wide, window=node.attrs["window"], strides=node.attrs["strides"])
    return ops.div(sum_op(ops.mul(mask, cells), axes=_window_axes(len(node.attrs["window"]))), count)


def _unpooled(cells: Node, node: Node) -> Node:
    """The windows' gradients added in their places, without the padding."""
    x, low, high = node.inputs[0], node.attrs["low"], node.attrs["high"]
    wide = _padded(x, low, high, 0)
    made = _windows_transpose(cells, windows_op(wide, window=node.attrs["window"], strides=node.attrs["strides"]), 0)
    if wide is x:
        return made
    starts = (0, *low, 0)
    stops = tuple(a + d for a, d in zip(starts, x.shape, strict=True))
    return slice_op(made, starts=starts, stops=stops, steps=(1,) * x.ndim)


def _expand_avg_pool(
    x: Node, *, window: tuple[int, ...], strides: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...], count_padding: bool
) -> Node:  # fmt: skip
    cells = windows_op(_padded(x, low, high, 0), window=window, strides=strides)
    total = sum_op(cells, axes=_window_axes(len(window)))
    return ops.div(total, _counts(total, x, window, strides, low, high, count_padding))


def _counts(
    y: Node, x: Node, window: tuple[int, ...], strides: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...],
    count_padding: bool,
) -> Node:  # fmt: skip
    """How many elements each window averages, in the shape of the result ``y``."""
    if count_padding or not any((*low, *high)):
        return ops.full_like(y, int(np.prod(window)))
    sizes = tuple(int(d) for d in x.shape[1:-1])  # type: ignore[arg-type]
    inside = np.pad(np.ones((1, *sizes), np.int64), ((0, 0), *zip(low, high, strict=True)))
    counts = _windows(inside, window=window, strides=strides).sum(axis=_window_axes(len(window)))
    return broadcast_to(constant(counts[..., None].astype(y.dtype.numpy)), y.shape)


def _avg_pool_transpose(ct: Node, node: Node, _: int) -> Node:
    x, window = node.inputs[0], node.attrs["window"]
    share = ops.div(ct, _counts(ct, x, **node.attrs))
    return _unpooled(restore_axes(share, (*ct.shape[:-1], *window, ct.shape[-1]), _window_axes(len(window))), node)


def _pool_calls(rank: int, **more: Any) -> Any:
    def call(shape: Any, window: int, stride: int, low: int = 0, high: int = 0) -> Any:
        each = {"window": window, "strides": stride, "low": low, "high": high}
        image = (shape[0], *(shape[1] + a for a in range(rank)), shape[2])
        return (image,), {**{k: (v,) * rank for k, v in each.items()}, **more}

    return lambda: [
        call((2, 4, 2), 2, 2), call((1, 5, 2), 3, 2, 1, 1), call((1, 4, 1), 3, 1), call((1, 5, 2), 2, 3), call((0, 4, 2), 2, 2),
    ]  # fmt: skip


_MAX: dict[int, Op] = {
    rank: composite(
        f"max_pool{rank}d", _expand_max_pool, latex=r"\operatorname{{maxpool}}({0})", symbol="max▦",
        derivative=Custom(_max_pool_vjp, _max_pool_jvp, latex=(r"\sum\, {g}\,\tfrac{{[{0} = {y}]}}{{\sum [{0} = {y}]}}",)),
        samples=Samples(calls=_pool_calls(rank), second_order=False), doc="Largest element of each window.",
    )
    for rank in (1, 2)
}  # fmt: skip
_AVG: dict[int, Op] = {
    rank: composite(
        f"avg_pool{rank}d", _expand_avg_pool, latex=r"\operatorname{{avgpool}}({0})", symbol="μ▦",
        derivative=Transpose(_avg_pool_transpose, latex=(r"\sum\, \tfrac{{1}}{{n}}\,{g}",)),
        samples=Samples(calls=_pool_calls(rank, count_padding=False)), doc="Mean of each window.",
    )
    for rank in (1, 2)
}  # fmt: skip


def _pool(name: str, rank: int, op: Op, x: Operand, window: Any, strides: Any, padding: Any, **more: Any) -> Node:
    node = lift(x)
    spatial_sizes(name, node, rank)
    size = per_axis(name, "window", window, rank)
    step = size if strides is None else per_axis(name, "strides", strides, rank)
    pairs = paddings(name, node, padding, size, step, (1,) * rank)
    for axis, (w, pair) in enumerate(zip(size, pairs, strict=True), 1):
        if max(pair) >= w:
            raise AttributeRuleError(
                f"{name}: padding {pair} of axis {axis} is not smaller than its window of {w}: a window would hold nothing",
                source=provenance.capture(), token=name, notes=operand_notes((node,)),
            )  # fmt: skip
    return op(node, window=size, strides=step, low=tuple(p[0] for p in pairs), high=tuple(p[1] for p in pairs), **more)


def max_pool2d(x: Operand, window: PerAxis = 2, *, strides: PerAxis | None = None, padding: Padding = "valid") -> Node:
    """The largest element of each window: ``[n, height, width, c] -> [n, rows, columns, c]``.

    Args:
        window: size of a window, one number or one for each axis.
        strides: distance of the windows, the window's size unless given (windows side by side).
        padding: as in :func:`graphc.conv2d`; what is added never wins. Elements that fill no window are left out.

    Raises:
        ShapeError: other axes, or the window is larger than the padded image. AttributeRuleError: an option is malformed,
        or padding is as large as a window. DTypeError: bools.

    Elements that tie share the gradient evenly.

    >>> max_pool2d(np.ones((8, 24, 24, 3), "f4")).shape
    (8, 12, 12, 3)
    """
    return _pool("max_pool2d", 2, _MAX[2], x, window, strides, padding)


def max_pool1d(x: Operand, window: PerAxis = 2, *, strides: PerAxis | None = None, padding: Padding = "valid") -> Node:
    """The largest element of each window: ``[n, length, c] -> [n, windows, c]``; see :func:`max_pool2d`.

    >>> max_pool1d(np.ones((8, 24, 3), "f4"), 3, strides=1).shape
    (8, 22, 3)
    """
    return _pool("max_pool1d", 1, _MAX[1], x, window, strides, padding)


def avg_pool2d(
    x: Operand, window: PerAxis = 2, *, strides: PerAxis | None = None, padding: Padding = "valid", count_padding: bool = False
) -> Node:  # fmt: skip
    """The mean of each window: ``[n, height, width, c] -> [n, rows, columns, c]``; options as :func:`max_pool2d`.

    At the border the mean is that of the elements of the image, unless ``count_padding`` counts the zeros as well.

    Raises:
        DTypeError: the image is not floating. ShapeError, AttributeRuleError: as :func:`max_pool2d`.

    >>> avg_pool2d(np.ones((8, 24, 24, 3), "f4"), 3, strides=2, padding="same").shape
    (8, 12, 12, 3)
    """
    return _pool(
        "avg_pool2d", 2, _AVG[2], _floating("avg_pool2d", x), window, strides, padding, count_padding=count_padding
    )


def avg_pool1d(
    x: Operand, window: PerAxis = 2, *, strides: PerAxis | None = None, padding: Padding = "valid", count_padding: bool = False
) -> Node:  # fmt: skip
    """The mean of each window: ``[n, length, c] -> [n, windows, c]``; see :func:`avg_pool2d`.

    >>> avg_pool1d(np.ones((8, 24, 3), "f4")).shape
    (8, 12, 3)
    """
    return _pool(
        "avg_pool1d", 1, _AVG[1], _floating("avg_pool1d", x), window, strides, padding, count_padding=count_padding
    )


def _floating(name: str, x: Operand) -> Node:
    node = lift(x)
    if not node.dtype.is_float:
        raise DTypeError(f"{name}: the mean is defined on floats, got {node.type}", source=provenance.capture(), token=name,
                         notes=operand_notes((node,)), help="convert with graphc.cast(x, 'float32')")  # fmt: skip
    return node


__all__ = ["avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"]
