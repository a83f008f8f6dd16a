"""Pictures: structure, ids and geometry; text in its box; hostile names; every engine missing; every format."""

from __future__ import annotations

import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
import viz
from graphc import interpreter, ops
from graphc.errors import DrawError, GraphcError
from graphc.ir import Graph, Node
from viz import engines
from viz.adapt import diagram_of
from viz.fonts import text_width
from viz.gallery import classifier, perceptron, scalar
from viz.labels import ROUND, measure
from viz.layout import Layout, place
from viz.model import Diagram
from viz.render import scene_of
from viz.scene import Grid
from viz.theme import LIGHT, PROJECTOR, THEMES
from viz.values import run_view

SVG = "{http://www.w3.org/2000/svg}"
EXAMPLES = [scalar, perceptron, classifier]


def laid_out(what: Any, **options: Any) -> tuple[Diagram, Layout]:
    diagram = diagram_of(what, **options)
    return diagram, scene_of(diagram, LIGHT)[1]


def overlapping(layout: Layout) -> list[tuple[str, str]]:
    found = []
    boxes = sorted(layout.places.items())
    for i, (a, p) in enumerate(boxes):
        for b, q in boxes[i + 1 :]:
            wide, high = (p.width + q.width) / 2, (p.height + q.height) / 2
            if abs(p.x - q.x) < wide - 0.5 and abs(p.y - q.y) < high - 0.5:
                found.append((a, b))
    return found


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)


# --- structure -----------------------------------------------------------------------------------------------------


def test_every_op_has_one_adjoint_box_and_every_edge_its_reverse() -> None:
    diagram = diagram_of(scalar(), backward=True)
    ops_ = {b.id for b in diagram.boxes.values() if b.role == "op"}
    assert {b.mirror_of for b in diagram.boxes.values() if b.role == "adjoint"} == ops_
    forward = [(e.tail, e.head) for e in diagram.edges if e.kind == "forward"]
    backward = {(e.tail, e.head) for e in diagram.edges if e.kind == "backward"}
    for tail, head in forward:
        target = f"s{tail}" if f"s{tail}" in diagram.boxes else f"g{tail}"
        assert (f"g{head}", target) in backward


def test_a_value_read_twice_has_an_explicit_sum() -> None:
    diagram = diagram_of(scalar(), backward=True)
    sums = [b for b in diagram.boxes.values() if b.role == "accumulate"]
    assert [diagram.boxes[b.mirror_of].title for b in sums] == ["a"]
    assert sum(e.head == sums[0].id for e in diagram.edges) == 2
    x = ops.input("x")
    assert not [b for b in diagram_of(ops.tanh(x), backward=True).boxes.values() if b.role == "accumulate"]
    assert [b for b in diagram_of(x * x, backward=True).boxes.values() if b.role == "accumulate"]


def test_chain_rules_are_those_of_the_ops() -> None:
    a, b = ops.input("a"), ops.input("b")
    lines = {
        line.text
        for box in diagram_of({"loss": ops.tanh(a) * b}, backward=True).boxes.values()
        for line in box.lines
        if line.style == "formula"
    }
    assert r"\bar{a} = \bar{v}_{1} \cdot (1 - v_{1}^2)" in lines
    assert r"\bar{b} = \overline{\mathrm{loss}} \cdot v_{1}" in lines
    assert r"v_{1} = \tanh a" in lines


def test_a_folded_broadcast_is_summed_over_backwards() -> None:
    x, b = ops.input("x", ("n", 3)), ops.parameter("b", (3,))
    diagram = diagram_of(ops.sum(x + b), backward=True)
    assert "broadcast" not in {box.title for box in diagram.boxes.values()}
    rules = [line.text for box in diagram.boxes.values() for line in box.lines]
    assert any(r"\bar{b} = \textstyle\sum" in text for text in rules)
    assert "broadcast" in {box.title for box in diagram_of(ops.sum(x + b), level="primitives").boxes.values()}


