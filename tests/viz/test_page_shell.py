"""What stands around the picture: tabs, the split, following, printing, motion, several pages in one document, and contrast of every text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops
from tests.viz.test_page import browser, opened
from viz.gallery import scalar, transformer
from viz.theme import THEMES

__all__ = ["browser"]
VALUES = {"a": 2.0, "b": -3.0, "c": 10.0}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with several panes: a compiled perceptron, profiled."""
    with graphc.seed(0):
        x, t = ops.input("x", (3, 2)), ops.input("t", (3, 1))
        loss = ops.mean(ops.square(nn.Dense(1, activation="sigmoid", name="out")(nn.Dense(3, activation="tanh", name="in")(x)) - t))
    feed = {"x": np.float32([[0, 1], [1, 0], [1, 1]]), "t": np.float32([[1], [0], [1]])}
    program = graphc.compile({"loss": loss})
    program(**feed)
    made = tmp_path_factory.mktemp("shell") / "p.html"
    program.page(made, values=feed, profile=True)
    return made


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    page = opened(browser, file, reduced_motion="reduce")
    yield page
    assert page.trouble == []
    page.close()


def shown(page: Any) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('[role=tabpanel]')].filter(p => p.offsetParent).map(p => p.dataset.pane)"))


@pytest.mark.browser
def test_tabs_by_mouse_and_by_key(page: Any) -> None:
    tabs = page.locator("[role=tab]")
    names = [t.get_attribute("data-pane") for t in tabs.all()]
    assert names[:1] == ["live"] and len(names) > 1 and shown(page) == ["live"]
    for k, name in enumerate(names):
        tabs.nth(k).click()
        assert shown(page) == [name] and tabs.nth(k).get_attribute("aria-selected") == "true"
        assert page.locator(f"#{tabs.nth(k).get_attribute('aria-controls')}").get_attribute("aria-labelledby") == tabs.nth(k).get_attribute("id")
    tabs.last.focus()
    page.keyboard.press("ArrowRight")
    assert shown(page) == ["live"]
    page.keyboard.press("ArrowLeft")
    assert shown(page) == names[-1:] and page.evaluate("document.activeElement.dataset.pane") == names[-1]
    assert [t.get_attribute("tabindex") for t in tabs.all()] == ["-1"] * (len(names) - 1) + ["0"]


@pytest.mark.browser
def test_panes_are_hidden_and_shown(page: Any) -> None:
    def wide() -> float:
        return float(page.evaluate("document.querySelector('.gp-stage').getBoundingClientRect().width"))

    before = wide()
    page.click(".gp-fold")
    assert shown(page) == [] and wide() > before * 1.3
    page.click(".gp-fold")
    assert shown(page) == ["live"] and wide() == before
    page.locator(".gp").focus()
    page.keyboard.press("b")
    assert shown(page) == []
    page.keyboard.press("b")
    assert shown(page) == ["live"]


@pytest.mark.browser
def test_the_split_by_mouse_and_by_key(page: Any) -> None:
    split = page.locator(".gp-split")

    def now() -> float:
        return float(split.get_attribute("aria-valuenow"))

    def wide() -> float:
        return float(page.evaluate("document.querySelector('.gp-side').getBoundingClientRect().width / innerWidth * 100"))

    first = now()
    box = split.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] - 150, box["y"] + 200, steps=3)
    page.mouse.up()
    assert now() > first + 8 and wide() == pytest.approx(now(), abs=1)
    split.focus()
    dragged = now()
    page.keyboard.press("ArrowRight")
    assert now() == pytest.approx(dragged - 3, abs=1) and wide() == pytest.approx(now(), abs=1)
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    assert now() == float(split.get_attribute("aria-valuemax"))
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert now() == float(split.get_attribute("aria-valuemin"))


