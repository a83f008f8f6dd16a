"""What convolution and pooling share: windows that slide over the spatial axes of ``[batch, ..., channels]``.

What enters: what the user wrote for strides, dilation and padding. What leaves: one number, or one (low, high) pair, for
each spatial axis. Invariant: a window that leaves here fits its padded axis at least once. ::

    windows of 3, stride 2, padding "same" on 28 elements -> padding (0, 1), 14 windows
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node
from graphc.ops.broadcasting import operand_notes, show

Pair: TypeAlias = tuple[int, int]
PerAxis: TypeAlias = "int | Sequence[int]"
Padding: TypeAlias = "str | int | Sequence[int | Sequence[int]]"


def per_axis(name: str, what: str, value: Any, rank: int) -> tuple[int, ...]:
    """One positive number for each of ``rank`` spatial axes.

    Raises:
        AttributeRuleError: another count, or a number below 1.

    >>> per_axis("conv2d", "strides", 2, 2), per_axis("conv2d", "strides", (1, 3), 2)
    ((2, 2), (1, 3))
    """
    single = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    many = (value,) * rank if single else value
    good = isinstance(many, (tuple, list)) and len(many) == rank
    if not good or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < 1 for v in many):
        raise AttributeRuleError(
            f"{name}: {what} must be a positive number, or one for each of {rank} spatial axes, got {value!r}",
            source=provenance.capture(), token=name,
        )  # fmt: skip
    return tuple(int(v) for v in many)


def window_count(size: int, window: int, stride: int, dilation: int = 1) -> int:
    """How many windows of ``window`` elements, ``dilation`` apart, start at 0, ``stride``, ... within ``size``.

    >>> window_count(28, 3, 1), window_count(7, 3, 2), window_count(7, 3, 1, 2), window_count(2, 3, 1)
    (26, 3, 3, 0)
    """
    return max((size - reach(window, dilation)) // stride + 1, 0)


def reach(window: int, dilation: int) -> int:
    """How many elements a window spans.

    >>> reach(3, 2)
    5
    """
    return (window - 1) * dilation + 1


def spatial_sizes(name: str, x: Node, rank: int) -> tuple[int, ...]:
    """The sizes of the spatial axes of ``[batch, spatial..., channels]``.

    Raises:
        ShapeError: another rank, or a symbolic spatial size. DTypeError: bools.
    """
    if x.ndim != rank + 2:
        axes = ", ".join(
            ["batch", *("height", "width", "depth")[:rank], "channels"] if rank > 1 else ["batch", "length", "channels"]
        )
        raise ShapeError(f"{name}: wants {rank + 2} axes ({axes}), got {x.type}", source=provenance.capture(), token=name,
                         notes=operand_notes((x,)), help="reshape, e.g. x.reshape((-1, 28, 28, 1))")  # fmt: skip
    if x.dtype.kind == "bool":
        raise DTypeError(f"{name}: is defined on numbers, got {x.type}", source=provenance.capture(), token=name,
                         notes=operand_notes((x,)), help="convert with graphc.cast(x, dtype)")  # fmt: skip
    sizes = x.shape[1:-1]
    if not all(isinstance(d, int) for d in sizes):
        raise ShapeError(f"{name}: spatial sizes must be numbers, got {x.type}", source=provenance.capture(), token=name,
                         notes=operand_notes((x,)), help="only the batch may be symbolic")  # fmt: skip
    return tuple(d for d in sizes if isinstance(d, int))


def paddings(
    name: str, x: Node, padding: Any, window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Pair, ...]:
    """A (low, high) pair for each spatial axis, after checking that a window fits each padded axis.

    ``"valid"`` pads nothing; ``"same"`` gives ceil(size / stride) windows, the odd element at the end (TensorFlow's rule); a
    number pads every side; otherwise one number or pair for each axis.

    Raises:
        AttributeRuleError: anything else. ShapeError: a window is larger than the padded axis.
    """
    sizes = spatial_sizes(name, x, len(window))
    pairs = _pairs(name, padding, sizes, window, strides, dilation)
    for axis, (size, w, d, (low, high)) in enumerate(zip(sizes, window, dilation, pairs, strict=True), 1):
        if size + low + high < reach(w, d):
            spans = f"{w} (spanning {reach(w, d)})" if d > 1 else f"{w}"
            raise ShapeError(
                f"{name}: the window of {spans} is larger than axis {axis}, {size} padded to {size + low + high}",
                source=provenance.capture(), token=name, notes=operand_notes((x,)),
                help='use a smaller window, or padding="same"',
            )  # fmt: skip
    return pairs


def _pairs(
    name: str, padding: Any, sizes: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Pair, ...]:  # fmt: skip
    if padding == "valid":
        return ((0, 0),) * len(sizes)
    if padding == "same":
        totals = [
            max((-(-n // s) - 1) * s + reach(w, d) - n, 0)
            for n, w, s, d in zip(sizes, window, strides, dilation, strict=True)
        ]
        return tuple((t // 2, t - t // 2) for t in totals)
    many = (padding,) * len(sizes) if isinstance(padding, (int, np.integer)) else padding
    if isinstance(many, (tuple, list)) and len(many) == len(sizes):
        pairs = [(p, p) if isinstance(p, (int, np.integer)) else p for p in many]
        if all(isinstance(p, (tuple, list)) and len(p) == 2 and all(_is_width(v) for v in p) for p in pairs):
            return tuple((int(low), int(high)) for low, high in pairs)
    raise AttributeRuleError(
        f'{name}: padding must be "valid", "same", a number, or a number or (low, high) pair for each of {len(sizes)} spatial '
        f"axes, got {padding!r}",
        source=provenance.capture(), token=name,
    )  # fmt: skip


def _is_width(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def window_view(x: Any, axis: int, window: int, count: int, stride: int, dilation: int) -> Any:
    """NumPy's view of ``x`` with ``axis`` replaced by (count, window): element [p, k] is ``x[p*stride + k*dilation]``.

    >>> window_view(np.arange(5), 0, 3, 2, 2, 1).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    if (count - 1) * stride + reach(window, dilation) > x.shape[axis]:
        raise ShapeError(f"{count} windows of {window} exceed axis {axis} of {show(x.shape)}")
    step = x.strides[axis]
    shape = (*x.shape[:axis], count, window, *x.shape[axis + 1 :])
    strides = (*x.strides[:axis], step * stride, step * dilation, *x.strides[axis + 1 :])
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
