"""Convolution: ``conv1d`` and ``conv2d`` on ``[batch, spatial..., channels]``, and the primitive they expand to.

What enters: images with channels last, kernels ``[window..., channels, outputs]``. What leaves: the cross-correlation that
deep learning calls convolution. The primitive ``convolve`` is bilinear, takes windows that lie wholly inside ("valid"), and
names the role of each axis by a letter, as JAX's dimension numbers do: n batch, g group, c contracted, o made, digits
spatial. With roles exchanged it is its own gradient, so gradients are drawn as the convolutions they are::

    y  = convolve(x, w)   {spec='n01c,01co->n01o'}
    dx = convolve(pad(dy), w) {spec='n01c,01oc->n01o', flip=True}      c and o change places
    dw = convolve(x, dy)  {spec='c01n,c01o->01no'}                     the batch is contracted, strides and dilation swap

Source: Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

from math import prod as product
from typing import Any

import numpy as np

from graphc import provenance
from graphc.errors import AttributeRuleError, DTypeError, ShapeError
from graphc.ir import Node, Op
from graphc.ops.broadcasting import Operand, operand_notes, promote_dtypes
from graphc.ops.declare import Contraction, Samples, Transpose, composite, declare
from graphc.ops.movement import flip_op, reshape, transpose
from graphc.ops.slicing import pad_op, slice_axis, slice_op, spread
from graphc.ops.spatial import Padding, PerAxis, paddings, per_axis, reach, window_count, window_view
from graphc.types import Dim, TensorType

# --- the primitive -------------------------------------------------------------------------------------------------

_SWAP_INPUT = str.maketrans("co", "oc")  # the gradient of x contracts what y makes
_SWAP_KERNEL = str.maketrans("nc", "cn")  # the gradient of w contracts the batch


def roles(spec: str) -> tuple[str, str, str]:
    """The letters of x, w and y.

    >>> roles("n01c,01co->n01o")
    ('n01c', '01co', 'n01o')
    """
    operands, _, y = spec.partition("->")
    x, _, w = operands.partition(",")
    return x, w, y


def _infer_convolve(
    types: tuple[TensorType, ...], *, spec: str, strides: tuple[int, ...], dilation: tuple[int, ...], size: tuple[int, ...],
    flip: bool,
) -> TensorType:  # fmt: skip
    x, w = types
    letters = roles(spec)
    if x.dtype != w.dtype:
        raise DTypeError(f"convolve: dtypes differ, {x.dtype} against {w.dtype}")
    if x.dtype.kind == "bool":
        raise DTypeError("convolve: is defined on numbers, got bool", help="convert with graphc.cast(x, dtype)")
    if tuple(map(len, letters[:2])) != (x.rank, w.rank):
        raise ShapeError(f"convolve: spec {spec!r} does not fit the axes of {x} and {w}")
    in_x, in_w = dict(zip(letters[0], x.shape, strict=True)), dict(zip(letters[1], w.shape, strict=True))
    sizes: dict[str, Dim] = {**in_w, **in_x}
    for letter in in_x.keys() & in_w.keys():
        if not letter.isdigit() and in_x[letter] != in_w[letter]:
            raise ShapeError(f"convolve: axes {letter!r} differ, {in_x[letter]} against {in_w[letter]}")
    digits = sorted(c for c in letters[0] if c.isdigit())
    if not len(digits) == len(strides) == len(dilation) == len(size):
        raise AttributeRuleError(f"convolve: {len(digits)} spatial axes, got {strides}, {dilation} and {size}")
    for digit, stride, apart, count in zip(digits, strides, dilation, size, strict=True):
        n, k = in_x[digit], in_w[digit]
        if not isinstance(n, int) or not isinstance(k, int):
            raise ShapeError(f"convolve: spatial sizes must be numbers, got {x} and {w}")
        if k < 1 or count < 1 or window_count(n, k, stride, apart) < count:
            raise ShapeError(f"convolve: {count} windows of {k} do not fit axis {digit} of size {n}")
        sizes[digit] = count
    return x.with_shape(tuple(sizes[c] for c in letters[2]))


def _convolve(
    x: Any, w: Any, *, spec: str, strides: tuple[int, ...], dilation: tuple[int, ...], size: tuple[int, ...], flip: bool
) -> Any:  # fmt: skip
    """All windows gathered, then one matrix product a group."""
    xs, ws, ys = roles(spec)
    digits = sorted(c for c in xs if c.isdigit())
    if "g" not in xs:
        x, w, xs, ws = x[None], w[None], "g" + xs, "g" + ws
    x = np.transpose(x, [xs.index(c) for c in ("g", "n", *digits, "c")])
    w = np.transpose(w, [ws.index(c) for c in ("g", *digits, "c", "o")])
    if flip:
        w = np.flip(w, tuple(range(1, 1 + len(digits))))
    windows = w.shape[1 : 1 + len(digits)]
    for a, (k, count, stride, apart) in enumerate(zip(windows, size, strides, dilation, strict=True)):
        x = window_view(x, 2 + 2 * a, k, count, stride, apart)
    places = [2 + 2 * a for a in range(len(digits))]
    x = np.transpose(x, [0, 1, *places, *(p + 1 for p in places), x.ndim - 1])
    groups, n, c, o = x.shape[0], x.shape[1], x.shape[-1], w.shape[-1]
    with np.errstate(all="ignore"):
        y = np.matmul(
            x.reshape(groups, n * product(size), product(windows) * c), w.reshape(groups, product(windows) * c, o)
        )
    y = y.reshape(groups, n, *size, o).astype(x.dtype, copy=False)
    have = ["g", "n", *digits, "o"]
    y = np.transpose(y, [have.index(c) for c in (ys if "g" in ys else "g" + ys)])
    return np.ascontiguousarray(y if "g" in ys else y[0])


def _convolve_transpose(g: Node, node: Node, i: int) -> Node:
    x, w = node.inputs
    xs, ws, ys = roles(node.attrs["spec"])
    strides, dilation, flipped = node.attrs["strides"], node.attrs["dilation"], node.attrs["flip"]
    digits = sorted(c for c in xs if c.isdigit())
    if i == 0:
        strided = any(stride > 1 for stride in strides)
        if strided and all(apart == 1 for stride, apart in zip(strides, dilation, strict=True) if stride > 1):
            return _phases(g, node)
        return _spread_out(g, node)
    spec = ",".join(s.translate(_SWAP_KERNEL) for s in (xs, ys)) + "->" + ws.translate(_SWAP_KERNEL)
    windows = tuple(w.shape[ws.index(c)] for c in digits)
    made = convolve_op(x, g, spec=spec, strides=dilation, dilation=strides, size=windows, flip=False)
    return flip_op(made, axes=tuple(ws.index(c) for c in digits)) if flipped else made


def _spread_out(g: Node, node: Node) -> Node:
    """The input's gradient: the cotangent, its elements as far apart as the strides, meets the kernel turned around."""
    x, w = node.inputs
    xs, ws, ys = roles(node.attrs["spec"])
    strides, dilation = node.attrs["strides"], node.attrs["dilation"]
    digits = sorted(c for c in xs if c.isdigit())
    extents = tuple(int(x.shape[xs.index(c)]) for c in digits)  # type: ignore[arg-type]
    wide = _room(g, ys, [int(w.shape[ws.index(c)]) for c in digits], extents, strides, dilation)  # type: ignore[arg-type]
    spec = ",".join(s.translate(_SWAP_INPUT) for s in (ys, ws)) + "->" + xs.translate(_SWAP_INPUT)
    return convolve_op(
        wide, w, spec=spec, strides=(1,) * len(digits), dilation=dilation, size=extents, flip=not node.attrs["flip"]
    )


