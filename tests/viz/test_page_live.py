"""Live values: what is edited in the page gives the numbers of the interpreter, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops
from graphc.ir import Node
from tests.viz.test_page import browser, opened
from viz.gallery import scalar
from viz.values import number, run_view

VALUES = {"a": 2.0, "b": -3.0, "c": 10.0}
__all__ = ["browser"]


def perceptron() -> tuple[Node, Any]:
    with graphc.seed(0):
        x, t = ops.input("x", (3, 2)), ops.input("t", (3, 1))
        layer = nn.Dense(1, activation="sigmoid", name="unit")
        return graphc.mean(graphc.square(layer(x) - t)), layer


DATA = {"x": np.float32([[0, 1], [1, 0], [1, 1]]), "t": np.float32([[1], [0], [1]])}


@pytest.fixture
def small(browser: Any, tmp_path: Path) -> Iterator[Any]:
    graphc.page(scalar(), tmp_path / "p.html", values=VALUES)
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    yield page
    assert page.trouble == []
    page.close()


def texts(page: Any) -> str:
    return str(page.evaluate(
        "[...document.querySelectorAll('.gp-pic text')].filter(t => t.style.display !== 'none' && t.style.visibility !== 'hidden')"
        ".map(t => t.textContent).join('\\n')"
    ))  # fmt: skip


def expected(values: dict[str, float]) -> list[str]:
    """Every number that the picture shows for these inputs, as the interpreter computes it."""
    loss = scalar()
    from graphc.ir import Graph

    graph = Graph("loss", {"loss": loss})
    run = run_view(graph, values, loss)
    shown = [f"= {number(run.values[n], 4)}" for n in graph.nodes]
    return shown + [f"= {number(run.gradients[n], 4)}" for n in graph.inputs]


@pytest.mark.browser
def test_typing_a_value_computes_everything_again(small: Any) -> None:
    field = small.locator(".gp-live-fields input[type=number]").first
    assert field.get_attribute("aria-label") == "a"
    field.fill("0.5")
    found = texts(small)
    for text in expected({**VALUES, "a": 0.5}):
        assert text in found, text
    field.focus()
    small.keyboard.press("ArrowUp")
    assert float(field.input_value()) == pytest.approx(0.6)
    found = texts(small)
    for text in expected({**VALUES, "a": 0.6}):
        assert text in found, text


@pytest.mark.browser
def test_the_slider_and_reset(small: Any) -> None:
    before = texts(small)
    small.locator(".gp-live-fields input[type=range]").nth(1).fill("4")
    found = texts(small)
    for text in expected({**VALUES, "b": 4.0}):
        assert text in found, text
    small.click(".gp-live-reset")
    assert texts(small) == before and small.locator(".gp-live-fields input[type=number]").nth(1).input_value() == "-3"


@pytest.mark.browser
def test_sentences_do_not_keep_old_numbers(small: Any) -> None:
    small.locator(".gp-live-fields input[type=number]").first.fill("0.5")
    small.keyboard.press("Tab")
    small.locator(".gp-scrub").fill("1")
    told = small.inner_text(".gp-say")
    assert "Now:" in told and not re.search(r"−6\b", told)


@pytest.mark.browser
def test_gradient_steps_are_those_of_the_compiler(browser: Any, tmp_path: Path) -> None:
    loss, layer = perceptron()
    graphc.page(loss, tmp_path / "p.html", values=DATA)
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.fill(".gp-live-rate", "0.5")
    for _ in range(5):
        page.click(".gp-live-step")
    shown = float(page.inner_text(".gp-live-result").split("=")[1].replace("−", "-"))
    held = {p: p.attrs["variable"].value.copy() for p in layer.parameters()}
    step = graphc.compile({"loss": loss}, updates=graphc.optim.SGD(0.5).updates(loss, layer.parameters()), target="interpreter")
    for _ in range(5):
        step(**DATA)
    want = float(graphc.compile(loss, target="interpreter")(**DATA))
    for parameter, value in held.items():
        parameter.attrs["variable"].value = value
    assert shown == pytest.approx(want, rel=1e-5)
    assert page.locator(".gp-live-curve polyline").count() == 1 and page.trouble == []


def pictured(page: Any) -> dict[str, Any]:
    """Colours of heat maps, widths of lines, sizes of arrow heads and tooltips, by box or edge."""
    return dict(page.evaluate("""() => {
      const of = (g) => g.id.slice(g.id.indexOf('-') + 1), found = {heat: {}, width: {}, head: {}, line: {}, tip: {}};
      for (const g of document.querySelectorAll('.gp-pic svg > g[id]')) {
        g.querySelectorAll('[shape-rendering]').forEach((m, k) => {
          found.heat[of(g) + k] = [...m.querySelectorAll('path')]
            .flatMap((p) => p.getAttribute('d').split('M').slice(1).map((d) => [...d.split(/[h ]/).slice(0, 2).map(Number), p.getAttribute('fill')]))
            .sort((a, b) => a[1] - b[1] || a[0] - b[0]).map((c) => c[2]);
        });
        const title = g.querySelector('title');
        if (title) found.tip[of(g)] = title.textContent.split('\\n').filter((l) => /^(value|gradient):/.test(l));
        if (!g.classList.contains('edge-backward')) continue;
        const line = g.querySelector('path'), head = g.querySelector('polygon');
        found.width[of(g)] = [line.getAttribute('stroke-width'), ...line.getAttribute('stroke-dasharray').split(' ')].map(Number);
        const [x, y, p, q, r, s] = head.getAttribute('points').split(/[ ,]/).map(Number);
        found.head[of(g)] = [Math.hypot(p - x, q - y), Math.hypot(r - x, s - y)];
        found.line[of(g)] = line.getAttribute('d').match(/-?[\\d.]+/g).map(Number);
      }
      return found;
    }"""))


@pytest.mark.browser
def test_heat_maps_and_widths_are_those_of_a_fresh_picture(browser: Any, tmp_path: Path) -> None:
    """Editing one page's numbers gives the picture that a page made with these numbers has."""
    with graphc.seed(0):
        x = ops.input("x", (3, 2))
        loss = ops.mean(ops.square(nn.Dense(4, activation="tanh", name="unit")(x)) * 3.0)
    feeds = [np.float32([[0.5, -1], [1, 0], [2, 1]]), np.float32([[-3, 0.25], [1, 0.125], [0, 7]])]
    seen = []
    for k, feed in enumerate(feeds):
        graphc.page(loss, tmp_path / f"{k}.html", values={"x": feed})
    for k in (0, 1):
        page = opened(browser, tmp_path / f"{k}.html", reduced_motion="reduce")
        seen.append(pictured(page))
        if k == 0:
            for number_, value in enumerate(feeds[1].reshape(-1)):
                page.get_by_label(f"x, element {number_ + 1}", exact=True).fill(str(value))
            edited = pictured(page)
            page.click(".gp-live-reset")
            reset = pictured(page)
        assert page.trouble == []
        page.close()
    first, fresh = seen
    assert first["heat"] != fresh["heat"] and first["width"] != fresh["width"]
    assert edited["heat"] == fresh["heat"] and reset["heat"] == first["heat"]
    for now, want in ((edited, fresh), (reset, first)):
        assert now["tip"].keys() == want["tip"].keys()
        for box, lines in want["tip"].items():
            told = [[float(v) for v in re.findall(r"-?\d[\d.]*(?:e-?\d+)?", " ".join(t).replace("−", "-"))] for t in (now["tip"][box], lines)]
            assert told[0] == pytest.approx(told[1], rel=1e-2, abs=1e-6), box
    for now, want in ((edited, fresh), (reset, first)):
        for kind in ("width", "head") if want is fresh else ("width", "head", "line"):
            assert now[kind].keys() == want[kind].keys()
            for edge, numbers in want[kind].items():
                assert now[kind][edge] == pytest.approx(numbers, abs=0.06), (kind, edge)


