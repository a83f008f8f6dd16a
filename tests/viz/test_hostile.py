"""Hostile pictures: odd names, cycles, nothing at all, ranks from 0 to 5, numbers that are none: right, or an error that says what is wrong."""

from __future__ import annotations

import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops
from graphc.errors import DrawError
from graphc.ir import Graph, Node
from tests.viz.test_page import browser, opened
from viz import engines
from viz.adapt import diagram_of
from viz.fonts import text_width, truncate
from viz.formula import typeset
from viz.raster import scene_figure
from viz.render import scene_of
from viz.scene import Ellipse, Rect, Scene, Text
from viz.theme import THEMES

__all__ = ["browser"]
NAMES = {
    "script": "</script><img src=x onerror=alert(1)>", "long": "a_rather_long_name_" * 16, "wide": "W" * 300, "hebrew": "שלום_עולם",
    "arabic": "مرحبا بالعالم", "cjk": "画像の入力テンソル", "emoji": "👩‍👩‍👧‍👦🔥weights", "controls": "a\x00b\x07c\x1bd\x7f\u202e\u2028",
    "surrogate": "a\ud800b", "latex": r"\frac{a}{$%_^}", "marks": "a" + "\u0301" * 60, "spaces": "   ", "lines": "a\nb\tc",
    "devanagari": "नमस्ते दुनिया", "thai": "สวัสดีชาวโลก", "dot": 'x" ]; digraph { <b>&lt;', "entity": "&amp;<![CDATA[]]>",
}  # fmt: skip
NUMBERS = np.array([[1, np.nan, np.inf], [-np.inf, 1e-300, 1e30]], np.float32)


def named(name: str) -> dict[str, Node]:
    """A graph whose scope, output and, where the language allows it, input and weight have this name."""
    with graphc.scope(name):
        x = ops.input(name if name.isidentifier() else "x", (2, 3))
        w = ops.parameter(name if name.isidentifier() else "w", (3, 4))
        return {name: ops.sum(ops.tanh(x @ w))}


def values(what: dict[str, Node]) -> dict[str, np.ndarray]:
    return {n.name: NUMBERS for n in Graph("g", what).inputs}


@pytest.fixture(autouse=True)
def no_warning_of_fonts() -> Iterator[None]:
    """Which scripts a machine has fonts for is not what these tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no installed font")
        yield


def tags(html: str) -> set[str]:
    """The elements of a page as a parser of HTML sees them; scripts and styles are text."""
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.add(tag)  # type: ignore[method-assign,assignment]
    parser.feed(html)
    return found


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_every_format_takes_every_name(name: str, tmp_path: Path) -> None:
    what = named(name)
    feed = values(what)
    for suffix in ("svg", "dot", "tex"):
        graphc.draw(what, tmp_path / f"p.{suffix}", backward=True, name=name, values=feed)
    root = ET.fromstring((tmp_path / "p.svg").read_bytes())
    assert {e.tag.rpartition("}")[2] for e in root.iter()} <= {"svg", "g", "title", "desc", "rect", "ellipse", "path", "polygon", "text"}
    if engines.engine() != "own layout":
        pygraphviz = pytest.importorskip("pygraphviz")
        again = pygraphviz.AGraph(string=(tmp_path / "p.dot").read_bytes().decode())
        assert len(again.nodes()) == len(diagram_of(what, backward=True).boxes)
    graphc.page(what, tmp_path / "p.html", name=name, title=name)
    text = (tmp_path / "p.html").read_text("utf-8")
    assert not tags(text) & {"img", "b"}
    data = re.search(r'class="gp-data">(.*?)</script>', text, re.S)
    assert data is not None and json.loads(data[1])["steps"]


@pytest.mark.parametrize("name", [NAMES[k] for k in ("script", "surrogate", "controls")])
def test_slides_and_rasters_take_every_name(name: str, tmp_path: Path) -> None:
    what = {name: ops.tanh(ops.input("x") * 2.0).named(name)}
    for suffix in ("png", "pdf"):
        graphc.draw(what, tmp_path / f"p.{suffix}", backward=True, name=name, values={"x": 1.0})
    for suffix in ("svg", "tex", "html", "pdf"):
        assert graphc.slides(what, tmp_path / f"s.{suffix}", backward=True, title=name, name=name, values={"x": 1.0}) > 3
    assert not tags((tmp_path / "s.html").read_text("utf-8")) & {"img", "b"}


def boxed(scene: Scene) -> Iterator[tuple[str, Rect | Ellipse, Text, int]]:
    """Each text with the outline that it must stay in, and its number among all shapes."""
    number = -1
    for group in scene.groups:
        outline = next((s for s in group.shapes if isinstance(s, (Rect, Ellipse))), None)
        for shape in group.shapes:
            number += 1
            if isinstance(shape, Text) and outline is not None and group.kind not in ("caption", "legend"):
                yield group.id, outline, shape, number


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_text_as_a_png_draws_it_stays_in_its_box(name: str) -> None:
    """Measured by the renderer, not by the metrics that the layout used."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    what = named(name)
    scene, _ = scene_of(diagram_of(what, backward=True, values=values(what)), THEMES["light"])
    with scene_figure(scene) as figure:
        renderer = FigureCanvasAgg(figure).get_renderer()
        back = figure.axes[0].transData.inverted()
        artists = figure.axes[0].get_children()
        for group, outline, shape, number in boxed(scene):
            drawn = artists[number].get_window_extent(renderer).transformed(back)
            if isinstance(outline, Rect):
                left, right = outline.x, outline.x + outline.width
            else:
                left, right = outline.x - outline.rx, outline.x + outline.rx
            assert left - 1 <= drawn.x0 and drawn.x1 <= right + 1, (group, shape.text)