def test_what_backward_reads_is_a_saved_edge() -> None:
    x, w = ops.input("x", (2, 3)), ops.parameter("w", (3, 4))
    diagram = diagram_of(ops.sum(x @ w), backward=True)
    saved = {(diagram.boxes[e.tail].title, diagram.boxes[e.head].title) for e in diagram.edges if e.kind == "saved"}
    assert saved == {("x", "∂ matmul")}  # w's gradient reads x; nobody asked for x's gradient, which would read w


def test_no_gradient_is_drawn_where_none_flows() -> None:
    x, y = ops.input("x"), ops.input("y")
    diagram = diagram_of(x * ops.stop_gradient(y), backward=True, wrt=x)
    mirrored = {diagram.boxes[b.mirror_of].title for b in diagram.boxes.values() if b.role != "seed" and b.mirror_of}
    assert mirrored == {"x", "mul"}


def test_gradients_may_be_given() -> None:
    x = ops.input("x", (3,))
    y = ops.sum(ops.exp(x))
    made = graphc.grad(y, wrt=x)
    for given in ({x: made}, Graph("back", {"x": made})):
        diagram = diagram_of({"loss": y}, backward=given)
        assert [b.mirror_of for b in diagram.boxes.values() if b.role == "gradient"] == ["n0"]


def test_what_can_be_drawn(tmp_path: Path) -> None:
    x = ops.input("x", (4, 3))
    program = graphc.compile({"y": ops.softmax(x), "z": ops.sum(x, axis=1)}, target="cpu")
    program(x=np.ones((4, 3), np.float32))
    drawn = [program, x, {"x": x}, Graph("g", {"x": x})]
    drawn += [s for s in program.trace.stages if not isinstance(s.artifact, str)]
    for what in drawn:
        assert viz.to_svg(what).startswith("<svg")
    with pytest.raises(DrawError, match="text cannot be drawn"):
        viz.draw("x")
    with pytest.raises(DrawError, match=r"int cannot be drawn(.|\n)*a Graph"):
        viz.draw(3)
    with pytest.raises(DrawError, match="empty dict"):
        viz.draw({})


# --- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", EXAMPLES)
@pytest.mark.parametrize("direction", ["LR", "TB"])
def test_the_mirror_is_true_and_nothing_overlaps(build: Any, direction: str) -> None:
    diagram, layout = laid_out(build(), backward=True, direction=direction)
    dx, dy = layout.offset
    assert (dx == 0) == (direction == "LR") and (dy == 0) == (direction == "TB")
    for box in diagram.boxes.values():
        if box.mirror_of and box.role != "accumulate":
            a, b = layout.places[box.mirror_of], layout.places[box.id]
            assert (b.x - a.x, b.y - a.y) == pytest.approx((dx, dy))
            assert (a.width, a.height) == (b.width, b.height)
    assert overlapping(layout) == []


@pytest.mark.parametrize("build", EXAMPLES)
def test_the_own_layout_keeps_the_same_promises(build: Any, no_engine: None) -> None:
    assert viz.engine() == "own layout"
    diagram, layout = laid_out(build(), backward=True)
    assert layout.engine == "own layout"
    assert overlapping(layout) == []
    flow = (lambda p: p.x) if diagram.direction == "LR" else (lambda p: p.y)
    assert all(flow(layout.places[e.tail]) < flow(layout.places[e.head]) for e in diagram.edges if e.kind == "forward")


