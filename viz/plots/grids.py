"""Arrays as pictures: weights, feature maps, attention, confusion.

What enters: arrays, or a symbolic value with its inputs. What leaves: figures. Invariants: signed numbers are blue below 0 and orange
above, on one scale for the whole figure, with a legend; amounts have one hue; each panel says what it shows.

>>> figure = confusion_matrix([0, 1, 1], [0, 1, 0])
>>> figure.axes[0].get_xlabel()
'predicted'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc import interpreter
from graphc.errors import DrawError
from graphc.ir import Graph, Node, topological
from viz.plots.canvas import Look, Path_, array_of, bare, canvas, shape_of_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 64  # panels of a grid


def weights(
    array: Any, path: Path_ = None, *, shape: tuple[int, int] | None = None, most: int = 16, columns: int | None = None,
    theme: str = "light",
) -> Figure:  # fmt: skip
    """Draw weights, a panel each unit: blue is negative, orange positive, on one scale.

    Args:
        array: ``[inputs, units]`` of a dense layer, or ``[height, width, channels, filters]`` of a convolution (the mean over channels).
        shape: height and width of the picture that the inputs are, for a dense layer; the nearest to a square unless given.
        most: panels, at most 64.

    Raises:
        DrawError: another number of axes, or a shape that does not hold the inputs.

    >>> figure = weights(np.eye(4), shape=(2, 2))
    >>> [ax.images[0].get_array().tolist() for ax in figure.axes[:2]]
    [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]
    """
    values = array_of(_value(array), "weights", ndim=(2, 4))
    if values.ndim == 4:
        panels = [values[:, :, :, k].mean(axis=2) for k in range(values.shape[3])]
        title = "filter"
    else:
        height, width = shape if shape is not None else _near_square(len(values))
        if height * width != len(values):
            raise DrawError(f"weights: a picture of {height} by {width} does not hold {len(values)} inputs")
        panels = [values[:, k].reshape(height, width) for k in range(values.shape[1])]
        title = "unit"
    return _panels(panels, title, path, most=most, columns=columns, theme=theme, signed=True)


def feature_maps(
    what: Any, path: Path_ = None, *, inputs: Mapping[str, Any] | None = None, example: int = 0, most: int = 16,
    columns: int | None = None, theme: str = "light",
) -> Figure:  # fmt: skip
    """Draw what each channel of a convolution answers to one picture.

    Args:
        what: ``[height, width, channels]``, ``[batch, height, width, channels]``, or a symbolic value of such a shape with ``inputs``.
        inputs: the arrays to run a symbolic value on. example: which of the batch. most: panels.

    Raises:
        DrawError: another number of axes, no such example. InputError: inputs do not fit.

    >>> from graphc import ops
    >>> x = ops.input("x", (1, 2, 2, 3))
    >>> figure = feature_maps(ops.relu(x), inputs={"x": np.ones((1, 2, 2, 3), np.float32)})
    >>> [ax.get_title() for ax in figure.axes[:3]]
    ['channel 0', 'channel 1', 'channel 2']
    """
    values = array_of(_run(what, inputs) if isinstance(what, Node) else what, "feature maps", ndim=(3, 4))
    if values.ndim == 4:
        values = _pick(values, example, "example")
    panels = [values[:, :, k] for k in range(values.shape[2])]
    signed = bool((values < 0).any())
    return _panels(panels, "channel", path, most=most, columns=columns, theme=theme, signed=signed)


def attention(
    what: Any, path: Path_ = None, *, inputs: Mapping[str, Any] | None = None, layer: int = 0, example: int = 0,
    tokens: Sequence[str] | None = None, columns: int | None = None, theme: str = "light",
) -> Figure:  # fmt: skip
    """Draw which places each place attends to, a panel a head: rows are queries, columns keys, each row sums to 1.

    Args:
        what: weights ``[queries, keys]``, ``[heads, queries, keys]`` or ``[batch, heads, queries, keys]``, or a symbolic value that
            was made with attention (``nn.MultiHeadAttention``, ``nn.GPT``), with ``inputs`` to run it on.
        layer: which attention of a symbolic value, in the order of the graph. example: which of the batch. tokens: names of the places.

    Raises:
        DrawError: the value has no such attention, another number of axes, or another number of tokens. InputError: inputs do not fit.

    >>> from graphc import ops
    >>> x = ops.input("x", (3, 2))
    >>> figure = attention(ops.scaled_dot_product_attention(x, x, x, causal=True), inputs={"x": np.zeros((3, 2), np.float32)})
    >>> figure.axes[0].images[0].get_array().round(2).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.33, 0.33, 0.33]]
    """
    values = attention_weights(what, inputs or {}, layer=layer) if isinstance(what, Node) else what
    maps = array_of(values, "attention", ndim=(2, 3, 4))
    if maps.ndim == 4:
        maps = _pick(maps, example, "example")
    maps = maps[None] if maps.ndim == 2 else maps
    if tokens is not None and len(tokens) not in (maps.shape[1], maps.shape[2]):
        raise DrawError(f"attention: {len(tokens)} tokens for {maps.shape[1]} queries and {maps.shape[2]} keys")
    rows, wide = shape_of_grid(len(maps), columns if columns is not None else min(4, len(maps)))
    with canvas(path, theme, 3.4 * wide + 0.9, 3.5 * rows) as (figure, look):
        grid = figure.subplots(rows, wide, squeeze=False)
        for k, axes in enumerate(grid.ravel()):
            if k >= len(maps):
                axes.set_visible(False)
                continue
            image = axes.imshow(maps[k], cmap=look.amount, vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set_title(f"head {k}" if len(maps) > 1 else "attention")
            _places(axes, tokens, maps.shape[1:], look, left=k % wide == 0)
        figure.colorbar(image, ax=grid, shrink=0.8, label="weight", pad=0.02)
    return figure


def attention_weights(value: Node, inputs: Mapping[str, Any], *, layer: int = 0) -> np.ndarray:
    """The weights ``softmax(q k^T * scale)`` of an attention that a value was made with, as ``[..., queries, keys]``.

    Args:
        value: symbolic. inputs: to run it on. layer: which attention, in the order of the graph.

    Raises:
        DrawError: there is no such attention. InputError: inputs do not fit.

    Source: Vaswani et al., "Attention is all you need" (2017), equation 1.

    >>> from graphc import ops
    >>> x = ops.input("x", (2, 1))
    >>> attention_weights(ops.scaled_dot_product_attention(x, x, x), {"x": np.zeros((2, 1), np.float32)}).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    found = [n for n in topological([value]) if n.op.name == "attention"]
    if not 0 <= layer < len(found):
        raise DrawError(
            f"there is no attention {layer}: the value was made with {len(found)} of them", source=value.source,
            help="give a value after nn.MultiHeadAttention or graphc.scaled_dot_product_attention, and layer from 0 on",
        )  # fmt: skip
    node = found[layer]
    kept: dict[Node, np.ndarray] = {}
    graph = Graph("attention", {"mixed": node})
    interpreter.run(graph, {n.name: inputs[n.name] for n in graph.inputs if n.name in inputs}, keep=kept)
    q, k = (kept[n].astype(np.float64) for n in node.inputs[:2])
    scores = (q @ np.swapaxes(k, -1, -2)) * node.attrs["scale"]
    allowed = np.ones(scores.shape[-2:], bool)
    if node.attrs["causal"]:
        queries, keys = scores.shape[-2:]
        allowed = np.tri(queries, keys, keys - queries, dtype=bool)
    if len(node.inputs) == 4:
        allowed = allowed & kept[node.inputs[3]]
    scores = np.where(allowed, scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def confusion_matrix(
    labels: Any, predictions: Any, path: Path_ = None, *, classes: Sequence[str] | None = None, theme: str = "light"
) -> Figure:
    """Draw how often each class (row) was taken for each (column): shares of the row as shade, counts as numbers.

    Args:
        labels: the true classes, whole numbers. predictions: whole numbers, or scores ``[examples, classes]``, whose largest counts.
        classes: their names.

    Raises:
        DrawError: lengths differ, classes that are no whole numbers from 0 on, or too few names.

    >>> figure = confusion_matrix([0, 0, 1, 1], [[2, 1], [0, 1], [0, 3], [1, 4]], classes=["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts], figure.axes[0].get_title()
    (['1', '1', '0', '2'], '3 of 4 right (75.0 %)')
    """
    true = _classes(labels, "labels")
    scores = array_of(predictions, "predictions", ndim=(1, 2))
    guess = scores.argmax(axis=1) if scores.ndim == 2 else _classes(scores, "predictions")
    if len(true) != len(guess):
        raise DrawError(f"{len(true)} labels for {len(guess)} predictions")
    count = int(max(true.max(), guess.max(), scores.shape[1] - 1 if scores.ndim == 2 else 0)) + 1
    names = [str(k) for k in range(count)] if classes is None else [str(c) for c in classes]
    if len(names) < count:
        raise DrawError(f"{len(names)} names for {count} classes")
    size = len(names)
    table = np.bincount(true * size + guess, minlength=size * size).reshape(size, size)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.52 * max(size, 3)
    with canvas(path, theme, side + 1.0, side) as (figure, look):
        axes = figure.subplots()
        image = axes.imshow(shares, cmap=look.amount, vmin=0.0, vmax=1.0)
        for i, k in np.ndindex(table.shape):
            ink = look.on_cell(shares[i, k]) if table[i, k] else look.theme.faint
            axes.text(k, i, str(table[i, k]), ha="center", va="center", color=ink)
        long: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
        axes.set_xticks(range(size), names, **long)
        axes.set_yticks(range(size), names)
        right = int(np.trace(table))
        axes.set(xlabel="predicted", ylabel="true", title=f"{right} of {len(true)} right ({100 * right / len(true):.1f} %)")
        axes.tick_params(length=0)
        axes.spines[:].set_color(look.theme.cluster)
        figure.colorbar(image, ax=axes, shrink=0.75, label="share of the true class", pad=0.03)
    return figure


# --- panels --------------------------------------------------------------------------------------------------------


def _panels(
    panels: list[np.ndarray], title: str, path: Path_, *, most: int, columns: int | None, theme: str, signed: bool
) -> Figure:
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST:
        raise DrawError(f"most is a number of panels from 1 to {MOST}, not {most!r}")
    shown = panels[:most]
    rows, wide = shape_of_grid(len(shown), columns)
    finite = [np.abs(p[np.isfinite(p)]).max(initial=0.0) for p in shown]
    top = max(finite) or 1.0
    with canvas(path, theme, 1.75 * wide + 1.2, 2.0 * rows + (0.5 if len(panels) > len(shown) else 0)) as (figure, look):
        grid = figure.subplots(rows, wide, squeeze=False)
        cmap, low = (look.signed, -top) if signed else (look.amount, 0.0)
        for k, axes in enumerate(grid.ravel()):
            if k >= len(shown):
                axes.set_visible(False)
                continue
            image = axes.imshow(shown[k], cmap=cmap, vmin=low, vmax=top, interpolation="nearest")
            axes.set_title(f"{title} {k}")
            bare(axes)
            axes.spines[:].set(visible=True, color=look.theme.cluster)
        figure.colorbar(image, ax=grid, shrink=0.8, pad=0.03)
        if len(panels) > len(shown):
            figure.supxlabel(f"{len(shown)} of {len(panels)} shown", color=look.theme.faint, fontsize="medium")
    return figure


def _places(axes: Axes, tokens: Sequence[str] | None, shape: tuple[int, ...], look: Look, *, left: bool) -> None:
    """Names of the places that attend (rows) and are attended to (columns)."""
    axes.spines[:].set_color(look.theme.cluster)
    axes.tick_params(length=0 if tokens is not None else 3)
    if tokens is not None:
        names = [str(t) for t in tokens]
        spaced: dict[str, Any] = {"rotation": 90} if max(map(len, names)) > 1 else {}
        if len(names) == shape[1]:
            axes.set_xticks(range(len(names)), names, **spaced)
        if len(names) == shape[0]:
            axes.set_yticks(range(len(names)), names)
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("key")
    if left:
        axes.set_ylabel("query")


def _value(what: Any) -> Any:
    """The present value of a parameter; anything else as it is."""
    if not isinstance(what, Node):
        return what
    if "variable" not in what.attrs:
        raise DrawError(f"{what.name or what.op.name} is no parameter", source=what.source, help="give a layer's weight, or an array")
    return what.attrs["variable"].value


def _run(value: Node, inputs: Mapping[str, Any] | None) -> np.ndarray:
    graph = Graph("plotted", {"value": value})
    return interpreter.run(graph, {n.name: (inputs or {})[n.name] for n in graph.inputs if n.name in (inputs or {})})["value"]


def _pick(array: np.ndarray, index: int, name: str) -> np.ndarray:
    if not 0 <= index < len(array):
        raise DrawError(f"there is no {name} {index}: the batch has {len(array)}")
    return np.asarray(array[index])


def _near_square(count: int) -> tuple[int, int]:
    """The two factors of a number that are nearest to each other, the smaller first.

    >>> _near_square(784), _near_square(6), _near_square(7)
    ((28, 28), (2, 3), (1, 7))
    """
    height = next(h for h in range(int(count**0.5), 0, -1) if count % h == 0)
    return height, count // height


def _classes(values: Any, name: str) -> np.ndarray:
    array = array_of(values, name, ndim=(1,))
    whole = array.astype(np.int64)
    if (whole != array).any() or whole.min() < 0:
        raise DrawError(f"{name}: classes are whole numbers from 0 on")
    return whole
