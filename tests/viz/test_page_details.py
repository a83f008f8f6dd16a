"""Collapsed boxes open: the picture inside is laid out on its own, holds the same nodes and numbers, and is left again; by mouse and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from bench import drawing
from graphc import interpreter, ops
from graphc.ir import Node
from tests.viz.test_page import browser, opened
from tests.viz.test_page_live import pictured
from tests.viz.test_page_live import texts as shown_texts
from viz.adapt import view_of
from viz.gallery import classifier, transformer
from viz.page import _context
from viz.page.details import MOST_NODES, Detail, details
from viz.values import run_view

__all__ = ["browser"]


def inside_of(what: Any, values: Any = None, level: str = "layers", backward: bool = True) -> tuple[Any, list[Detail]]:
    options = {"backward": backward, "wrt": None, "level": level, "direction": "LR", "name": None, "notation": "bar"}
    context = _context(what, options, values, None)
    return context, details(context)


def names(view: Any) -> list[str]:
    return [n.op.name for n in view.graph.nodes if not n.op.is_source]


def test_what_is_inside_is_what_was_collapsed() -> None:
    context, found = inside_of(classifier())
    assert [d.title for d in found] == ["hidden", "output"] and all(d.parent == -1 for d in found)
    hidden = found[0].view
    assert names(hidden) == ["matmul", "broadcast", "add", "relu"]
    assert [p.name for p in hidden.graph.parameters] == ["hidden/W", "hidden/b"]
    assert list(hidden.graph.outputs) == ["hidden"] and [n.name for n in hidden.graph.inputs] == ["image"]
    whole = {n.op.name for n in context.view.graph.nodes}
    assert {n.op.name for d in found for n in d.view.graph.nodes} <= whole
    assert all(d.view.diagram.mirrored for d in found)
    adjoints = [b.title for b in hidden.diagram.boxes.values() if b.role == "adjoint"]
    assert adjoints == ["∂ matmul", "∂ add", "∂ relu"]
    assert all(b.scope == () for b in hidden.diagram.boxes.values())


def test_a_repeated_layer_opens_once() -> None:
    context, found = inside_of(transformer())
    repeated = [b for b in context.diagram.boxes.values() if b.role == "collapsed"]
    assert len({d.box for d in found}) == len(found) <= len(repeated)
    counted = sum(n == "gelu" for d in found for n in names(d.view))
    assert counted == 1


def test_numbers_inside_are_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    feed = {"image": random.random((2, 784), np.float32), "label": np.eye(10, dtype=np.float32)[:2]}
    loss = classifier()
    for p in graphc.Graph("g", {"loss": loss}).parameters:
        p.attrs["variable"].value[...] = random.normal(size=p.shape) * 0.1
    context, found = inside_of(loss, feed)
    run = run_view(context.view.graph, feed, context.view.graph.outputs["loss"])
    relu = next(n for n in context.view.graph.nodes if n.op.name == "relu")
    inner = found[0]
    (result,) = inner.view.graph.outputs.values()
    assert inner.run is not None and inner.run.values[result] is not None
    np.testing.assert_allclose(inner.run.values[result], run.values[relu])
    np.testing.assert_allclose(inner.run.gradients[result], run.gradients[relu])
    assert float(np.abs(run.gradients[relu]).sum()) > 0
    assert any(line.style == "stats" for b in inner.view.diagram.boxes.values() for line in b.lines)


def lstm() -> Node:
    with graphc.seed(0):
        return ops.mean(ops.square(graphc.nn.LSTM(5)(ops.input("x", (2, 4, 3)))))


@pytest.mark.parametrize(("build", "shape"), [(transformer, (16, 32)), (lstm, (2, 4, 3))])
def test_what_is_inside_computes_what_the_whole_computes(build: Any, shape: tuple[int, ...]) -> None:
    """Run on what enters it, the inner graph gives what leaves it."""
    random = np.random.default_rng(1)
    loss = build()
    for p in graphc.Graph("g", {"loss": loss}).parameters:
        p.attrs["variable"].value[...] = random.normal(size=p.shape) * 0.2
    _, found = inside_of(loss, {"x": random.normal(size=shape).astype(np.float32)})
    assert found
    for d in found:
        assert d.run is not None
        results = interpreter.run(d.view.graph, {n.name: d.run.values[n] for n in d.view.graph.inputs})
        for name, node in d.view.graph.outputs.items():
            np.testing.assert_allclose(results[name], d.run.values[node], rtol=1e-5, atol=1e-6, err_msg=d.title)


def test_stages_of_a_program_open(tmp_path: Path) -> None:
    program = drawing.trained("MNIST MLP")
    for stage in program.trace.stages:
        if isinstance(stage.artifact, graphc.Graph):
            graphc.page(stage, tmp_path / "p.html", level="layers", backward=False)


def nested() -> Node:
    """Forty layers of forty ops, in four parts: two levels of boxes."""
    y = ops.input("x", (4,))
    for part in ("low", "middle", "high", "top"):
        with graphc.scope(part):
            for k in range(40):
                with graphc.scope(f"layer{'abcdefgh'[k % 8]}{k}z"):
                    for i in range(4):
                        y = ops.tanh(y) if (i + k) % 3 else ops.exp(y)
    return ops.sum(y)


def test_boxes_inside_of_boxes() -> None:
    _, found = inside_of(nested())
    outer = [k for k, d in enumerate(found) if d.parent == -1]
    deeper = [d for d in found if d.parent in outer]
    assert len(outer) == 4 and deeper and all(d.parent < k for k, d in enumerate(found))


def test_what_is_opened_is_bounded() -> None:
    context, found = inside_of(drawing.scoped(20_000), level="ops")
    assert sum(len(d.view.graph.nodes) for d in found) < 3 * MOST_NODES
    assert len(found) < len(context.diagram.boxes)


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    graphc.page(nested(), tmp_path / "p.html", level="layers")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    yield page
    assert page.trouble == []
    page.close()


def drawn(page: Any) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('.gp-pic text')].map(t => t.textContent)"))


@pytest.mark.browser
def test_opening_by_mouse(page: Any) -> None:
    whole = drawn(page)
    steps = page.inner_text(".gp-at")
    assert page.is_hidden(".gp-trail") and page.locator(".gp-opens").count() == 8  # each layer and its mirror image
    page.locator(".gp-opens").first.click()
    assert drawn(page) != whole and page.is_visible(".gp-trail") and page.inner_text(".gp-at") != steps
    assert [b.inner_text() for b in page.locator(".gp-trail button").all()] == ["loss", "low"]
    page.locator(".gp-opens").first.click()
    assert page.locator(".gp-trail button").count() == 3 and "tanh" in drawn(page)
    page.locator(".gp-trail button").nth(1).click()
    assert page.locator(".gp-trail button").count() == 2
    page.locator(".gp-trail button").first.click()
    assert drawn(page) == whole and page.inner_text(".gp-at") == steps and page.is_hidden(".gp-trail")


@pytest.mark.browser
def test_opening_by_keyboard(page: Any) -> None:
    whole = drawn(page)
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "button"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("Enter opens it")
    page.keyboard.press("Enter")
    assert drawn(page) != whole and page.inner_text(".gp-live").startswith("Inside of")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".gp-at").startswith("2 /")
    page.keyboard.press("+")
    page.keyboard.press("/")
    page.keyboard.type("layer")
    assert not page.inner_text(".gp-hits").startswith("0")
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    assert drawn(page) == whole
    assert page.evaluate("document.activeElement.classList.contains('gp-opens')")  # back at the box one came from
    page.keyboard.press("o")
    assert drawn(page) != whole
    page.keyboard.press("Escape")
    assert drawn(page) == whole and page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") \
        == page.evaluate("document.querySelectorAll('[id]').length")


@pytest.mark.browser
def test_frames_fold_inside_too(browser: Any, tmp_path: Path) -> None:
    graphc.page(transformer(), tmp_path / "p.html", level="layers")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    for k in range(page.locator(".gp-opens").count()):
        page.locator(".gp-opens").nth(k).focus()
        page.keyboard.press("Enter")
        frames = page.locator(".gp-pic .cluster").count()
        page.keyboard.press("f")
        assert page.locator(".gp-folded").count() == frames
        page.keyboard.press("u")
    assert page.trouble == []


def nested_net() -> Node:
    with graphc.seed(0):
        x = ops.input("x", (2, 2))
        net = graphc.nn.Sequential(graphc.nn.Dense(3, activation="tanh"), graphc.nn.Dense(1), name="net")
        return ops.mean(ops.square(net(x)))


_BOXES = """[...document.querySelectorAll('.gp-pic svg > g[id]:not([class^=edge])')].map((g) => [...g.querySelectorAll('text')]
  .filter((t) => t.style.display !== 'none').map((t) => t.textContent))"""  # labels of edges stand only where there is room for them


def inside(page: Any) -> list[Any]:
    """What each collapsed box's picture shows: texts, colours and widths, one box after the other."""
    found = []
    for k in range(page.locator(".gp-opens").count()):
        page.locator(".gp-opens").nth(k).focus()
        page.keyboard.press("Enter")
        found.append((page.evaluate(_BOXES), pictured(page)))
        page.keyboard.press("u")
    return found


