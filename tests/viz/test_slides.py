"""Steps and slides: every box once and in order, frames of one geometry, every format; TikZ that says what the picture says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.errors import DrawError
from graphc.ir import Node
from viz.adapt import diagram_of
from viz.gallery import classifier, perceptron, scalar
from viz.slides import HEIGHT, WIDTH, frames
from viz.steps import steps_of
from viz.theme import PROJECTOR, THEMES
from viz.tikz import escape

VALUES = {"a": 2.0, "b": -3.0, "c": 10.0}


@pytest.mark.parametrize("build", [scalar, perceptron, classifier])
@pytest.mark.parametrize("backward", [False, True])
def test_every_box_and_edge_has_its_step_after_what_it_reads(build: object, backward: bool) -> None:
    diagram = diagram_of(build(), backward=backward)  # type: ignore[operator]
    steps = steps_of(diagram)
    when = {box: k for k, step in enumerate(steps) for box in step.boxes}
    assert sorted(when) == sorted(diagram.boxes)
    assert sorted(i for s in steps for i in s.edges) == list(range(len(diagram.edges)))
    for edge in diagram.edges:
        assert when[edge.tail] <= when[edge.head]
    sides = [s.side for s in steps]
    assert sides == sorted(sides, reverse=True)  # forward, then backward
    assert all(s.sentence.endswith(".") or "←" in s.sentence for s in steps)


def test_sentences_hold_the_numbers() -> None:
    said = [s.sentence for s in steps_of(diagram_of(scalar(), backward=True, values=VALUES))]
    assert said[0] == "The inputs a = 2, b = −3 and c = 10 are given."
    assert any("0.964 · (-3) = -2.89" in s for s in said)
    assert said[-1] == "The gradient of a is complete: ā = −2.609. Its contributions are added: (−2.89) + 0.283."


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_frames_keep_their_geometry_and_only_grow(theme: str) -> None:
    made = frames(diagram_of(scalar(), backward=True, values=VALUES), THEMES[theme], "By hand")
    assert all((f.scene.width, f.scene.height) == (WIDTH, HEIGHT) for f in made)
    seen: dict[str, object] = {}
    for frame in made:
        groups = {g.id: g for g in frame.scene.groups if g.kind not in ("caption", "legend", "cluster")}
        assert set(seen) <= set(groups)
        for name, group in groups.items():
            points = [(s.x, s.y) for s in group.shapes if hasattr(s, "x")]
            assert seen.setdefault(name, points) == points
        for group in frame.scene.groups:
            for shape in group.shapes:
                if hasattr(shape, "text") and hasattr(shape, "x"):
                    assert 0 <= shape.x <= WIDTH and 0 <= shape.y <= HEIGHT


def test_formats(tmp_path: Path) -> None:
    count = graphc.slides(scalar(), tmp_path / "s.svg", backward=True)
    assert len(list(tmp_path.glob("s-*.svg"))) == count
    assert graphc.slides(scalar(), tmp_path / "s.pdf", backward=True) == count
    pdf = (tmp_path / "s.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == count
    assert graphc.slides(scalar(), tmp_path / "s.tex", backward=True) == count
    assert (tmp_path / "s.tex").read_text().count(r"\begin{tikzpicture}") == count
    graphc.slides(scalar(), tmp_path / "s.html", backward=True, title="</script><b>x")
    page = (tmp_path / "s.html").read_text()
    assert page.count("<section ") == count and "<b>x" not in page and "http" not in page.replace("http://www.w3.org", "")


def test_wrong_slides_say_how_to_mend(tmp_path: Path) -> None:
    with pytest.raises(DrawError, match=r"\.pptx"):
        graphc.slides(scalar(), tmp_path / "s.pptx")
    y = ops.input("x", (4,))
    for i in range(500):
        y = ops.tanh(y) if i % 2 else ops.exp(y)
    with pytest.raises(DrawError, match="cannot be written"):
        graphc.slides(scalar(), tmp_path / "no" / "s.pdf")
    assert graphc.slides(ops.sum(y), tmp_path / "s.svg", level="layers") < 60


def hostile() -> Node:
    a = ops.input("字x", (2,))
    with graphc.scope(r"50%_#{}\^~ 字 עברית $x$ & <b>"):
        return ops.sum(ops.tanh(a * a))


def test_tikz_is_escaped_and_compiles(tmp_path: Path) -> None:
    assert escape("a_b^2 #1 {x}") == r"a\_b\textasciicircum{}2 \#1 \{x\}"
    graphc.draw(hostile(), tmp_path / "h.tex", backward=True, values={"字x": [1.0, -2.0]})
    text = (tmp_path / "h.tex").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#]", body.replace("#1", "")) and r"\gcuni{字}" in body
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("pdflatex is not installed")
    run = subprocess.run([latex, "-interaction=nonstopmode", "-halt-on-error", "h.tex"], cwd=tmp_path, capture_output=True)
    if b"standalone.cls' not found" in run.stdout or b"lmodern.sty' not found" in run.stdout:
        pytest.skip("the LaTeX here lacks standalone or lmodern")
    assert run.returncode == 0, run.stdout[-2000:]
    assert (tmp_path / "h.pdf").stat().st_size > 1000


def test_projector_text_is_large() -> None:
    made = frames(diagram_of(scalar(), backward=True), PROJECTOR)
    sizes = [s.size for g in made[-1].scene.groups if g.kind == "op" for s in g.shapes if type(s).__name__ == "Text"]
    assert min(sizes) >= 9  # of 720: 13 pt on a slide of 1080 lines


def test_flow_on_slides(tmp_path: Path) -> None:
    """Backward edges are coloured, and the frames of the backward pass have the scale."""
    x = graphc.input("x", (3,))
    y = x
    for _ in range(4):
        y = graphc.tanh(y * 0.1)
    values = {"x": np.float32([1, 2, 3])}
    count = graphc.slides(graphc.sum(y), tmp_path / "s.svg", backward=True, values=values, flow=True)
    first, last = (tmp_path / "s-01.svg").read_text(), (tmp_path / f"s-{count:02}.svg").read_text()
    assert "vanishes" in last and "explodes" in last and "vanishes" not in first
    plain = graphc.slides(graphc.sum(y), tmp_path / "p.svg", backward=True, values=values)
    colours = [set(re.findall(r'class="edge-backward".*?stroke="(#\w+)"', text, re.S)) for text in (last, (tmp_path / f"p-{plain:02}.svg").read_text())]
    assert len(colours[1]) == 1 < len(colours[0])
