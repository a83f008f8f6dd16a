"""Curves: a training run, activation functions with their derivatives, norms of gradients.

What enters: a history (anything with ``to_dict()``), names of functions, or norms. What leaves: figures, and svg, png or pdf. Invariants:
training is solid and validation dashed, never told apart by hue alone; derivatives are graphc's own.

>>> columns_of({"loss": [2.0, 1.0]})
{'epoch': [1, 2], 'loss': [2.0, 1.0]}
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc import interpreter, ops
from graphc.errors import DrawError
from graphc.ir import Graph, Node
from viz.plots.canvas import Path_, array_of, canvas, decades, plain, shape_of_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VALIDATION = "val_"
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus")
_DECADES = 1e-12  # where a norm of 0 stands on a logarithmic axis


def columns_of(history: Any) -> dict[str, list[float]]:
    """Columns by name; "epoch" is counted if it is not there.

    Raises:
        DrawError: it is no history, or it is empty.

    >>> columns_of([{"loss": 2.0}, {"loss": 1.0}])
    {'epoch': [1, 2], 'loss': [2.0, 1.0]}
    """
    if callable(getattr(history, "to_dict", None)):
        history = history.to_dict()
    if isinstance(history, Sequence) and all(isinstance(row, Mapping) for row in history):
        names = dict.fromkeys(k for row in history for k in row)
        history = {k: [row.get(k, math.nan) for row in history] for k in names}
    if not isinstance(history, Mapping):
        raise DrawError(
            f"{type(history).__name__} is no history", help="give what fit() returned, columns by name, or rows"
        )
    columns = {str(k): [v for v in column] for k, column in history.items()}
    length = max((len(c) for c in columns.values()), default=0)
    if length == 0:
        raise DrawError("there is nothing to plot: the history has no rows yet")
    if any(len(c) != length for c in columns.values()):
        raise DrawError(
            "the columns of the history differ in length", notes=tuple(f"{k}: {len(c)}" for k, c in columns.items())
        )
    return {"epoch": columns.pop("epoch", list(range(1, length + 1))), **columns}


def plot_history(history: Any, path: Path_ = None, *, theme: str = "light") -> Figure:
    """Draw every quantity of a run against the epochs, a panel each, training and validation together.

    Args:
        history: what ``Trainer.fit`` returned, columns by name, or rows. path: .svg, .png or .pdf; None writes nothing.
        theme: "light", "dark", "projector" or "print".

    Raises:
        DrawError: no rows, an unknown theme or suffix, a file that cannot be written, or no matplotlib.

    >>> figure = plot_history({"loss": [2.0, 1.0], "val_loss": [2.1, 1.3]})
    >>> figure.axes[0].get_title(), [line.get_label() for line in figure.axes[0].lines]
    ('loss', ['training', 'validation'])
    """
    columns = columns_of(history)
    panels = list(dict.fromkeys(k.removeprefix(_VALIDATION) for k in columns if k != "epoch"))
    with canvas(path, theme, 5.2 * max(len(panels), 1), 3.8) as (figure, look):
        from matplotlib.ticker import MaxNLocator

        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for k, (key, label) in enumerate(((name, "training"), (_VALIDATION + name, "validation"))):
                if key in columns:
                    axes.plot(columns["epoch"], columns[key], label=label, **look.series(k))
            axes.set(xlabel="epoch", title=name.replace("_", " "))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            plain(axes)
            axes.legend()
    return figure


# --- activations ---------------------------------------------------------------------------------------------------


def activations(
    which: Sequence[str | Callable[[Node], Node]] | Mapping[str, Callable[[Node], Node]] = ACTIVATIONS, path: Path_ = None, *,
    span: tuple[float, float] = (-4.0, 4.0), points: int = 401, columns: int | None = None, theme: str = "light",
) -> Figure:  # fmt: skip
    """Draw functions of one number (solid) with their derivatives (dashed), a panel each.

    The derivative is graphc's: the function is declared once on a symbolic value, differentiated, and both are run.

    Args:
        which: names of elementwise functions of :mod:`graphc.ops`, functions of a value, or functions by name.
        span: from where to where. points: of each curve. columns: panels in a row.

    Raises:
        DrawError: an unknown name, a function that does not keep the shape, an empty span.
        DifferentiationError: a function without a derivative.

    >>> figure = activations(["tanh"], points=3, span=(-1.0, 1.0))
    >>> value, slope = figure.axes[0].lines[-2:]
    >>> [round(float(v), 3) for v in slope.get_ydata()]
    [0.42, 1.0, 0.42]
    """
    functions = _functions(which)
    low, high = span
    if not low < high or points < 2:
        raise DrawError(f"activations are drawn on at least 2 points of a span (low, high), not {points} of {span}")
    xs = np.linspace(low, high, points)
    rows, wide = shape_of_grid(len(functions), columns if columns is not None else min(4, len(functions)))
    with canvas(path, theme, 3.3 * wide, 2.9 * rows + 0.4) as (figure, look):
        grid = figure.subplots(rows, wide, squeeze=False, sharex=True).ravel()
        for axes, (name, function) in zip(grid, functions.items(), strict=False):
            y, slope = _with_derivative(name, function, xs)
            axes.axhline(0, color=look.theme.cluster, linewidth=0.8)
            axes.axvline(0, color=look.theme.cluster, linewidth=0.8)
            for k, (values, label) in enumerate(((y, "f(x)"), (slope, "f′(x)"))):
                axes.plot(xs, values, label=label, **{**look.series(k), "marker": ""})
            axes.set_title(name)
            plain(axes)
            axes.tick_params(labelbottom=True)
        for axes in grid[len(functions) :]:
            axes.set_visible(False)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _functions(which: Any) -> dict[str, Callable[[Node], Node]]:
    if isinstance(which, Mapping):
        named = dict(which)
    else:
        items = [which] if isinstance(which, str) or callable(which) else list(which)
        named = {i if isinstance(i, str) else getattr(i, "__name__", f"f{k}"): i for k, i in enumerate(items)}
    if not named:
        raise DrawError("there is nothing to plot: no function was named")
    for name, function in named.items():
        found = getattr(ops, function, None) if isinstance(function, str) else function
        if not callable(found):
            raise DrawError(f"graphc.ops has no function {function!r}", help=f"there are {', '.join(ACTIVATIONS)}; or give a function")
        named[name] = found
    return named


def _with_derivative(name: str, function: Callable[[Node], Node], xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A function and its derivative at some points; one graph, run once, in float64."""
    x = ops.input("x", xs.shape, dtype="float64")
    y = function(x)
    if not isinstance(y, Node) or y.shape != x.shape or not y.dtype.is_float:
        given = str(y.type) if isinstance(y, Node) else type(y).__name__
        raise DrawError(f"{name} gives {given} for {x.type}: a function of one number is drawn")
    grad = importlib.import_module("passes.differentiate").grad  # by name: pictures depend on nothing that makes graphs
    graph = Graph("activation", {"y": y, "slope": grad(ops.sum(y), wrt=x)})
    found = interpreter.run(graph, {"x": xs})
    return found["y"], found["slope"]