@pytest.mark.browser
def test_everything_is_reached_by_tab(page: Any) -> None:
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("(document.activeElement.className.baseVal ?? document.activeElement.className).split(' ').find(c => c.startsWith('gp')) ?? ''"))
    assert {"gp-search", "gp-out", "gp-fit", "gp-in", "gp-follow", "gp-quiz", "gp-theme", "gp-ask", "gp-stage", "gp-split", "gp-fold",
            "gp-next", "gp-play", "gp-scrub"} <= seen  # fmt: skip


@pytest.mark.browser
def test_focus_is_visible(page: Any) -> None:
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2")


@pytest.mark.browser
def test_following(browser: Any, tmp_path: Path) -> None:
    graphc.page(transformer(), tmp_path / "p.html", level="ops")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")

    def box() -> list[float]:
        return [float(v) for v in page.get_attribute(".gp-pic svg", "viewBox").split()]

    def lit_in_view() -> bool:
        return bool(page.evaluate("""() => { const s = document.querySelector('.gp-stage').getBoundingClientRect();
          return [...document.querySelectorAll('.gp-pic svg > g.gp-now:not([class*=edge]):not(.cluster)')].every((g) => { const r = g.getBoundingClientRect();
            return r.left >= s.left - 2 && r.right <= s.right + 2 && r.top >= s.top - 2 && r.bottom <= s.bottom + 2; }); }"""))

    page.keyboard.press("0")
    whole = box()
    assert page.get_attribute(".gp-follow", "aria-pressed") == "false"
    page.keyboard.press("v")
    assert page.get_attribute(".gp-follow", "aria-pressed") == "true"
    places = set()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
        assert lit_in_view()
        places.add(tuple(box()))
    assert min(width for _, _, width, _ in places) < whole[2] * 0.6
    assert len(places) > 3
    page.click(".gp-follow")
    assert box() == whole
    page.keyboard.press("ArrowRight")
    assert box() == whole and page.trouble == []  # who looks at the whole goes on looking at it
    page.click(".gp-follow")
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert page.get_attribute(".gp-follow", "aria-pressed") == "false"


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (1024, 768)])
def test_what_a_step_tells_is_readable(browser: Any, file: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """Without a key but the arrows: the step's boxes are in view, no letter in them below 10 pixels, beside a pane of use."""
    graphc.page(transformer(), tmp_path / "t.html", level="ops")
    for name in (file, tmp_path / "t.html"):
        page = opened(browser, name, reduced_motion="reduce")
        page.set_viewport_size({"width": size[0], "height": size[1]})
        for _ in range(10):
            page.keyboard.press("ArrowRight")
            page.evaluate("new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))")
            told = page.evaluate("""() => { const s = document.querySelector('.gp-stage').getBoundingClientRect();
              return [...document.querySelectorAll('.gp-pic svg > g.gp-now:not([class*=edge]) text')].map((t) => { const r = t.getBoundingClientRect();
                return [Number(t.getAttribute('font-size')) * t.getScreenCTM().a, r.left >= s.left - 1 && r.right <= s.right + 1 && r.bottom <= s.bottom + 1]; }); }""")
            assert told and min(pixels for pixels, _ in told) >= 9.6 and all(seen for _, seen in told), told
        if page.locator(".gp-side").count():
            assert page.evaluate("document.querySelector('.gp-side').getBoundingClientRect().width") >= 300
        assert page.trouble == []
        page.close()


@pytest.mark.browser
def test_the_split_is_remembered_until_it_is_given_back(browser: Any, file: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()

    def now() -> float:
        return float(page.get_attribute(".gp-split", "aria-valuenow"))

    page.goto(file.as_uri())
    usual = now()
    page.locator(".gp-split").focus()
    page.keyboard.press("Home")
    assert now() == 20
    page.keyboard.press("End")
    assert now() == 75
    page.keyboard.press("ArrowRight")
    page.goto("about:blank")
    page.goto(file.as_uri())
    assert now() == 72 and "72 percent" in page.get_attribute(".gp-split", "aria-valuetext")
    page.dblclick(".gp-split")
    assert now() == usual
    page.goto("about:blank")
    page.goto(file.as_uri())
    assert now() == usual
    page.locator(".gp-split").focus()
    page.keyboard.press("Enter")
    assert shown(page) == []
    context.close()


@pytest.mark.browser
def test_motion_only_where_it_is_wanted(browser: Any, file: Path) -> None:
    for wish, lasting in (("reduce", "0s"), ("no-preference", "0.25s")):
        page = opened(browser, file, reduced_motion=wish)
        assert page.evaluate("getComputedStyle(document.querySelector('.gp-pic svg > g')).transitionDuration") == lasting
        page.close()


@pytest.mark.browser
def test_on_paper(browser: Any, file: Path) -> None:
    page = opened(browser, file, reduced_motion="reduce")
    page.select_option(".gp-theme", "dark")
    page.keyboard.press("Home")
    page.emulate_media(media="print")
    for hidden in (".gp-bar", ".gp-search", ".gp-split", ".gp-tabs", ".gp-theme", ".gp-live-step"):
        assert page.is_hidden(hidden), hidden
    assert page.is_visible("h1") and page.is_visible(".gp-say")
    assert page.evaluate("[...document.querySelectorAll('.gp-pic svg > g:not(.gp-lid)')].every(g => getComputedStyle(g).opacity === '1')")
    assert page.evaluate("getComputedStyle(document.querySelector('.gp')).backgroundColor") == "rgb(255, 255, 255)"
    sheet = page.pdf()
    assert sheet.startswith(b"%PDF") and len(sheet) > 10_000 and page.trouble == []


@pytest.mark.browser
def test_two_pages_in_one_document_keep_their_panes_apart(browser: Any, file: Path, tmp_path: Path) -> None:
    graphc.page(scalar(), tmp_path / "b.html", values=VALUES)
    texts = [f.read_text() for f in (file, tmp_path / "b.html")]
    body = [re.search(r"<body>(.*)</body>", t, re.S)[1] for t in texts]  # type: ignore[index]
    style = re.search(r"<style>.*?</style>", texts[0], re.S)[0]  # type: ignore[index]
    (tmp_path / "two.html").write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{style}{''.join(body)}")
    page = opened(browser, tmp_path / "two.html", reduced_motion="reduce")
    one, two = page.locator(".gp").nth(0), page.locator(".gp").nth(1)
    before = one.locator(".gp-pic").inner_html()
    two.locator(".gp-live-fields input[type=number]").first.fill("0.5")
    two.locator(".gp-theme").select_option("dark")
    two.locator(".gp-split").focus()
    page.keyboard.press("ArrowLeft")
    assert one.locator(".gp-pic").inner_html() == before and one.get_attribute("data-theme") == "light"
    assert two.locator(".gp-split").get_attribute("aria-valuenow") != one.locator(".gp-split").get_attribute("aria-valuenow")
    one.locator("[role=tab]").last.click()
    assert two.locator("[role=tab]").first.get_attribute("aria-selected") == "true"
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === document.querySelectorAll('[id]').length")
    assert page.evaluate("Object.keys(window).filter(k => k.startsWith('gp') || k.startsWith('graphc'))") == []
    assert page.trouble == []


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  canvas.canvas.width = canvas.canvas.height = 1;
  const rgba = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3])).concat(1);
  const paper = (e) => { const stack = []; for (let at = e; at; at = at.parentElement) stack.push(rgba(getComputedStyle(at).backgroundColor));
    return stack.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]); };
  const light = (c) => { const l = c.slice(0, 3).map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const bad = [], count = [0];
  const check = (what, ink, ground, least) => { count[0]++; const r = ratio(over(ink, ground), ground); if (r < least - .005) bad.push([what, r.toFixed(2), ink, ground]); };
  for (const e of document.querySelectorAll('.gp *')) {
    const style = getComputedStyle(e), own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!e.getClientRects().length || style.visibility === 'hidden' || e.disabled || e.closest('[hidden], .gp-live, .gp-lid:not(.gp-folded)')) continue;
    if (['SCRIPT', 'STYLE', 'OPTION', 'title', 'desc'].includes(e.tagName)) continue;
    const name = `${e.tagName}.${e.className.baseVal ?? e.className} ${e.textContent.trim().slice(0, 30)}`;
    if (e.namespaceURI.endsWith('svg')) {
      if (e.tagName !== 'text' || Number(getComputedStyle(e.parentNode).opacity) < 1) continue;
      const box = e.parentNode.matches('.legend, .caption') ? null : e.parentNode.querySelector('rect, ellipse');
      const fill = box && box.compareDocumentPosition(e) & 4 ? rgba(getComputedStyle(box).fill) : [0, 0, 0, 0];
      const root = e.ownerSVGElement.querySelector(':scope > rect');
      check(name, rgba(style.fill), over(fill, root ? over(rgba(getComputedStyle(root).fill), paper(e.ownerSVGElement)) : paper(e.ownerSVGElement)), 4.5);
      continue;
    }
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const typed = ['INPUT', 'SELECT'].includes(e.tagName) && e.type !== 'range';
    if (own || typed) check(name, rgba(style.color), paper(e), large ? 3 : 4.5);
    if (e.placeholder) check(name + ' placeholder', rgba(getComputedStyle(e, '::placeholder').color), paper(e), 4.5);
    if (typed || (e.tagName === 'BUTTON' && style.borderTopStyle !== 'none' && rgba(style.borderTopColor)[3] > 0 && e.getAttribute('role') !== 'tab'))
      check(name + ' border', rgba(style.borderTopColor), paper(e.parentElement), 3);
  }
  return [bad, count[0]];
}"""


@pytest.mark.browser
@pytest.mark.parametrize("theme", list(THEMES))
def test_every_text_and_border_has_contrast(page: Any, theme: str) -> None:
    """WCAG AA, measured on what the browser shows: 4.5:1 for text (3:1 where it is large), 3:1 for the borders of controls."""
    page.select_option(".gp-theme", theme)
    page.keyboard.press("End")
    page.fill(".gp-search", "m")
    page.click(".gp-ask")
    assert page.evaluate(CONTRAST)[0] == []
    page.click(".gp-close")
    for tab in page.locator("[role=tab]").all():
        tab.click()
        page.wait_for_timeout(50)
        bad, count = page.evaluate(CONTRAST)
        assert count > 60 and bad == [], tab.get_attribute("data-pane")


@pytest.mark.browser
def test_contrast_inside_of_a_box(browser: Any, tmp_path: Path) -> None:
    graphc.page(transformer(), tmp_path / "p.html", level="layers")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    page.locator(".gp-opens").first.click()
    for theme in THEMES:
        page.select_option(".gp-theme", theme)
        bad, count = page.evaluate(CONTRAST)
        assert count > 20 and bad == [], theme


@pytest.mark.browser
def test_the_first_paint_is_soon_and_needs_no_script_of_panes(browser: Any, file: Path) -> None:
    """What is painted first comes before any heavy work: a paint is noted, and the picture is in the document, not made by scripts."""
    page = opened(browser, file)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")  # a paint is noted a frame after it happened
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint > 0 and page.trouble == []
    assert file.read_text().index("<svg") < file.read_text().index("<script")


@pytest.mark.browser
def test_bars_over_words_are_one_line(browser: Any, tmp_path: Path) -> None:
    x = ops.input("weight")
    graphc.page(ops.tanh(x), tmp_path / "p.html")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    assert page.inner_text(".gp-say .gp-over") == "weight" and "\u0305" not in page.inner_text(".gp-say") and page.trouble == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [1600, 1024, 700, 420])
def test_nothing_is_cut_off_on_a_narrow_screen(browser: Any, file: Path, width: int) -> None:
    page = opened(browser, file, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    cut = page.evaluate("""() => [...document.querySelectorAll('.gp header *, .gp footer *')].filter((e) => {
      const r = e.getBoundingClientRect(); return e.getClientRects().length && !e.closest('.gp-live, option') && (r.left < -1 || r.right > innerWidth + 1); })
      .map((e) => e.className)""")
    assert cut == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1") and page.trouble == []