@pytest.mark.parametrize("build", EXAMPLES)
@pytest.mark.parametrize("theme", [LIGHT, PROJECTOR])
def test_text_stays_inside_its_box(build: Any, theme: Any) -> None:
    diagram = diagram_of(build(), backward=True)
    for box in diagram.boxes.values():
        label = measure(box, theme)
        for line in label.lines:
            right, top, bottom = line.x + line.width, line.y - line.size * 0.75, line.y + line.size * 0.2
            assert right <= label.width / 2 + 0.01 and line.x >= -label.width / 2 - 0.01
            assert -label.height / 2 <= top and bottom <= label.height / 2
            if box.role in ROUND:
                rx, ry = label.width / 2, label.height / 2
                assert (right / rx) ** 2 + (max(abs(top), abs(bottom)) / ry) ** 2 < 1.12


def test_routes_start_and_end_at_their_boxes() -> None:
    diagram, layout = laid_out(scalar(), backward=True)
    for i, edge in enumerate(diagram.edges):
        if edge.kind in ("forward", "backward"):
            for point, box in ((layout.routes[i][0], edge.tail), (layout.routes[i][-1], edge.head)):
                left, top, right, bottom = layout.places[box].bounds
                assert left - 3 <= point[0] <= right + 3 and top - 3 <= point[1] <= bottom + 3, (edge, point)


# --- SVG -----------------------------------------------------------------------------------------------------------


def test_svg_scales_and_speaks() -> None:
    root = ET.fromstring(viz.to_svg(perceptron(), backward=True))
    assert root.attrib["role"] == "img" and root.attrib["width"] == "100%" and "viewBox" in root.attrib
    assert "height" not in root.attrib
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and desc is not None and desc.text is not None
    assert "parameters w, b" in desc.text and "backward" in desc.text
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], desc.attrib["id"]]


def test_ids_are_unique_prefixed_and_drawing_is_deterministic() -> None:
    first, again, other = (viz.to_svg(m, backward=True) for m in (scalar(), scalar(), perceptron()))
    assert without_lines(first) == without_lines(again)
    ids = [re.findall(r'\bid="([^"]+)"', text) for text in (first, other)]
    assert all(len(found) == len(set(found)) for found in ids)
    assert not set(ids[0]) & set(ids[1])
    assert len({i.partition("-")[0] for i in ids[0]}) == 1


def without_lines(text: str) -> str:
    return re.sub(r"\w+\.py:\d+|g[0-9a-f]{8}-", "", text)