def unrolled() -> Node:
    """Steps of a recurrence whose gradient vanishes, a layer each."""
    x, h = ops.input("x", (4,)), ops.input("h", (4,))
    for k in range(3):
        with graphc.scope(f"step{k}t"):
            h = ops.tanh(h * 0.2 + x)
    return ops.sum(h * h)


@pytest.mark.browser
def test_the_flow_follows_what_is_edited(browser: Any, tmp_path: Path) -> None:
    """Colours and widths of an edited page are those of a page made with these numbers, inside of layers too."""
    feeds = [{"x": np.float32(x), "h": np.float32([1, 2, -1, 0.5])} for x in ([0.1, 0.2, -0.3, 0.4], [0.6, 0.7, -0.8, 0.9])]
    colours = """() => [...document.querySelectorAll('.gp-pic svg > g.edge-backward')].map((g) =>
      [g.id.split('-').pop(), g.querySelector('path').getAttribute('stroke'), g.querySelector('polygon').getAttribute('fill')])"""
    seen = []
    for k, feed in enumerate(feeds):
        graphc.page(unrolled(), tmp_path / f"{k}.html", level="layers", values=feed, flow=True)
        page = opened(browser, tmp_path / f"{k}.html", reduced_motion="reduce")
        page.keyboard.press("End")
        rounds = [None, feeds[1]] if k == 0 else [None]
        for edited in rounds:
            if edited is not None:
                for place, value in enumerate(edited["x"]):
                    page.get_by_label(f"x, element {place + 1}", exact=True).fill(str(value))
            whole = page.evaluate(colours), pictured(page)["width"]
            page.locator(".gp-opens").first.focus()
            page.keyboard.press("Enter")
            inner = page.evaluate(colours), pictured(page)["width"]
            page.keyboard.press("u")
            seen.append((whole, inner))
        assert page.is_visible(".gp-scale") and page.trouble == []
        page.close()
    first, edited, fresh = seen
    assert first[0][0] != fresh[0][0]
    for now, want in zip(edited, fresh, strict=True):
        assert len(now[0]) > 2 and now[0] == want[0]
        for edge, numbers in want[1].items():
            assert now[1][edge] == pytest.approx(numbers, abs=0.06), edge