# --- norms of gradients --------------------------------------------------------------------------------------------


def gradient_norms(norms: Any, path: Path_ = None, *, theme: str = "light") -> Figure:
    """Draw the norm of each parameter's gradient against the updates, on a logarithmic axis.

    Args:
        norms: a :class:`graphc.train.Recorder`, or ``{step: {parameter: norm}}``.

    Raises:
        DrawError: nothing was recorded.

    >>> figure = gradient_norms({0: {"w": 1.0}, 10: {"w": 0.1}})
    >>> [float(v) for v in figure.axes[0].lines[0].get_ydata()], figure.axes[0].get_yscale()
    ([1.0, 0.1], 'log')
    """
    course: Any = getattr(norms, "norms", norms)
    if not isinstance(course, Mapping) or not course or not all(isinstance(row, Mapping) for row in course.values()):
        raise DrawError(
            "there are no gradients' norms to plot",
            help="record them: Recorder(gradients=(loss, data)), given to fit() as a callback; or {step: {name: norm}}",
        )
    names = list(dict.fromkeys(name for row in course.values() for name in row))
    with canvas(path, theme, 8.4, 4.2) as (figure, look):
        axes = figure.subplots()
        for k, name in enumerate(names):
            values = [max(row.get(name, math.nan), _DECADES) for row in course.values()]
            axes.plot(list(course), values, label=name, **look.series(k))
        axes.set(xlabel="updates", ylabel="norm of the gradient")
        decades(axes)
        plain(axes)
        figure.legend(loc="outside right upper")
    return figure


