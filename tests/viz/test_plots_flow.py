"""Where a gradient vanishes or explodes, on the graph: shades and widths are the gradient's norms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from graphc import ops
from graphc.errors import DrawError
from graphc.ir import Node
from viz import draw
from viz.adapt import view_of
from viz.flow import width_of
from viz.render import scene_of
from viz.scene import flow_colour
from viz.theme import THEMES, theme_of
from viz.values import run_view

X = {"h": np.full((2,), 0.5, np.float32)}


def chain(factor: float, steps: int = 4) -> Node:
    h = ops.input("h", (2,))
    for _ in range(steps):
        h = h * factor
    return ops.sum(h)


@pytest.mark.parametrize(("factor", "sign"), [(0.1, -1), (10.0, 1)])
def test_shades_follow_the_norms_step_by_step(factor: float, sign: int) -> None:
    view = view_of(chain(factor), backward=True, wrt=None, values=X, flow=True)
    assert view.diagram.decades == 4
    shades = sorted((e.shade for e in view.diagram.edges if e.kind == "backward" and e.shade is not None), key=abs)
    assert {round(s, 4) for s in shades} >= {sign * k / 4 for k in range(1, 5)}
    for edge in view.diagram.edges:
        if edge.shade is not None:
            assert edge.weight == width_of(edge.shade)
    found = run_view(view.graph, X, next(iter(view.graph.outputs.values())))
    norms = [float(np.linalg.norm(g)) for n, g in found.gradients.items() if n.op.name in ("input", "mul")]
    assert math.log10(norms[-1] / norms[0]) == pytest.approx(4 * sign, abs=1e-5)


@pytest.mark.parametrize("theme", list(THEMES))
def test_the_legend_names_both_ends_and_fits(theme: str) -> None:
    view = view_of(chain(0.1), backward=True, values=X, flow=True)
    scene, _ = scene_of(view.diagram, theme_of(theme))
    legend = next(g for g in scene.groups if g.id == "flow")
    words = [s.text for s in legend.shapes if hasattr(s, "text")]
    assert "10⁻⁴ vanishes" in words and "explodes 10⁴" in words and "1" in words
    xs = [s.x for s in legend.shapes if hasattr(s, "x")]
    ys = [s.y for s in legend.shapes if hasattr(s, "y")]
    assert min(xs) >= 0 and max(xs) < scene.width and max(ys) < scene.height
    assert len({flow_colour(s, theme_of(theme)) for s in (-1.0, 0.0, 1.0)}) == 3
    assert "vanishes" in scene.description


def test_a_gradient_that_dies_is_at_the_vanishing_end() -> None:
    h = ops.input("h", (2,))
    view = view_of(ops.sum(ops.relu(h * -1.0) * 2.0), backward=True, values=X, flow=True)
    assert min(e.shade for e in view.diagram.edges if e.shade is not None) == -1.0


@pytest.mark.parametrize("options", [{}, {"backward": True}, {"values": X}])
def test_flow_needs_a_backward_graph_with_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(DrawError, match="flow of gradients"):
        draw(chain(0.5), flow=True, **options)


def test_nothing_to_compare_with_is_an_error() -> None:
    loss = ops.sum(ops.input("h", (2,)) * 1.0) * 0.0
    with pytest.raises(DrawError, match="nothing to compare"):
        draw(loss, backward=True, values=X, flow=True)