HOSTILE = [
    "</script><img src=x onerror=alert(1)>", "]]>&amp;<!--", 'a"b\'c\\d\n{e}$f^g_h%', "名前" * 20, "x" * 300,
    "\x00\x1b[31m", "|<r>|",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(name: str, tmp_path: Path) -> None:
    x = ops.input("x", (2,)).named(name)  # names from IR text are not checked as declarations are
    with graphc.scope(name):
        y = ops.sum(x * ops.exp(x)).named(name)
        y = y + ops.sum(ops.tanh(x))
    svg = viz.to_svg({name: y}, backward=True)
    tags = {e.tag for e in ET.fromstring(svg).iter()}
    assert tags <= {SVG + t for t in ("svg", "g", "title", "desc", "rect", "ellipse", "path", "polygon", "text")}
    viz.draw({name: y}, tmp_path / "x.png", backward=True)
    viz.draw({name: y}, tmp_path / "x.dot", backward=True)
    if engines._pygraphviz() is not None:
        graph = engines._pygraphviz().AGraph(string=(tmp_path / "x.dot").read_text(encoding="utf-8"))
        assert set(graph.nodes()) == set(diagram_of({name: y}, backward=True).boxes)
    long = [t for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if len(t) > 200]
    assert long == []


def test_a_long_name_is_whole_in_the_tooltip() -> None:
    name = "n" * 300
    svg = viz.to_svg(ops.input(name) + 1)
    texts = ["".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")]
    assert name not in texts and any("…" in t for t in texts)
    assert any(name in (e.text or "") for e in ET.fromstring(svg).iter(f"{SVG}title"))


# --- files, themes, engines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "magic"), [("svg", b"<svg"), ("png", b"\x89PNG\r\n\x1a\n"), ("pdf", b"%PDF"), ("dot", b"digraph")]
)
def test_formats(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"p.{suffix}"
    assert viz.draw(scalar(), path, backward=True) is None
    assert path.read_bytes().startswith(magic)


def test_dot_carries_the_mirror(tmp_path: Path) -> None:
    viz.draw(scalar(), tmp_path / "p.dot", backward=True)
    text = (tmp_path / "p.dot").read_text(encoding="utf-8")
    assert 'pos="' in text and "gn0" in text and "style=dashed" in text


def test_a_broken_engine_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in ("not json", "{}", '{"bb": "0,0,1,1"}'):
        monkeypatch.setattr(engines, "_ask_program", lambda source, answer=answer: answer)
        monkeypatch.setattr(engines, "_ask_pygraphviz", lambda source, answer=answer: answer)
        assert laid_out(scalar(), backward=True)[1].engine == "own layout"


def test_all_formats_without_an_engine(no_engine: None, tmp_path: Path) -> None:
    for suffix in ("svg", "png", "pdf", "dot"):
        viz.draw(perceptron(), tmp_path / f"p.{suffix}", backward=True)


def test_formulas_without_ziamath_are_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    from viz.formula import typeset

    typeset.cache_clear()
    monkeypatch.setitem(sys.modules, "ziamath", None)
    svg = viz.to_svg(scalar(), backward=True)
    typeset.cache_clear()
    assert "v₁ = a · b" in svg


def test_themes_differ_and_keep_line_kinds() -> None:
    pictures = {name: viz.to_svg(scalar(), backward=True, theme=name) for name in THEMES}
    assert len(set(pictures.values())) == len(THEMES)
    for svg in pictures.values():
        for kind, dashed in (("forward", False), ("backward", True), ("correspondence", True), ("saved", True)):
            group = re.search(rf'class="edge-{kind}">.*?</g>', svg)
            assert group is not None and ("stroke-dasharray" in group[0]) == dashed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theme": "neon"}, "light, dark, projector, print"),
        ({"direction": "UP"}, "'LR' or 'TB'"),
        ({"level": "atoms"}, "'ops', 'primitives' or 'kernels'"),
        ({"path": "p.gif"}, r"\.svg, \.png, \.pdf, \.dot"),
        ({"path": "p"}, "without a suffix"),
        ({"path": "/nonexistent/folder/p.svg"}, "cannot be written"),
        ({"backward": True, "wrt": ops.input("other")}, "other is no value of graph"),
    ],
)
def test_errors_say_how_to_mend(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DrawError, match=message):
        viz.draw(scalar(), **options)


def test_backward_needs_a_loss() -> None:
    x = ops.input("x", (3,))
    with pytest.raises(DrawError, match=r"float scalar(.|\n)*graphc\.vjp"):
        viz.draw(x * 2, backward=True)
    with pytest.raises(DrawError, match="no single loss"):
        viz.draw({"a": ops.sum(x), "b": ops.mean(x)}, backward=True)
    assert viz.to_svg({"loss": ops.sum(x), "accuracy": ops.mean(x)}, backward=True)


# --- large graphs --------------------------------------------------------------------------------------------------


def blocks(count: int, alike: bool = True) -> Node:
    y = x = ops.input("x", (4,))
    for i in range(count):
        with graphc.scope(f"block{i}"):
            y = ops.tanh(y * 1.01 + x) * ops.sigmoid(y) - y
            y = y if alike or i % 2 else ops.exp(y)
    return ops.sum(y)


def test_scopes_collapse() -> None:
    diagram = diagram_of(blocks(12, alike=False), backward=True)
    collapsed = [b for b in diagram.boxes.values() if b.role == "collapsed"]
    assert [b.title for b in collapsed] == [f"block{i}" for i in range(12)]
    assert all(f"g{b.id}" in diagram.boxes for b in collapsed)
    assert not [b for b in diagram_of(blocks(3)).boxes.values() if b.role == "collapsed"]


