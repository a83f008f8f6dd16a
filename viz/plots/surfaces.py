"""Surfaces: the loss with the optimizers' ways down it, and how a decision boundary finds its place.

What enters: a landscape (:func:`graphc.train.landscape`) and paths, or predictions on a grid of points. What leaves: figures.
Invariants: contours are at even steps of rank, so that a narrow valley is seen as well as the slopes; classes differ in shade, hatching of
their points' markers and hue; all panels have one scale.

>>> grid([[0.0, 0.0], [1.0, 2.0]], size=2, margin=0.0).tolist()
[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import DrawError
from viz.plots.canvas import MARKERS, Look, Path_, array_of, canvas, plain, shape_of_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 14


def loss_surface(surface: Any, path: Path_ = None, *, paths: Mapping[str, Any] | None = None, theme: str = "light") -> Figure:
    """Draw the loss over two directions as contours, and the ways that optimizers took.

    Args:
        surface: what :func:`graphc.train.landscape` returned, or ``(x, y, values)`` with ``values[len(y), len(x)]``.
        paths: by the optimizer's name, points ``[steps, 2]`` in the surface's coordinates; see ``Recorder.path``.

    Raises:
        DrawError: shapes that do not fit, a surface without finite values.

    >>> x = np.linspace(-1, 1, 5)
    >>> figure = loss_surface((x, x, x**2 + x[:, None] ** 2), paths={"SGD": [[1, 1], [0.5, 0.5], [0, 0]]})
    >>> figure.axes[0].lines[0].get_label(), figure.axes[0].lines[0].get_xdata().tolist()
    ('SGD', [1.0, 0.5, 0.0])
    """
    x, y, values, names = _surface(surface)
    ways = {name: array_of(way, f"path {name}", ndim=(2,)).astype(np.float64) for name, way in (paths or {}).items()}
    for name, way in ways.items():
        if way.shape[1] != 2:
            raise DrawError(f"path {name}: expected points [steps, 2], got the shape {list(way.shape)}")
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise DrawError("the surface has no finite value")
    levels = np.unique(np.quantile(finite, np.linspace(0.0, 1.0, LEVELS)))
    with canvas(path, theme, 7.4, 5.4) as (figure, look):
        axes = figure.subplots()
        if len(levels) > 1:
            _contours(figure, axes, (x, y, values), levels, look)
        for k, (name, way) in enumerate(ways.items()):
            _way(axes, name, way, look, k)
        axes.set(xlabel=names[0], ylabel=names[1], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        if ways:
            figure.legend(loc="outside upper center", ncols=min(len(ways), 4))
    return figure


def _contours(figure: Figure, axes: Axes, data: tuple[np.ndarray, np.ndarray, np.ndarray], levels: np.ndarray, look: Look) -> None:
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap

    pale: Any = look.amount(0.62)
    low_is_dark = LinearSegmentedColormap.from_list("graphc-loss", [pale, look.theme.background])
    filled = axes.contourf(*data, levels=levels, cmap=low_is_dark, norm=BoundaryNorm(levels, low_is_dark.N))
    axes.contour(*data, levels=levels, colors=[look.theme.faint], linewidths=0.5, alpha=0.7)
    bar = figure.colorbar(filled, ax=axes, label="loss", spacing="uniform", pad=0.02)
    bar.set_ticks(levels[::2].tolist(), labels=[f"{v:.3g}" for v in levels[::2]])
    bar.minorticks_off()


def _way(axes: Axes, name: str, way: np.ndarray, look: Look, k: int) -> None:
    every = max(1, len(way) // 12)
    halo: dict[str, Any] = {"color": look.theme.background, "linewidth": look.width + 2.4, "solid_capstyle": "round"}
    style = {**look.series(k + 1), "markevery": every}
    line = axes.plot(way[:, 0], way[:, 1], label=str(name), **style)[0]
    under = axes.plot(way[:, 0], way[:, 1], label="_halo", **halo)[0]
    under.set_zorder(line.get_zorder() - 0.5)
    axes.plot(*way[-1], marker="*", markersize=9 + 3 * look.theme.stroke, color=look.hue(k + 1),
              markeredgecolor=look.theme.background, linestyle="", label="_end", zorder=line.get_zorder() + 1)  # fmt: skip


def _surface(surface: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, str]]:
    parts = [getattr(surface, n, None) for n in ("x", "y", "values")]
    if isinstance(surface, (tuple, list)) and len(surface) == 3:
        parts = list(surface)
    if any(p is None for p in parts):
        raise DrawError(f"{type(surface).__name__} is no surface", help="give what graphc.train.landscape returned, or (x, y, values)")
    x, y = array_of(parts[0], "x", ndim=(1,)), array_of(parts[1], "y", ndim=(1,))
    values = array_of(parts[2], "values", ndim=(2,)).astype(np.float64)
    if values.shape != (len(y), len(x)) or min(values.shape) < 2:
        raise DrawError(f"the surface's values are {list(values.shape)}, its axes y and x have {len(y)} and {len(x)} points (2 or more)")
    first, second = getattr(surface, "names", ("x", "y"))
    return x, y, values, (str(first), str(second))


# --- decisions -----------------------------------------------------------------------------------------------------


def grid(points: Any, *, size: int = 80, margin: float = 0.15) -> np.ndarray:
    """Points of a regular grid over the span of given points, ``[size * size, 2]`` in float32, x running fastest.

    Args:
        points: ``[n, 2]``. size: points in each direction. margin: share of the span that is added on every side.

    Raises:
        DrawError: no points in a plane, or fewer than 2 in a direction.
    """
    given = array_of(points, "points", ndim=(2,))
    if given.shape[1] != 2 or isinstance(size, bool) or not isinstance(size, int) or size < 2:
        shape = list(given.shape)
        raise DrawError(f"a grid of {size} points a side over points of the shape {shape}", help="points are [n, 2], size from 2 on")
    low, high = given.min(axis=0), given.max(axis=0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    xs, ys = (np.linspace(a, b, size) for a, b in zip(low, high, strict=True))
    return np.stack([np.tile(xs, size), np.repeat(ys, size)], axis=1).astype(np.float32)


def decision_boundary(
    course: Any, over: Any, points: Any, labels: Any, path: Path_ = None, *, most: int = 6, columns: int | None = None, theme: str = "light"
) -> Figure:
    """Draw which class a net would say where, at several moments of its training, a panel each.

    Args:
        course: a :class:`graphc.train.Recorder` that recorded predictions on :func:`grid`'s points, or ``{step: predictions}``:
            scores ``[grid, classes]``, or one logit ``[grid]`` or ``[grid, 1]``, class 1 where it is above 0.
        over: the points of the grid. points: the data, ``[n, 2]``. labels: their classes.
        most: moments that are shown, the first and the last among them.

    Raises:
        DrawError: nothing was recorded, or shapes that do not fit.

    >>> over = grid([[0, 0], [1, 1]], size=3)
    >>> figure = decision_boundary({0: over[:, 0] - 0.5, 9: over[:, 1] - 0.5}, over, [[0, 0], [1, 1]], [0, 1])
    >>> [axes.get_title() for axes in figure.axes]
    ['after 0 updates', 'after 9 updates']
    """
    predictions: Any = getattr(course, "predictions", course)
    if not isinstance(predictions, Mapping) or not predictions:
        raise DrawError(
            "there are no predictions to plot",
            help="record them: Recorder(predictions=(logits, {'point': graphc.plots.grid(points)})), given to fit() as a callback",
        )
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise DrawError(f"most is a positive number of panels, not {most!r}")
    cells, data = array_of(over, "over", ndim=(2,)), array_of(points, "points", ndim=(2,))
    truth = array_of(labels, "labels", ndim=(1,)).astype(np.int64)
    if data.shape != (len(truth), 2):
        raise DrawError(f"points are [n, 2], one a label: got the shape {list(data.shape)} and {len(truth)} labels")
    xs, ys = np.unique(cells[:, 0]), np.unique(cells[:, 1])
    if cells.shape != (len(xs) * len(ys), 2):
        raise DrawError("over is no regular grid", help="make it with graphc.plots.grid(points)")
    steps = list(predictions)
    chosen = [steps[k] for k in np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))]
    rows, wide = shape_of_grid(len(chosen), columns if columns is not None else 2 if len(chosen) == 4 else min(3, len(chosen)))
    with canvas(path, theme, 3.7 * wide, 3.5 * rows + 0.4) as (figure, look):
        panels = figure.subplots(rows, wide, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, step in zip(panels, chosen, strict=False):
            classes, margins = _decided(predictions[step], len(cells), step)
            _regions(axes, xs, ys, classes, margins, look)
            _points(axes, data, truth, look)
            axes.set(title=f"after {step} update{'' if step == 1 else 's'}", xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]))
            plain(axes, grid=False)
        for axes in panels[len(chosen) :]:
            axes.set_visible(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure


def _decided(prediction: Any, count: int, step: Any) -> tuple[np.ndarray, np.ndarray]:
    """Class of every cell, and scores ``[classes, cells]``."""
    scores = array_of(prediction, f"predictions after {step}", ndim=(1, 2)).astype(np.float64)
    if len(scores) != count:
        raise DrawError(f"{len(scores)} predictions after {step} updates for the {count} points of the grid")
    if scores.ndim == 1 or scores.shape[1] == 1:
        scores = np.stack([-scores.reshape(-1), scores.reshape(-1)], axis=1)
    return scores.argmax(axis=1), scores.T


def _regions(axes: Axes, xs: np.ndarray, ys: np.ndarray, classes: np.ndarray, scores: np.ndarray, look: Look) -> None:
    """A pale area a class, and a line where the largest score changes hands."""
    from matplotlib.colors import ListedColormap, to_rgb

    paper = np.array(to_rgb(look.theme.background))
    tints = [tuple(paper * 0.75 + np.array(to_rgb(look.hue(k))) * 0.25) for k in range(len(scores))]
    field = classes.reshape(len(ys), len(xs))
    axes.pcolormesh(xs, ys, field, cmap=ListedColormap(tints), vmin=-0.5, vmax=len(scores) - 0.5, shading="nearest", rasterized=True)
    for k in range(len(scores) if len(scores) > 2 else 1):
        lead = scores[k] - np.delete(scores, k, axis=0).max(axis=0)
        if lead.min() < 0 < lead.max():
            axes.contour(xs, ys, lead.reshape(field.shape), levels=[0.0], colors=[look.theme.text], linewidths=look.width * 0.7)


def _points(axes: Axes, data: np.ndarray, truth: np.ndarray, look: Look) -> None:
    for k in np.unique(truth):
        chosen = data[truth == k]
        axes.plot(chosen[:, 0], chosen[:, 1], linestyle="", marker=MARKERS[k % len(MARKERS)], color=look.hue(int(k)),
                  markersize=3.2 + look.theme.stroke * 0.6, markeredgecolor=look.theme.background, markeredgewidth=0.5,
                  label=f"class {k}")  # fmt: skip