@pytest.mark.browser
def test_numbers_inside_follow_what_is_edited(browser: Any, tmp_path: Path) -> None:
    """Pictures inside of an edited page are those of a page that was made with these numbers, and again after a reset."""
    feeds = [np.float32([[1, 1], [1, 1]]), np.float32([[3, -1], [0.25, 7]])]
    seen = []
    for k, feed in enumerate(feeds):
        graphc.page(nested_net(), tmp_path / f"{k}.html", level="layers", values={"x": feed})
        page = opened(browser, tmp_path / f"{k}.html", reduced_motion="reduce")
        page.keyboard.press("End")
        seen.append(inside(page))
        if k == 0:
            for place, value in enumerate(feeds[1].reshape(-1)):
                page.get_by_label(f"x, element {place + 1}", exact=True).fill(str(value))
            page.locator(".gp-stage").focus()
            edited = inside(page)
            assert page.is_hidden(".gp-live-inner")
            page.locator(".gp-opens").first.focus()
            page.keyboard.press("Enter")
            page.click(".gp-live-reset")  # one stays inside
            assert page.is_visible(".gp-trail")
            page.keyboard.press("u")
            reset = inside(page)
        assert page.trouble == []
        page.close()
    first, fresh = seen
    assert first != fresh
    for now, want in ((edited, fresh), (reset, first)):
        assert len(now) == len(want) > 0
        for (texts, drawn), (wanted, expected) in zip(now, want, strict=True):
            assert texts == wanted
            assert drawn["heat"] == expected["heat"] and drawn["tip"].keys() == expected["tip"].keys()
            for kind in ("width", "head"):
                for edge, numbers in expected[kind].items():
                    assert drawn[kind][edge] == pytest.approx(numbers, abs=0.06), (kind, edge)


