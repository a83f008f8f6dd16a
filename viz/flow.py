"""Where the gradient vanishes or explodes: backward edges coloured by its norm, with a scale in powers of ten.

What enters: a view that was run with numbers. What leaves: the same diagram with a shade and a width on every backward edge, and a legend
under its scene. Invariants: a shade is the logarithm of the norm beside that of the gradient where it leaves the loss, so that 0 means
"as large as it began"; the scale is symmetric and in whole powers of ten; width says the same as colour. ::

    graphc.draw(loss, "bptt.svg", backward=True, values=data, flow=True)

Source of the view: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks" (2013), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from graphc.errors import DrawError
from graphc.ir import Node
from viz.fonts import text_width
from viz.scene import MARGIN, Group, Scene, Shape, Text, flow_colour, straight
from viz.theme import Theme
from viz.values import Run, carried_by
from viz.view import View

MOST = 9  # powers of ten that a scale has to either side
THIN, EVEN, WIDE = 0.5, 1.5, 3.2  # of an edge at the ends and in the middle of the scale
_STEPS = 9  # samples in the legend


def shade_edges(view: View, found: Run, start: float, decades: int | None = None) -> None:
    """Colour and widen the backward edges of a view by the norms of what they carry.

    Args:
        start: the norm that stands for 1, see :func:`start_of`. decades: the powers of ten of the scale; by the picture unless said.
    """
    carried = carried_by(view, found)
    for index, node in whole_gradients(view).items():
        if index not in carried and node in found.gradients:
            carried[index] = found.gradients[node]
    ratios = {i: norm(v) / start for i, v in carried.items()}
    logs = {i: math.log10(r) for i, r in ratios.items() if r > 0 and math.isfinite(r)}
    decades = decades or min(max(1, math.ceil(max((abs(v) for v in logs.values()), default=1.0) - 1e-9)), MOST)
    view.diagram.decades = decades
    for index, ratio in ratios.items():
        shade = max(-1.0, min(1.0, logs[index] / decades)) if index in logs else -1.0 if ratio == 0 else 1.0
        edge = view.diagram.edges[index]
        tip = f"gradient's norm: {ratio:.2g} of what left the loss\n{edge.tooltip}"
        view.diagram.edges[index] = replace(edge, shade=shade, weight=width_of(shade), tooltip=tip)


def whole_gradients(view: View) -> dict[int, Node]:
    """Backward edges that lead to one node's gradient as a whole (from the loss, from a sum of contributions): edge index -> node."""
    nodes: dict[str, list[Node]] = {}
    for node, box in view.box_of.items():
        nodes.setdefault(f"g{box}", []).append(node)
    heads = {i: nodes.get(e.head, []) for i, e in enumerate(view.diagram.edges) if e.kind == "backward"}
    return {i: found[0] for i, found in heads.items() if len(found) == 1}


def start_of(found: Run, loss: Node) -> float:
    """The norm of the gradient where it leaves the loss: at the first tensor on its way back, or at the loss itself.

    Raises:
        DrawError: it is 0 or not finite there.
    """
    value = norm(found.gradients[start_node(found.gradients, loss)])
    if not value > 0 or not math.isfinite(value):
        raise DrawError(f"the gradient is {value:g} where it leaves the loss: there is nothing to compare with", source=loss.source)
    return value


def start_node(gradients: Iterable[Node], loss: Node) -> Node:
    """Where the gradient leaves the loss; ``gradients`` in the order in which it reached the nodes."""
    return next((n for n in gradients if n.ndim > 0), loss)


def norm(value: np.ndarray) -> float:
    """The Euclidean norm in float64."""
    return float(np.sqrt(np.square(value.astype(np.float64)).sum()))


def width_of(shade: float) -> float:
    """An edge's width relative to the theme's stroke.

    >>> width_of(-1.0), width_of(0.0), width_of(1.0)
    (0.5, 1.5, 3.2)
    """
    return EVEN + shade * ((WIDE - EVEN) if shade > 0 else (EVEN - THIN))


def add_legend(scene: Scene, decades: int, theme: Theme) -> None:
    """The scale under the picture: what vanishes is thin and blue, what explodes wide and orange."""
    size = theme.size
    cell, left = size * 2.6, MARGIN
    y = scene.height + size * 0.6
    shapes: list[Shape] = [Text(left, y, "norm of the gradient beside where it leaves the loss", size, "sans", theme.text)]
    y += size * 1.2
    for k in range(_STEPS):
        shade = 2 * k / (_STEPS - 1) - 1
        colour = flow_colour(shade, theme)
        shapes.append(straight((left + k * cell, y), (left + (k + 0.86) * cell, y), colour, theme.stroke * 1.1 * width_of(shade)))
    y += size * 1.5
    right = left + (_STEPS - 0.14) * cell
    for text, share in ((f"{power(-decades)} vanishes", 0.0), ("1", 0.5), (f"explodes {power(decades)}", 1.0)):
        x = left + share * (right - left - text_width(text, "sans", size))
        shapes.append(Text(x, y, text, size, "sans", theme.text))
    scene.groups.append(Group("flow", "legend", f"scale of the gradient's norm, {power(-decades)} to {power(decades)}", shapes))
    title_end = left + text_width("norm of the gradient beside where it leaves the loss", "sans", size)
    scene.width = max(scene.width, right + MARGIN, title_end + MARGIN)
    scene.height = y + size * 0.4 + MARGIN
    scene.description += " Backward edges are wide and orange where the gradient explodes, thin and blue where it vanishes."


def power(exponent: int) -> str:
    """A power of ten.

    >>> power(-12)
    '10⁻¹²'
    """
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