def _phases(g: Node, node: Node) -> Node:
    """The same for strides above 1, without multiplying the zeros in between.

    Element s*m + r of the input meets elements r, s + r, 2s + r, ... of the kernel alone: s kernels, one a phase r, whose
    results are channels of one convolution of stride 1, and are then put between one another (Shi et al., "Real-time single
    image and video super-resolution using an efficient sub-pixel convolutional neural network", CVPR 2016).
    """
    x, w = node.inputs
    xs, ws, ys = roles(node.attrs["spec"])
    strides = node.attrs["strides"]
    digits = sorted(c for c in xs if c.isdigit())
    group = "g" if "g" in xs else ""
    extents = [int(x.shape[xs.index(c)]) for c in digits]  # type: ignore[arg-type]
    kernel = _phase_kernel(w, ws, strides, flip=node.attrs["flip"])
    counts = tuple(-(-n // s) for n, s in zip(extents, strides, strict=True))
    windows = [int(d) for d in kernel.shape[: len(digits)]]  # type: ignore[arg-type]
    wide = _room(g, ys, windows, counts, (1,) * len(digits), node.attrs["dilation"])
    spatial = "".join(digits)
    spec = f"{ys.translate(_SWAP_INPUT)},{spatial}c{group}o->n{spatial}{group}o"
    made = convolve_op(
        wide, kernel, spec=spec, strides=(1,) * len(digits), dilation=node.attrs["dilation"], size=counts, flip=True
    )
    channels = x.shape[xs.index("c")]
    cells = reshape(made, (*made.shape[:-1], *strides, channels))
    rank, first = len(digits), len(made.shape) - 1
    pairs = [a for d in range(rank) for a in (1 + d, first + d)]
    order = [0, *pairs, *(range(1 + rank, first)), cells.ndim - 1]
    sizes = tuple(n * s for n, s in zip(counts, strides, strict=True))
    whole = reshape(transpose(cells, order), (made.shape[0], *sizes, *made.shape[1 + rank : first], channels))
    for axis, extent in enumerate(extents, 1):
        whole = slice_axis(whole, axis, 0, extent)
    have = f"n{spatial}{group}c"
    return transpose(whole, [have.index(c) for c in xs])


def _phase_kernel(w: Node, letters: str, strides: tuple[int, ...], *, flip: bool) -> Node:
    """Kernels of all phases: [window / stride..., o, (g), phase... and c]; what a window lacks to a multiple is zero."""
    digits = sorted(c for c in letters if c.isdigit())
    have = [*digits, "o", *(c for c in letters if c == "g"), "c"]
    w = transpose(w, [letters.index(c) for c in have])
    rank, rest = len(digits), w.shape[len(digits) :]
    w = flip_op(w, axes=tuple(range(rank))) if flip else w
    windows = [-(-int(k) // s) for k, s in zip(w.shape, strides, strict=False)]  # type: ignore[arg-type]
    lacking = [n * s - int(k) for n, s, k in zip(windows, strides, w.shape, strict=False)]  # type: ignore[arg-type]
    if any(lacking):
        zeros = (0,) * len(rest)
        w = pad_op(w, low=(0,) * w.ndim, high=(*lacking, *zeros), value=0)
    w = reshape(w, (*(a for pair in zip(windows, strides, strict=True) for a in pair), *rest))
    windowed, phases = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    w = transpose(w, [*windowed, *range(2 * rank, w.ndim - 1), *phases, w.ndim - 1])
    return reshape(w, (*windows, *rest[:-1], product(strides) * int(rest[-1])))  # type: ignore[arg-type]


def _room(
    g: Node, letters: str, windows: list[int], extents: tuple[Dim, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> Node:  # fmt: skip
    """The cotangent with stride - 1 zeros between its elements and a border, so that every window lies inside."""
    low, high = [0] * g.ndim, [0] * g.ndim
    for digit, (k, n, stride, apart) in enumerate(zip(windows, extents, strides, dilation, strict=True)):
        axis = letters.index(str(digit))
        g = spread(g, axis, stride)
        low[axis] = reach(k, apart) - 1
        high[axis] = int(n) - int(g.shape[axis])  # type: ignore[arg-type]
    return pad_op(g, low=tuple(low), high=tuple(high), value=0) if any((*low, *high)) else g


def _contracted(spec: str) -> list[str]:
    """The contracted letters, in the order in which x lies in memory."""
    return [c for c in roles(spec)[0] if c.isdigit() or c == "c"]


def _convolve_extents(node: Node) -> tuple[int, ...]:
    xs, ws, _ = roles(node.attrs["spec"])
    sizes = {**dict(zip(xs, node.inputs[0].type.static_shape, strict=True)),
             **dict(zip(ws, node.inputs[1].type.static_shape, strict=True))}  # fmt: skip
    return tuple(sizes[c] for c in _contracted(node.attrs["spec"]))


def _convolve_index(node: Node, index: tuple[Any, ...], contracted: tuple[Any, ...]) -> tuple[Any, Any]:
    xs, ws, ys = roles(node.attrs["spec"])
    at = dict(zip(ys, index, strict=True))
    inner = dict(zip(_contracted(node.attrs["spec"]), contracted, strict=True))
    strides, dilation = node.attrs["strides"], node.attrs["dilation"]

    def of_x(letter: str) -> Any:
        if letter.isdigit():
            return at[letter] * strides[int(letter)] + inner[letter] * dilation[int(letter)]
        return inner[letter] if letter == "c" else at[letter]

    def of_w(axis: int, letter: str) -> Any:
        if letter.isdigit() and node.attrs["flip"]:
            return inner[letter] * -1 + (node.inputs[1].type.static_shape[axis] - 1)
        return inner[letter] if letter.isdigit() or letter == "c" else at[letter]

    return tuple(of_x(c) for c in xs), tuple(of_w(a, c) for a, c in enumerate(ws))


def _convolve_calls() -> list[Any]:
    def call(x: Any, w: Any, spec: str, strides: Any, dilation: Any, size: Any, flip: bool = False) -> Any:
        return (x, w), {"spec": spec, "strides": strides, "dilation": dilation, "size": size, "flip": flip}

    return [
        call((2, 5, 2), (3, 2, 3), "n0c,0co->n0o", (1,), (1,), (3,)),
        call((2, 5, 4, 2), (3, 2, 2, 3), "n01c,01co->n01o", (1, 1), (1, 1), (3, 3)),
        call((1, 6, 7, 2), (2, 3, 2, 2), "n01c,01co->n01o", (2, 3), (1, 2), (3, 1), True),
        call((2, 4, 4, 2, 1), (2, 2, 1, 2, 2), "n01gc,01cgo->n01go", (1, 2), (2, 1), (2, 2)),
        call((2, 4, 3, 2), (2, 3, 2, 3), "c01n,c01o->01no", (1, 1), (1, 1), (2, 2)),
        call((0, 3, 3, 1), (2, 2, 1, 2), "n01c,01co->n01o", (1, 1), (1, 1), (2, 2)),
    ]


_GRADIENTS = (r"{g} \ast {1}", r"{0} \star {g}")  # \ast turns the kernel around, \star does not
convolve_op = declare(
    "convolve", infer=_infer_convolve, reference=_convolve,
    derivative=Transpose(_convolve_transpose, operands=(0, 1), latex=_GRADIENTS),
    lowering=Contraction(_convolve_index, _convolve_extents), latex=r"{0} \star {1}", symbol="⋆",
    samples=Samples(((-2.0, 2.0), (-2.0, 2.0)), calls=_convolve_calls),
    doc="Sums over windows that lie wholly inside; spec names each axis's role.",
)  # fmt: skip

# --- what users call -----------------------------------------------------------------------------------------------


def _expand_conv(
    x: Node, w: Node, *, strides: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...], dilation: tuple[int, ...],
    groups: int,
) -> Node:  # fmt: skip
    """Pad, split the channels into groups, convolve, and merge the groups' outputs."""
    rank = len(strides)
    if any((*low, *high)):
        x = pad_op(x, low=(0, *low, 0), high=(0, *high, 0), value=0)
    windows = tuple(int(d) for d in w.shape[:rank])  # type: ignore[arg-type]
    size = tuple(
        window_count(int(n), k, s, d)  # type: ignore[arg-type]
        for n, k, s, d in zip(x.shape[1:-1], windows, strides, dilation, strict=True)
    )
    digits = "".join(map(str, range(rank)))
    outputs = w.shape[-1]
    if groups == 1:
        spec = f"n{digits}c,{digits}co->n{digits}o"
        return convolve_op(x, w, spec=spec, strides=strides, dilation=dilation, size=size, flip=False)
    each = int(outputs) // groups  # type: ignore[arg-type]
    x = reshape(x, (*x.shape[:-1], groups, w.shape[-2]))
    w = reshape(w, (*w.shape[:-1], groups, each))
    spec = f"n{digits}gc,{digits}cgo->n{digits}go"
    y = convolve_op(x, w, spec=spec, strides=strides, dilation=dilation, size=size, flip=False)
    return reshape(y, (*y.shape[:-2], outputs))


def _conv_transpose(g: Node, node: Node, i: int) -> Node:
    """The primitive's gradient, its groups merged and its padding cut off."""
    x, w = node.inputs
    opened = _expand_conv(x, w, **node.attrs)
    inner = opened if node.attrs["groups"] == 1 else opened.inputs[0]
    made = _convolve_transpose(reshape(g, inner.shape), inner, i)
    if i == 1:
        return reshape(made, w.shape)
    low, high = node.attrs["low"], node.attrs["high"]
    whole = (x.shape[0], *(a + d + b for a, d, b in zip(low, x.shape[1:-1], high, strict=True)), x.shape[-1])
    made = reshape(made, whole)
    if not any((*low, *high)):
        return made
    starts = (0, *low, 0)
    stops = tuple(a + d for a, d in zip(starts, x.shape, strict=True))
    return slice_op(made, starts=starts, stops=stops, steps=(1,) * x.ndim)


def _conv_calls(rank: int) -> Any:
    def call(x: Any, w: Any, strides: int = 1, low: int = 0, high: int = 0, dilation: int = 1, groups: int = 1) -> Any:
        each = {"strides": strides, "low": low, "high": high, "dilation": dilation}
        image = (x[0], *(x[1] + a for a in range(rank)), x[2])
        return (image, (w[0],) * rank + w[1:]), {**{k: (v,) * rank for k, v in each.items()}, "groups": groups}

    return lambda: [
        call((2, 4, 2), (3, 2, 3)), call((1, 5, 2), (3, 2, 2), 2, 1, 1), call((1, 5, 1), (2, 1, 2), 1, 0, 1, 2),
        call((2, 3, 4), (2, 2, 4), groups=2), call((1, 3, 3), (2, 1, 3), 1, 1, 0, groups=3), call((2, 3, 3), (1, 3, 2), 2),
    ]  # fmt: skip


_CONV: dict[int, Op] = {
    rank: composite(
        f"conv{rank}d", _expand_conv, latex=r"{0} \star {1}", symbol="⋆",
        derivative=Transpose(_conv_transpose, operands=(0, 1), latex=_GRADIENTS),
        samples=Samples(((-2.0, 2.0), (-2.0, 2.0)), calls=_conv_calls(rank), second_order=False),
        doc="Convolution of [batch, spatial..., channels] with [window..., channels / groups, outputs].",
    )
    for rank in (1, 2)
}  # fmt: skip


def _conv(name: str, rank: int, x: Operand, w: Operand, strides: Any, padding: Any, dilation: Any, groups: int) -> Node:
    image, kernel = promote_dtypes(name, x, w)
    step, apart = per_axis(name, "strides", strides, rank), per_axis(name, "dilation", dilation, rank)
    if kernel.ndim != rank + 2 or not all(isinstance(d, int) for d in kernel.shape):
        raise ShapeError(
            f"{name}: the kernel wants {rank + 2} fixed axes (window..., channels, outputs), got {kernel.type}",
            source=provenance.capture(), token=name, notes=operand_notes((image, kernel)),
        )  # fmt: skip
    window = tuple(int(d) for d in kernel.shape[:rank])  # type: ignore[arg-type]
    if min(window, default=1) < 1:
        raise ShapeError(
            f"{name}: the kernel {kernel.type} has an empty window", source=provenance.capture(), token=name
        )
    pairs = paddings(name, image, padding, window, step, apart)
    _check_channels(name, image, kernel, groups)
    return _CONV[rank](
        image, kernel, strides=step, low=tuple(p[0] for p in pairs), high=tuple(p[1] for p in pairs), dilation=apart,
        groups=int(groups),
    )  # fmt: skip


def _check_channels(name: str, x: Node, w: Node, groups: int) -> None:
    channels, inputs, outputs = x.shape[-1], w.shape[-2], w.shape[-1]
    notes = operand_notes((x, w))
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise AttributeRuleError(f"{name}: groups must be a positive number, got {groups!r}", source=provenance.capture(),
                                 token=name)  # fmt: skip
    if not isinstance(channels, int):
        raise ShapeError(f"{name}: the channels must be a number, got {x.type}", source=provenance.capture(), token=name,
                         notes=notes)  # fmt: skip
    if channels % groups or int(outputs) % groups:  # type: ignore[arg-type]
        raise ShapeError(f"{name}: {groups} groups do not divide {channels} channels and {outputs} outputs",
                         source=provenance.capture(), token=name, notes=notes)  # fmt: skip
    if channels // groups != inputs:
        wanted = w.type.with_shape((*w.shape[:-2], channels // groups, outputs))
        raise ShapeError(
            f"{name}: the image has {channels} channels{f' in {groups} groups' if groups > 1 else ''}, the kernel reads {inputs}",
            source=provenance.capture(), token=name, notes=notes, help=f"the kernel must be {wanted}",
        )  # fmt: skip


def conv2d(
    x: Operand, w: Operand, *, strides: PerAxis = 1, padding: Padding = "valid", dilation: PerAxis = 1, groups: int = 1
) -> Node:  # fmt: skip
    """Windows of an image times a kernel: ``[n, height, width, c], [kh, kw, c / groups, o] -> [n, rows, columns, o]``.

    The kernel is not flipped (cross-correlation, as in all of deep learning).

    Args:
        strides: distance of the windows, one number or one for each axis.
        padding: zeros around the image: "valid" (none), "same" (ceil(size / stride) windows, an odd zero at the end), a number
            for all sides, or a number or (low, high) pair for each axis.
        dilation: distance of the elements of a window.
        groups: the channels fall into groups, each with outputs of its own; as many groups as channels is a depthwise
            convolution.

    Raises:
        ShapeError: ranks or channels do not fit, groups do not divide, or the kernel is larger than the padded image.
        AttributeRuleError: an option is malformed. DTypeError: bools.

    >>> conv2d(np.ones((8, 28, 28, 3), "f4"), np.ones((3, 3, 3, 16), "f4"), strides=2, padding="same").shape
    (8, 14, 14, 16)
    """
    return _conv("conv2d", 2, x, w, strides, padding, dilation, groups)


def conv1d(
    x: Operand, w: Operand, *, strides: PerAxis = 1, padding: Padding = "valid", dilation: PerAxis = 1, groups: int = 1
) -> Node:  # fmt: skip
    """Windows of a sequence times a kernel: ``[n, length, c], [k, c / groups, o] -> [n, windows, o]``; see :func:`conv2d`.

    Raises:
        ShapeError, AttributeRuleError, DTypeError: as :func:`conv2d`.

    >>> conv1d(np.ones((8, 100, 3), "f4"), np.ones((5, 3, 16), "f4"), dilation=2).shape
    (8, 92, 16)
    """
    return _conv("conv1d", 1, x, w, strides, padding, dilation, groups)


__all__ = ["conv1d", "conv2d"]