@pytest.mark.browser
def test_editing_inside_tells_the_step_anew(browser: Any, tmp_path: Path) -> None:
    """A box that is open follows at once, its sentence too; a layer's weights take gradient steps though they are shown inside alone."""
    graphc.page(nested_net(), tmp_path / "p.html", level="layers", values={"x": np.ones((2, 2), np.float32)})
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    page.locator(".gp-opens").first.focus()
    page.keyboard.press("Enter")
    before = shown_texts(page)
    page.get_by_label("x, element 1", exact=True).fill("3")
    assert shown_texts(page) != before and page.is_hidden(".gp-live-inner")
    lit = page.evaluate("[...document.querySelectorAll('.gp-pic .gp-kin')].map(g => g.textContent)")
    assert any("x" in words for words in lit)  # the field's box in the picture that is shown
    loss = page.inner_text(".gp-live-result")
    page.click(".gp-live-step")
    assert page.inner_text(".gp-live-result") != loss and page.trouble == []


def test_worked_out_rules_know_their_operand() -> None:
    """Where one operand needs no gradient, the number is that of the other."""
    a, b = ops.input("a"), ops.input("b")
    view = view_of(ops.tanh(a * b), backward=True, wrt=[b], values={"a": 2.0, "b": 0.5})
    product = next(n for n in view.graph.nodes if n.op.name == "mul")
    assert view.worked[view.box_of[product]] == [1]