def test_layers_that_repeat_are_folded() -> None:
    diagram = diagram_of(blocks(12), backward=True)
    titles = [b.title for b in diagram.boxes.values()]
    assert titles.count("tanh") == titles.count("∂ tanh") == 1
    assert {b.scope for b in diagram.boxes.values() if b.title == "tanh"} == {("block ×12",)}
    ends = {(diagram.boxes[e.tail].title, diagram.boxes[e.head].title) for e in diagram.edges if e.kind == "forward"}
    assert ("sub", "sum") in ends and ("x", "mul") in ends and ("sub", "mul") not in ends


def test_level_layers_has_a_box_a_layer() -> None:
    x = ops.input("x", ("batch", 16))
    net = graphc.nn.Sequential(*[graphc.nn.Dense(16) for _ in range(3)], graphc.nn.Dense(2), name="net")
    diagram = diagram_of(ops.mean(net(x)), level="layers", backward=True)
    boxes = {b.title: b for b in diagram.boxes.values()}
    assert {"x", "dense ×3", "dense_3", "mean", "∂ dense ×3", "∂ dense_3"} <= set(boxes)
    assert "272 parameters each" in [line.text for line in boxes["dense ×3"].lines]
    assert "34 parameters" in [line.text for line in boxes["dense_3"].lines]


def test_level_kernels_shows_what_is_launched() -> None:
    x = ops.input("x", (4, 3))
    y = ops.sum(ops.tanh(x) @ ops.parameter("w", (3, 2)))
    diagram = diagram_of(y, level="kernels")
    kernels = [b for b in diagram.boxes.values() if b.role == "kernel"]
    program = graphc.compile(y, cache=False)
    assert [b.title for b in kernels] == [launch.kernel for launch in program.loops.launches]
    assert len(diagram_of(program, level="kernels").boxes) == len(diagram.boxes)
    with pytest.raises(DrawError, match="leaves batch open"):
        diagram_of(ops.sum(ops.input("x", ("batch",))), level="kernels")


# --- numbers -------------------------------------------------------------------------------------------------------


def lines_of(diagram: Diagram, title: str) -> list[str]:
    return [line.text for b in diagram.boxes.values() if b.title == title for line in b.lines]


def test_numbers_are_those_of_the_interpreter() -> None:
    diagram = diagram_of(scalar(), backward=True, values={"a": 2.0, "b": -3.0, "c": 10.0})
    assert "= −3" in lines_of(diagram, "b") and "= 4" in lines_of(diagram, "add") and "= 0.964" in lines_of(diagram, "tanh")
    assert "= −2.609" in lines_of(diagram, r"\bar{a}") and "= 1.928" in lines_of(diagram, r"\bar{b}")
    assert r"{} = 0.964 \cdot ({-}3) = {-}2.89" in lines_of(diagram, "∂ mul")
    labels = {e.label for e in diagram.edges if e.kind == "backward"}
    assert {"−2.89", "0.283", "1.93", "0.964", "4"} <= labels  # −2.89 + 0.283 = −2.609
    widths = {e.label: e.weight for e in diagram.edges if e.label}
    assert widths["4"] > widths["1.93"] > widths["0.283"]


def test_tensors_show_their_statistics_and_a_heat_map() -> None:
    image = np.linspace(-1, 1, 3 * 784, dtype=np.float32).reshape(3, 784)
    diagram = diagram_of(classifier(), backward=True, values={"image": image, "label": np.eye(10, dtype=np.float32)[:3]})
    box = next(b for b in diagram.boxes.values() if b.title == "image")
    assert any(line.text.startswith("mean") and line.text.endswith("−1 … 1") for line in box.lines)
    cells = next(line.cells for line in box.lines if line.cells is not None)
    assert len(cells.rows) == 3 and cells.rows[0][0] < -0.9 < 0.9 < cells.rows[2][-1]
    assert any(e.label.startswith("‖·‖") for e in diagram.edges)