@pytest.mark.browser
def test_text_as_a_browser_draws_it_stays_in_its_box(browser: Any, tmp_path: Path) -> None:
    pictures = []
    for name in NAMES.values():
        what = named(name)
        pictures.append(graphc.draw(what, backward=True, values=values(what)))
    (tmp_path / "all.html").write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{''.join(pictures)}", "utf-8")
    page = opened(browser, tmp_path / "all.html")
    outside = page.evaluate("""() => [...document.querySelectorAll('svg > g:not(.caption):not(.legend)')].flatMap((g) => {
      const outline = g.querySelector('rect, ellipse');
      if (!outline) return [];
      const b = outline.getBBox(), round = outline.tagName === 'ellipse';
      const corner = (x, y) => Math.hypot((x - b.x - b.width / 2) / (b.width / 2), (y - b.y - b.height / 2) / (b.height / 2)) > 1.02;
      return [...g.querySelectorAll(':scope > text')].filter((t) => {
        const r = t.getBBox(), size = Number(t.getAttribute('font-size')), y = Number(t.getAttribute('y')), top = y - 0.72 * size;
        return r.x < b.x - 0.5 || r.x + r.width > b.x + b.width + 0.5 || top < b.y || y > b.y + b.height
          || (round && [r.x, r.x + r.width].some((x) => corner(x, y) || corner(x, top)));
      }).map((t) => [g.id, t.textContent]);
    })""")
    past = page.evaluate("""() => [...document.querySelectorAll('text')].filter((t) => { const r = t.getBBox(), v = t.ownerSVGElement.viewBox.baseVal;
      return r.x < 0 || r.x + r.width > v.width; }).map((t) => t.textContent)""")
    assert outside == [] and past == [] and page.trouble == []


@pytest.mark.browser
def test_hostile_pages_run(browser: Any, tmp_path: Path) -> None:
    for key in ("script", "surrogate", "hebrew", "controls", "marks"):
        what = named(NAMES[key])
        graphc.page(what, tmp_path / f"{key}.html", name=NAMES[key], title=NAMES[key], values=values(what))
        page = opened(browser, tmp_path / f"{key}.html", reduced_motion="reduce")
        page.keyboard.press("End")
        for tab in page.locator("[role=tab]").all():
            tab.click()
        assert page.locator("img").count() == 0 and page.trouble == [], key
        page.close()


@pytest.mark.browser
def test_a_page_that_runs_from_right_to_left_leaves_pictures_as_they_are(browser: Any, tmp_path: Path) -> None:
    svg = graphc.draw(named("שלום"), backward=True)
    places = []
    for way in ("ltr", "rtl"):
        (tmp_path / f"{way}.html").write_text(f"<!doctype html><html dir={way}><meta charset=utf-8><link rel=icon href=data:,>{svg}")
        page = opened(browser, tmp_path / f"{way}.html")
        places.append(page.evaluate("[...document.querySelectorAll('text')].map(t => t.getBBox().x)"))
        page.close()
    assert places[0] == pytest.approx(places[1], abs=0.1)


