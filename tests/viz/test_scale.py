"""Large graphs: what is drawn stays few boxes by itself at every level, pages stay small, and the work is linear in the graph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from bench import drawing
from graphc import ops
from graphc.ir import Graph
from tests.viz.test_page import browser, opened
from viz.adapt import diagram_of
from viz.collapse import CROWD, LIMIT, collapse
from viz.labels import measure
from viz.layout import place
from viz.theme import LIGHT

__all__ = ["browser"]


@pytest.mark.parametrize("level", ["layers", "ops", "primitives"])
@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_a_picture_of_any_graph_has_few_boxes(shape: str, level: str) -> None:
    diagram = diagram_of(drawing.SHAPES[shape](2_000), level=level)
    assert 2 <= len(diagram.boxes) <= CROWD + 2 * LIMIT
    labels = {b.id: measure(b, LIGHT) for b in diagram.boxes.values()}
    layout = place(diagram, {k: (v.width, v.height) for k, v in labels.items()}, LIGHT.size)
    assert set(layout.places) == set(diagram.boxes)


def test_twenty_thousand_nodes_collapse_with_their_gradients() -> None:
    diagram = diagram_of(drawing.deep(20_000), backward=True)
    assert diagram.mirrored and len(diagram.boxes) < 2 * CROWD


def steps_of_collapse(nodes: int) -> int:
    """Lines of Python that deciding what is shown takes."""
    graph = Graph("g", {"y": drawing.deep(nodes)})
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace if "collapse" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        collapse(graph.nodes, lambda n: n.source.scope if n.source else (), "ops")
    finally:
        sys.settrace(before)
    return count


def test_collapsing_is_linear() -> None:
    assert steps_of_collapse(2_400) < 2.3 * steps_of_collapse(1_200)


def test_many_outputs_and_updates() -> None:
    x = ops.input("x", (4,))
    diagram = diagram_of({f"o{i}": ops.tanh(x * float(i)) for i in range(2_000)})
    assert len(diagram.boxes) <= CROWD


@pytest.fixture(scope="module")
def programs() -> dict[str, Any]:
    return {name: drawing.trained(name) for name in drawing.MODELS}


def test_kernels_of_a_transformer_collapse_by_layer(programs: dict[str, Any]) -> None:
    program = programs["transformer"]
    diagram = diagram_of(program, level="kernels")
    titles = [b.title for b in diagram.boxes.values() if b.role == "collapsed"]
    assert len(diagram.boxes) <= LIMIT and len(program.loops.launches) > LIMIT
    for n in range(4):
        assert any(t.endswith(f"block_{n}") and not t.startswith("∂") for t in titles), titles
        assert any(t.startswith("∂") and t.endswith(f"block_{n}") for t in titles), titles
    assert all(e.tail != e.head for e in diagram.edges)
    pairs = [(e.tail, e.head) for e in diagram.edges]
    assert len(set(pairs)) == len(pairs)


def test_collapsed_launches_carry_their_costs(programs: dict[str, Any]) -> None:
    from viz.page import _context
    from viz.page.profile import _boxes

    options = {"backward": False, "wrt": None, "level": "kernels", "direction": None, "name": None, "notation": "bar"}
    context = _context(programs["transformer"], options, None, None)
    for launch in range(len(programs["transformer"].loops.launches)):
        ((boxes, share),) = _boxes(launch, {}, context)
        assert share == 1.0 and len(boxes) == 1 and boxes[0] in context.diagram.boxes


def test_kernels_of_a_small_program_are_drawn_one_by_one(programs: dict[str, Any]) -> None:
    program = programs["MNIST MLP"]
    diagram = diagram_of(program, level="kernels")
    assert sum(b.role == "kernel" for b in diagram.boxes.values()) == len(program.loops.launches)


@pytest.mark.parametrize(("name", "most"), [("MNIST MLP", 2_000_000), ("transformer", 5_000_000)])
def test_pages_of_compiled_programs_with_all_panes_are_small(programs: dict[str, Any], name: str, most: int, tmp_path: Path) -> None:
    for level in ("layers", "ops", "kernels"):
        programs[name].page(tmp_path / "p.html", level=level)
        assert 10_000 < (tmp_path / "p.html").stat().st_size < most


@pytest.mark.browser
def test_a_large_page_opens(browser: Any, programs: dict[str, Any], tmp_path: Path) -> None:
    programs["transformer"].page(tmp_path / "p.html")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    assert page.inner_text(".gp-at").split(" / ")[0] == page.inner_text(".gp-at").split(" / ")[1]
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")  # a paint is noted a frame after it happened
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint >= 0 and page.trouble == []


def test_values_of_a_large_graph_are_refused_clearly() -> None:
    with pytest.raises(graphc.errors.DrawError, match="numbers are shown on up to"):
        graphc.draw(drawing.chain(1_000), values={"x": np.zeros(4, np.float32)})