def gradients_through_time(norms: Any, path: Path_ = None, *, theme: str = "light") -> Figure:
    """Draw how large the loss's gradient still is at each time step, and say whether it vanishes or explodes on the way back.

    Args:
        norms: what :func:`graphc.train.through_time` returned, one norm a step, or norms by name (a model, a state of an LSTM).

    Raises:
        DrawError: there are no steps, or norms that are negative.

    Source: Bengio, Simard, Frasconi, "Learning long-term dependencies with gradient descent is difficult" (1994); Pascanu et al. (2013).

    >>> figure = gradients_through_time({"small": [1e-4, 1e-2, 1.0], "large": [100.0, 10.0, 1.0]})
    >>> [line.get_label() for line in figure.axes[0].lines[:2]]
    ['small: vanishes, 0.01 a step', 'large: explodes, 10 a step']
    """
    courses = _courses(norms)
    with canvas(path, theme, 8.0, 3.9 + 0.3 * min(len(courses), 12)) as (figure, look):
        axes = figure.subplots()
        for k, (name, values) in enumerate(courses.items()):
            label = f"{name}: {verdict(values)}" if name else verdict(values)
            axes.plot(np.arange(1, len(values) + 1), np.maximum(values, _DECADES), label=label, **look.series(k))
        axes.set(xlabel="time step   (backpropagation runs ←)", ylabel="‖∂L/∂h‖")
        axes.set_yscale("log")
        axes.margins(y=0.12)
        decades(axes)
        _bands(axes, courses, look.theme.faint)
        _whole_steps(axes)
        plain(axes)
        figure.legend(loc="outside upper center", ncols=1)
    return figure


def verdict(norms: np.ndarray) -> str:
    """What happens to a gradient on its way back, and by which factor a step.

    >>> verdict(np.array([0.25, 0.5, 1.0])), verdict(np.array([1.0, 1.0]))
    ('vanishes, 0.5 a step', 'is kept, 1 a step')
    """
    alive = np.flatnonzero(norms > 0)
    if len(norms) < 2 or len(alive) < 2:
        return "too short to say" if len(norms) < 2 else "vanishes at once"
    rate = (norms[alive[0]] / norms[alive[-1]]) ** (1.0 / (alive[-1] - alive[0]))
    word = "vanishes" if rate < 0.95 else "explodes" if rate > 1.05 else "is kept"
    return f"{word}, {rate:.2g} a step"


def _courses(norms: Any) -> dict[str, np.ndarray]:
    given: Any = getattr(norms, "norms", norms)
    named = dict(given) if isinstance(given, Mapping) else {"": given}
    found = {str(k): array_of(getattr(v, "total", v), f"norms {k}".strip(), ndim=(1,)) for k, v in named.items()}
    if not found or any((v < 0).any() for v in found.values()):
        raise DrawError("norms through time are numbers from 0 on, one a step", help="give what graphc.train.through_time returned")
    return found


def _bands(axes: Axes, courses: Mapping[str, np.ndarray], ink: str) -> None:
    """The level at the last step, from which curves leave."""
    last = float(np.median([v[-1] for v in courses.values()]))
    if last <= 0 or not math.isfinite(last):
        return
    axes.axhline(last, color=ink, linewidth=1.0, linestyle=(0, (1, 2)))
    for y, side, text in ((0.97, "top", "explodes ↑"), (0.03, "bottom", "vanishes ↓")):
        axes.text(0.985, y, text, transform=axes.transAxes, color=ink, va=side, ha="right")


def _whole_steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