def test_names_on_a_line() -> None:
    assert truncate("a\x00b\u202ec\ud800d") == "a b c d"
    assert truncate("👩‍👩‍👧") == "👩‍👩‍👧" and truncate("می‌خواهم") == "می‌خواهم"
    assert truncate("a" + "\u0301" * 60) == "a\u0301\u0301" and len(truncate("x" * 10**6)) == 28
    assert truncate(" \n") == "␣␣" and truncate("") == ""
    assert text_width("a\u0301", "sans", 10) == text_width("a", "sans", 10)


def test_formulas_have_no_empty_boxes() -> None:
    """Letters that the mathematical font lacks are text, which the viewer's fonts have."""
    assert typeset(r"\mathrm{画像} = x", 12.0).paths == () and "画像" in typeset(r"\mathrm{画像} = x", 12.0).text
    assert typeset(r"\alpha = \mathrm{é}", 12.0).paths != ()


def test_a_missing_font_is_said_once(tmp_path: Path) -> None:
    """A sign of the private area is in no font."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graphc.draw(named("\uf8fe\uf8fe"), tmp_path / "p.png")
    assert [str(w.message) for w in said if "no installed font has \uf8fe" in str(w.message)] and len(said) == 1


def cyclic() -> Graph:
    a = ops.input("a", ())
    b = ops.tanh(a)
    c = ops.exp(b)
    graph = Graph("round", {"c": c})
    object.__setattr__(b, "inputs", (c,))
    return graph


@pytest.mark.parametrize("options", [{}, {"backward": True}, {"level": "layers"}, {"values": {"a": 1.0}}], ids=str)
def test_a_cycle_is_an_error_that_says_where(options: dict[str, Any], tmp_path: Path) -> None:
    for what in (cyclic(), cyclic().outputs["c"]):
        with pytest.raises(DrawError, match="has a cycle: tanh reads exp"):
            graphc.draw(what, **options)
    with pytest.raises(DrawError, match="has a cycle"):
        graphc.page(cyclic(), tmp_path / "p.html")
    with pytest.raises(DrawError, match="has a cycle"):
        graphc.slides(cyclic(), tmp_path / "p.svg")


@pytest.mark.parametrize("what", [{}, [], Graph("none", {}), None, 3, nn.Sequential(nn.Dense(3)), nn.Dense], ids=lambda w: type(w).__name__)
def test_nothing_to_draw_is_an_error_that_says_so(what: Any, tmp_path: Path) -> None:
    for act in (lambda: graphc.draw(what), lambda: graphc.page(what, tmp_path / "p.html", backward=False), lambda: graphc.slides(what, tmp_path / "p.svg")):
        with pytest.raises(DrawError, match=r"cannot be drawn|no nodes|is a model") as error:
            act()
        assert "help:" in str(error.value)


def test_a_lone_source_is_a_picture(tmp_path: Path) -> None:
    for what in (ops.input("q"), ops.constant(3.0), ops.parameter("w", ())):
        graphc.draw(what, tmp_path / "p.png")
        graphc.page(what, tmp_path / "p.html", backward=what.op.name != "constant")
        assert (tmp_path / "p.html").stat().st_size > 1000


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1, 1, 1), (2, 1, 3, 1, 2), (1,) * 20], ids=str)
def test_all_ranks(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = ops.input("x", shape)
    loss, feed = ops.sum(ops.tanh(x) * x), {"x": np.full(shape, 0.5, np.float32)}
    for suffix in ("svg", "png", "dot", "tex"):
        graphc.draw(loss, tmp_path / f"p.{suffix}", backward=True, values=feed)
    graphc.page(loss, tmp_path / "p.html", values=feed)
    graphc.slides(loss, tmp_path / "p.tex", backward=True, values=feed)
    text = graphc.draw(loss, backward=True, values=feed)
    assert str(loss.inputs[0].type) in re.sub(r"<[^>]*>", " ", text) or shape == () or len(shape) > 8


def test_kinds_of_numbers() -> None:
    flags, whole = ops.input("flags", (3,), dtype="bool"), ops.input("whole", (3,), dtype="int64")
    feed = {"flags": [True, False, True], "whole": [1, -(2**63), 3]}
    svg = graphc.draw({"y": ops.where(flags, whole, whole * whole)}, values=feed)
    assert svg.startswith("<svg")
    shown = graphc.draw(ops.input("x") * 1.0, values={"x": float("nan")})
    assert "= NaN" in re.sub(r"<[^>]*>", " ", shown)