def test_gradients_through_a_loop_over_time() -> None:
    """The numbers on a picture of a scan are the gradients that the compiler derives; what one edge shows of several values is all of them."""
    with graphc.seed(0):
        loss = ops.mean(ops.square(nn.LSTM(5)(ops.input("x", (2, 4, 3)))))
    graph = graphc.Graph("loss", {"loss": loss})
    feed = {"x": np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)}
    run = run_view(graph, feed, loss)
    targets = [*graph.inputs, *graph.parameters]
    want = graphc.compile({f"g{k}": g for k, g in enumerate(graphc.grad(loss, targets))}, target="interpreter")(**feed)
    for k, node in enumerate(targets):
        assert np.abs(want[f"g{k}"]).max() > 0
        np.testing.assert_allclose(run.gradients[node], want[f"g{k}"], rtol=1e-4, atol=1e-7, err_msg=node.name)


@pytest.mark.browser
def test_a_loop_over_time_is_computed_in_the_page(browser: Any, tmp_path: Path) -> None:
    with graphc.seed(0):
        lstm = nn.LSTM(5)
        loss = ops.mean(ops.square(lstm(ops.input("x", (2, 4, 3)))))
    feed = {"x": np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)}
    graphc.page(loss, tmp_path / "p.html", level="layers", values=feed)
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.fill(".gp-live-rate", "0.5")
    page.click(".gp-live-step")
    shown = float(page.inner_text(".gp-live-result").split("=")[1].replace("−", "-"))
    step = graphc.compile({"loss": loss}, updates=graphc.optim.SGD(0.5).updates(loss, lstm.parameters()), target="interpreter")
    step(**feed)
    assert shown == pytest.approx(float(graphc.compile(loss, target="interpreter")(**feed)), rel=1e-4) and page.trouble == []


def test_no_pane_without_values_or_for_large_models(tmp_path: Path) -> None:
    graphc.page(scalar(), tmp_path / "a.html")
    x = ops.input("x", (64, 64))
    graphc.page(graphc.mean(x @ x), tmp_path / "b.html", values={"x": np.ones((64, 64), np.float32)})
    for name in ("a.html", "b.html"):
        assert "gp-pane-live" not in (tmp_path / name).read_text().split("<script", 1)[0].split("</style>", 1)[1]
