"""The union of a compilation's stages: what is the same stays one box, nothing runs in a circle, every stage is told truly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import graphc
from graphc import nn, ops
from graphc.driver import Program
from graphc.errors import DrawError
from graphc.trace import Trace
from tests.viz.test_page import browser, opened
from viz.model import Diagram
from viz.union import MOST, Union, union_of

__all__ = ["browser"]


def training(depth: int = 2) -> Program:
    """A training step of a classifier."""
    with graphc.seed(0):
        image, label = ops.input("image", (8, 12)), ops.input("label", (8,), "int32")
        layers = [nn.Dense(12, activation="gelu") for _ in range(depth)]
        net = nn.Sequential(*layers, nn.Dense(4), name="net")
        loss = graphc.losses.cross_entropy(net(image), label)
    updates = graphc.optim.Adam(1e-3).updates(loss, net.parameters())
    return graphc.compile({"loss": loss}, updates=updates, threads=1)


@pytest.fixture(scope="module")
def union() -> Union:
    return union_of(training().trace)


def acyclic(diagram: Diagram) -> bool:
    waiting = {b: 0 for b in diagram.boxes}
    for edge in diagram.edges:
        waiting[edge.head] += 1
    ready = [b for b, n in waiting.items() if not n]
    done = 0
    while ready:
        box = ready.pop()
        done += 1
        for edge in diagram.edges:
            if edge.tail == box:
                waiting[edge.head] -= 1
                if not waiting[edge.head]:
                    ready.append(edge.head)
    return done == len(diagram.boxes)


def test_stages_begin_declared_and_end_lowered(union: Union) -> None:
    names = [m.name for m in union.moments]
    assert names[:2] == ["forward", "gradient"] and names[-2:] == ["fuse", "lower"]
    assert {"expand", "cse"} <= set(names)
    forward, gradient = union.moments[:2]
    assert forward.boxes < gradient.boxes
    boxes = union.diagram.boxes
    assert not any(boxes[b].backward or boxes[b].role == "update" for b in forward.boxes)
    assert {boxes[b].role for b in gradient.boxes - forward.boxes} == {"adjoint", "update"}
    assert all(m.say for m in union.moments)


def test_every_box_lives_somewhere_and_edges_join_what_lives(union: Union) -> None:
    assert set().union(*(m.boxes for m in union.moments)) == set(union.diagram.boxes)
    for moment in union.moments:
        for edge in moment.edges:
            joined = union.diagram.edges[int(edge[1:])]
            assert joined.tail in moment.boxes and joined.head in moment.boxes
    assert acyclic(union.diagram)


def test_a_node_keeps_its_box_and_a_merged_one_goes(union: Union) -> None:
    products = [b for b, nodes in union.nodes.items() if nodes[0].op.name == "matmul"]
    assert len(products) == 8  # three forward, five backward: none is drawn twice, whatever its operands became
    assert all(b in m.boxes for b in products for m in union.moments[1:])
    before, after = (next(m for m in union.moments if m.name == n) for n in ("gradient", "cse"))
    expanded = [b for b in before.boxes - after.boxes if union.nodes[b][0].op.name == "gelu"]
    assert len(expanded) == 2


def test_kernels_hold_all_that_is_computed(union: Union) -> None:
    fuse = union.moments[-2]
    held = {b for k in fuse.kernels for b in k.boxes}
    computed = {b for b in fuse.boxes if not all(n.op.is_source for n in union.nodes[b])}
    views = {b for b in computed - held if {n.op.name for n in union.nodes[b]} <= {"reshape", "check_index", "stop_gradient"}}
    assert computed - held == views
    assert all(set(k.stored) <= set(k.boxes) for k in fuse.kernels)
    assert all(r.reason for r in fuse.refused)


def test_an_update_is_one_box(union: Union) -> None:
    titles = [b.title for b in union.diagram.boxes.values() if b.role == "update"]
    assert sorted(titles) == sorted(["step size", *(f"update {n}" for n in ("weight", "bias") for _ in range(3))])


def test_large_programs_are_gathered_by_scope() -> None:
    with graphc.seed(0):
        x = ops.input("x", (4, 8))
        net = nn.Sequential(*(nn.Dense(8, activation="gelu") for _ in range(40)), name="net")
        loss = ops.mean(net(x) ** 2.0)
    program = graphc.compile({"loss": loss}, updates=graphc.optim.SGD(0.1).updates(loss, net.parameters()), threads=1)
    found = union_of(program.trace)
    assert found.gathered and len(found.diagram.boxes) <= MOST and acyclic(found.diagram)
    for moment in found.moments:
        assert set(moment.sizes) == set(moment.boxes)


def test_a_trace_without_graphs_is_an_error() -> None:
    with pytest.raises(DrawError, match="no stage with a graph"):
        union_of(Trace())


def test_stages_as_slides_keep_their_places(tmp_path: Path) -> None:
    trace = training().trace
    union = union_of(trace)
    assert graphc.slides(trace, tmp_path / "s.svg", title="One step") == len(union.moments)
    places: dict[str, str] = {}
    for k, moment in enumerate(union.moments, 1):
        text = (tmp_path / f"s-{k:02}.svg").read_text(encoding="utf-8")
        found = dict(re.findall(r'<g id="\w+-(u\d+)".*?(?:x|cx)="([\d.]+)"', text))
        assert set(found) == set(moment.boxes)
        assert all(places.setdefault(box, x) == x for box, x in found.items())
        assert f"One step: {moment.title}" in text
    assert graphc.slides(trace, tmp_path / "s.pdf") == len(union.moments)


# --- the page ------------------------------------------------------------------------------------------------------


# for each frame of a kernel: boxes within it of its colour, others whose middle is within it, badges on its boxes
_FRAMED = """(() => {
  const svg = document.querySelector('.gp-passes-pic svg');
  const middle = (g) => { const b = g.querySelector('rect, ellipse').getBBox(); return new DOMPoint(b.x + b.width / 2, b.y + b.height / 2); };
  const boxes = [...svg.querySelectorAll(':scope > g[role=img][id]:not(.gp-passes-out)')].filter((g) => g.querySelector('rect, ellipse'));
  return [...svg.querySelectorAll('.gp-passes-frame')].map((f) => {
    const hue = f.style.getPropertyValue('--gp-passes-hue'), within = boxes.filter((g) => f.querySelector('polygon').isPointInFill(middle(g)));
    const own = within.filter((g) => g.style.getPropertyValue('--gp-passes-hue') === hue);
    return [own.length, within.filter((g) => !g.classList.contains('gp-passes-gone')).length - own.length, own.filter((g) => g.querySelector('.gp-passes-badge')).length];
  });
})()"""


@pytest.mark.browser
def test_the_slider_by_mouse_and_by_keyboard(browser: Any, tmp_path: Path) -> None:
    program = training()
    union = union_of(program.trace)
    program.page(tmp_path / "p.html")
    with opened(browser, tmp_path / "p.html") as page:
        page.click("[role=tab][data-pane=passes]")
        shown = "document.querySelectorAll('.gp-passes-pic svg > g[id*=\"-u\"]:not(.gp-passes-out):not(.gp-passes-gone)').length"
        for k, moment in enumerate(union.moments):
            page.click(f"[data-stage='{k}']")
            assert page.evaluate(shown) == len(moment.boxes)
            assert page.inner_text(".gp-passes-say") == moment.say
            assert page.get_attribute(f"[data-stage='{k}']", "aria-checked") == "true"
        page.focus(".gp-passes-stages button:last-child")
        page.keyboard.press("Home")
        assert page.evaluate(shown) == len(union.moments[0].boxes)
        page.focus(".gp-passes-slider")
        page.keyboard.press("End")
        assert page.evaluate(shown) == len(union.moments[-1].boxes)
        page.keyboard.press("[")
        assert page.evaluate("document.querySelectorAll('.gp-passes-badge').length") > 10
        framed = page.evaluate(_FRAMED)
        assert framed and all(inside >= 2 and others == 0 and badges == 0 for inside, others, badges in framed)
        refused = union.moments[-2].refused[0]
        lists = page.inner_text(".gp-passes-lists")
        assert refused.what in lists and refused.reason in lists
        page.mouse.move(5, 5)
        page.focus("[aria-label=Kernels] li")
        lit = page.evaluate("[...document.querySelectorAll('.gp-passes-kin')].length")
        assert lit == len(union.moments[-2].kernels[0].boxes)
        assert page.evaluate("document.querySelectorAll('.gp-pic .gp-kin').length") > 0
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.querySelector('b').textContent") == union.moments[-2].kernels[1].name
        assert page.trouble == []


@pytest.mark.browser
def test_the_picture_of_all_stages_moves_zooms_plays_and_speaks(browser: Any, tmp_path: Path) -> None:
    training().page(tmp_path / "p.html")
    with opened(browser, tmp_path / "p.html") as page:
        page.click("[role=tab][data-pane=passes]")
        view = "document.querySelector('.gp-passes-pic svg').getAttribute('viewBox').split(' ').map(Number)"
        page.click(".gp-passes-zoom [data-zoom='0']")
        whole = page.evaluate(view)
        page.click(".gp-passes-zoom [data-zoom='1.25']")
        assert page.evaluate(view)[2] == pytest.approx(whole[2] / 1.25, rel=1e-3)
        page.focus(".gp-passes-pic")
        page.keyboard.press("0")
        assert page.evaluate(view) == pytest.approx(whole, abs=0.02)
        page.keyboard.press("ArrowRight")
        assert page.evaluate(view)[0] > whole[0] + 1
        box = page.locator(".gp-passes-pic svg").bounding_box()
        at = page.evaluate(view)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 + 20)
        page.mouse.up()
        assert page.evaluate(view)[0] < at[0] and page.evaluate(view)[1] < at[1]
        page.focus(".gp-passes-pic")
        page.keyboard.press("n")
        assert page.evaluate("document.activeElement.closest('.gp-passes-pic') !== null")
        assert page.evaluate("document.querySelectorAll('.gp-passes-kin').length") == 1
        page.click("[data-stage='0']")
        page.click(".gp-passes-play")
        assert page.get_attribute(".gp-passes-play", "aria-pressed") == "true"
        page.wait_for_selector("[data-stage='1'][aria-checked=true]", timeout=10_000)
        page.click(".gp-passes-play")
        assert page.get_attribute(".gp-passes-play", "aria-pressed") == "false"
        assert page.trouble == []


@pytest.mark.browser
def test_the_page_shows_hostile_names_as_text(browser: Any, tmp_path: Path) -> None:
    w = ops.parameter("</script><img src=x onerror=alert(1)>", (3,), 1.0)
    graphc.compile({"y": ops.sum(ops.gelu(w))}, threads=1).page(tmp_path / "p.html")
    with opened(browser, tmp_path / "p.html") as page:
        page.click("[role=tab][data-pane=passes]")
        assert page.evaluate("document.images.length") == 0
        assert "onerror" in page.evaluate("document.querySelector('.gp-passes-pic').textContent")
        assert page.trouble == []