def test_gradients_with_broadcasts_and_reuse_agree_with_grad() -> None:
    x, w = ops.input("x", (3, 2)), ops.input("w", (2,))
    loss = ops.sum(ops.exp(x * w) * (w + 1.0)) + ops.sum(w * w)
    arrays = {"x": np.float32([[1, 2], [0.5, -1], [0, 3]]), "w": np.float32([0.3, -0.2])}
    found = run_view(Graph("g", {"loss": loss}), arrays, loss)
    for node in (x, w):
        want = interpreter.evaluate(graphc.grad(loss, wrt=node), arrays)
        np.testing.assert_allclose(found.gradients[node], want, rtol=1e-5)


def test_numbers_need_inputs_and_a_graph_of_bounded_size() -> None:
    with pytest.raises(GraphcError, match="b"):
        diagram_of(scalar(), values={"a": 1.0})
    with pytest.raises(DrawError, match="numbers are shown on up to"):
        diagram_of(blocks(200), values={"x": np.zeros(4, np.float32)})


def test_notation() -> None:
    assert r"\frac{\partial \mathrm{loss}}{\partial a}" in [
        b.title for b in diagram_of(scalar(), backward=True, notation="leibniz").boxes.values()
    ]
    with pytest.raises(DrawError, match="notation"):
        diagram_of(scalar(), backward=True, notation="dots")


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_numbers_stay_in_their_boxes(theme: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 784)).astype(np.float32)
    arrays = {"image": x, "label": np.eye(10, dtype=np.float32)[:3]}
    diagram = diagram_of(classifier(), backward=True, values=arrays)
    scene, layout = scene_of(diagram, THEMES[theme])
    assert overlapping(layout) == []
    for group in scene.groups:
        if group.id in layout.places:
            place_ = layout.places[group.id]
            for shape in group.shapes:
                if isinstance(shape, Grid):
                    assert max(len(r) for r in shape.rows) * shape.side < place_.width
                    assert len(shape.rows) * shape.side < place_.height


def test_a_huge_graph_is_drawn_in_bands() -> None:
    y = x = ops.input("x", (4,))
    for i in range(25_000):
        y = ops.tanh(y) if i % 3 else y + x
    diagram, layout = laid_out(ops.sum(y))
    assert len(diagram.boxes) < 40 and overlapping(layout) == []


# --- small things --------------------------------------------------------------------------------------------------


def test_widths_are_those_of_the_font() -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    for text in ("matmul", "f32[batch,784]"):
        drawn = TextPath((0, 0), text, size=100, prop=FontProperties(family="DejaVu Sans")).get_extents().width
        assert drawn <= text_width(text, "sans", 100) <= drawn * 1.1


def test_history_is_plotted(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 2.0, "val_loss": 2.5}, {"epoch": 2, "loss": 1.0, "val_loss": 1.5}]
    for name in ("h.svg", "h.png"):
        viz.plot_history(rows, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(DrawError, match="no rows yet"):
        viz.plot_history([], tmp_path / "h.svg")
    with pytest.raises(DrawError, match="no history"):
        viz.plot_history(3, tmp_path / "h.svg")


def test_gallery(tmp_path: Path) -> None:
    from viz.gallery import EXAMPLES, write

    files = write(tmp_path / "gallery")
    assert len(files) == 2 * len(EXAMPLES) and all(300 < f.stat().st_size < 500_000 for f in files)


def test_place_without_boxes_of_another_part() -> None:
    diagram = diagram_of(scalar())
    labels = {b.id: measure(b, LIGHT) for b in diagram.boxes.values()}
    layout = place(diagram, {k: (v.width, v.height) for k, v in labels.items()}, LIGHT.size)
    assert layout.offset == (0.0, 0.0) and set(layout.places) == set(diagram.boxes)
