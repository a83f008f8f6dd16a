"""The page: what is in the file, and in a browser what every key and button does, offline and without an error."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graphc
from graphc import nn, ops
from graphc.errors import DrawError
from graphc.ir import Node
from viz.adapt import diagram_of
from viz.gallery import scalar
from viz.steps import steps_of
from viz.theme import THEMES, Theme, theme_of

VALUES = {"a": 2.0, "b": -3.0, "c": 10.0}


def hostile() -> Node:
    a = ops.input("a")
    with graphc.scope("</script><img src=x onerror=alert(1)>"):
        return ops.tanh(a * a)


def test_the_file_stands_alone(tmp_path: Path) -> None:
    graphc.page(scalar(), tmp_path / "p.html", values=VALUES, title="</title><b>By hand")
    text = (tmp_path / "p.html").read_text()
    assert "<b>By hand" not in text and not re.search(r"(src|href)=[\"']?http", text)
    data = json.loads(re.search(r'class="gp-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    told = steps_of(diagram_of(scalar(), backward=True, values=VALUES, direction="LR"))
    assert [s["say"] for s in data["steps"]] == [s.sentence for s in told]
    for step in data["steps"]:
        assert all(f'-{name}"' in text for name in step["lit"])


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    graphc.page(scalar(), tmp_path / "p.html", values=VALUES, progress=told.append)
    assert told[0] == "laying out the picture" and told[-1] == "writing p.html" and "the pane live" in told


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DrawError, match=r"\.svg"):
        graphc.page(scalar(), tmp_path / "p.html.svg")
    with pytest.raises(DrawError, match="cannot be written"):
        graphc.page(scalar(), tmp_path / "no" / "p.html")


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if program is None:
        pytest.skip("no browser is installed")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser: Any, file: Path, **options: Any) -> Any:
    """The file in a new page that notes errors and requests."""
    page = browser.new_page(viewport={"width": 1280, "height": 720}, **options)
    page.trouble = []
    page.on("console", lambda m: page.trouble.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.trouble.append(str(e)))
    page.on("request", lambda r: page.trouble.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri())
    return page


def seen(page: Any, box: str) -> bool:
    return bool(page.evaluate(
        "b => getComputedStyle(document.querySelector(`.gp-pic g[id$='-${b}']`)).opacity !== '0'"
        " && getComputedStyle(document.querySelector(`.gp-pic g[id$='-${b}']`)).visibility !== 'hidden'", box
    ))  # fmt: skip


@pytest.mark.browser
def test_keys_and_buttons(browser: Any, tmp_path: Path) -> None:
    graphc.page(scalar(), tmp_path / "p.html", values=VALUES)
    told = steps_of(diagram_of(scalar(), backward=True, values=VALUES, direction="LR"))
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")

    def at() -> int:
        return int(page.inner_text(".gp-at").split("/")[0]) - 1

    def says() -> str:
        return str(page.inner_text(".gp-say"))

    assert at() == 0 and says() == told[0].sentence.replace("\u0305", "")
    page.keyboard.press("ArrowRight")
    assert at() == 1 and says() == told[1].sentence.replace("\u0305", "") and seen(page, told[1].boxes[0]) and not seen(page, told[-1].boxes[-1])
    page.keyboard.press("End")
    assert at() == len(told) - 1 and says() == told[-1].sentence.replace("\u0305", "") and seen(page, told[-1].boxes[-1])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    assert at() == 0
    page.click(".gp-next")
    page.click(".gp-next")
    page.click(".gp-prev")
    assert at() == 1
    page.fill(".gp-scrub", "4")
    assert at() == 4 and says() == told[4].sentence.replace("\u0305", "")
    page.focus(".gp-scrub")
    page.keyboard.press("?")
    assert page.is_visible(".gp-help")
    page.click(".gp-play")
    assert page.get_attribute(".gp-play", "aria-pressed") == "true"
    page.wait_for_function("document.querySelector('.gp-at').textContent.startsWith('6')", timeout=5000)
    page.click(".gp-play")
    assert page.get_attribute(".gp-play", "aria-pressed") == "false"
    for theme in ("dark", "projector", "print", "light"):
        page.select_option(".gp-theme", theme)
        paper = page.evaluate("getComputedStyle(document.querySelector('.gp-pic svg > rect')).fill")
        assert paper == f"rgb({', '.join(str(int(theme_of(theme).background[k : k + 2], 16)) for k in (1, 3, 5))})"
    assert page.trouble == []


@pytest.mark.browser
def test_a_quiz_hides_the_answer_until_it_is_asked_for(browser: Any, tmp_path: Path) -> None:
    graphc.page(scalar(), tmp_path / "p.html", values=VALUES)
    told = steps_of(diagram_of(scalar(), backward=True, values=VALUES, direction="LR"))
    back = next(k for k, s in enumerate(told) if s.side == "backward" and s.sentence.startswith("Back through"))
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("q")
    page.fill(".gp-scrub", str(back))
    assert "0.964" not in page.inner_text(".gp-say") and not seen(page, told[back].boxes[0])
    page.locator(".gp").focus()
    page.keyboard.press("Enter")
    assert page.inner_text(".gp-say") == told[back].sentence.replace("\u0305", "") and seen(page, told[back].boxes[0])
    page.click(".gp-next")
    assert page.inner_text(".gp-say") != told[back + 1].sentence.replace("\u0305", "")
    page.click(".gp-say")
    assert page.inner_text(".gp-say") == told[back + 1].sentence.replace("\u0305", "")
    page.click(".gp-quiz")
    assert page.get_attribute(".gp-quiz", "aria-pressed") == "false" and page.trouble == []


@pytest.mark.browser
def test_hostile_names_are_text_and_two_pages_keep_apart(browser: Any, tmp_path: Path) -> None:
    graphc.page(hostile(), tmp_path / "a.html", values={"a": 0.5})
    graphc.page(scalar(), tmp_path / "b.html", values=VALUES)
    body = [re.search(r"<body>(.*)</body>", (tmp_path / n).read_text(), re.S)[1] for n in ("a.html", "b.html")]  # type: ignore[index]
    style = re.search(r"<style>.*?</style>", (tmp_path / "a.html").read_text(), re.S)[0]  # type: ignore[index]
    (tmp_path / "two.html").write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{style}{''.join(body)}")
    page = opened(browser, tmp_path / "two.html", reduced_motion="reduce")
    assert page.locator("img").count() == 0 and page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") \
        == page.evaluate("document.querySelectorAll('[id]').length")
    second = page.locator(".gp").nth(1)
    second.locator(".gp-next").click()
    page.keyboard.press("ArrowRight")
    assert second.locator(".gp-at").inner_text().startswith("3")
    assert page.locator(".gp-at").first.inner_text().startswith("1")
    assert page.trouble == []


def classifier() -> Node:
    image, label = ops.input("image", ("batch", 784)), ops.input("label", ("batch",), dtype="int32")
    net = nn.Sequential(nn.Dense(128, activation="relu"), nn.Dense(10), name="classifier")
    return graphc.losses.cross_entropy(net(image), label)


@pytest.mark.browser
def test_finding(browser: Any, tmp_path: Path) -> None:
    graphc.page(classifier(), tmp_path / "p.html")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("/")
    page.keyboard.type("relu")
    assert page.inner_text(".gp-hits") == "1 / 2"
    assert page.locator(".gp-hit").count() == 2 and page.locator(".gp-here").count() == 1
    first = page.get_attribute(".gp-here", "id")
    page.keyboard.press("Enter")
    assert page.inner_text(".gp-hits") == "2 / 2" and page.get_attribute(".gp-here", "id") != first
    page.keyboard.press("Shift+Enter")
    assert page.get_attribute(".gp-here", "id") == first
    page.fill(".gp-search", "no such thing")
    assert page.inner_text(".gp-hits") == "0 / 0" and page.locator(".gp-hit").count() == 0
    page.keyboard.press("Escape")
    assert page.input_value(".gp-search") == "" and page.locator(".gp-here").count() == 0 and page.trouble == []


@pytest.mark.browser
def test_zoom_and_pan(browser: Any, tmp_path: Path) -> None:
    graphc.page(classifier(), tmp_path / "p.html")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")

    def box() -> list[float]:
        return [float(v) for v in page.get_attribute(".gp-pic svg", "viewBox").split()]

    page.keyboard.press("0")
    whole = box()
    page.keyboard.press("+")
    assert box()[2] == pytest.approx(whole[2] / 1.25, rel=1e-3)
    page.keyboard.press("d")
    assert box()[0] > whole[0]
    page.keyboard.press("0")
    assert box() == whole
    page.click(".gp-out")
    assert box()[2] > whole[2]
    page.click(".gp-fit")
    page.mouse.move(300, 300)
    page.mouse.wheel(0, -400)
    page.wait_for_function(f"Number(document.querySelector('.gp-pic svg').getAttribute('viewBox').split(' ')[2]) < {whole[2]} * 0.5")
    before = box()
    page.mouse.move(500, 300)
    page.mouse.down()
    page.mouse.move(400, 260, steps=4)
    page.mouse.up()
    assert box()[0] > before[0] and box()[1] > before[1] and box()[2] == before[2] and page.trouble == []


LATE = """(() => {  // frames began a second before they were asked for, as on a machine that cannot keep up
  const ask = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (f) => ask((time) => f(time - 1000));
  window.views = [];
  addEventListener("DOMContentLoaded", () => {
    const svg = document.querySelector(".gp-pic svg"), note = () => views.push(svg.getAttribute("viewBox").split(" ").map(Number));
    new MutationObserver(note).observe(svg, { attributes: true, attributeFilter: ["viewBox"] });
  });
})()"""


@pytest.mark.browser
def test_the_picture_glides_between_its_ends_even_if_frames_are_late(browser: Any, tmp_path: Path) -> None:
    graphc.page(scalar(), tmp_path / "p.html", values=VALUES)
    page = browser.new_page(viewport={"width": 420, "height": 500})
    trouble: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    page.add_init_script(LATE)
    page.goto((tmp_path / "p.html").as_uri())
    views: list[list[float]] = []
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        views = page.evaluate("views")
    assert len({tuple(v) for v in views}) > 4, "the picture did not move: this window should be too small for it"
    assert trouble == [] and all(width > 0 and height > 0 for _, _, width, height in views)
    lefts = [left for left, _, _, _ in views]
    whole = page.evaluate("document.querySelector('.gp-pic svg').getBBox().width")
    assert min(lefts) >= -whole and max(lefts) <= whole
    page.close()


@pytest.mark.browser
def test_frames_fold_by_mouse_and_by_key(browser: Any, tmp_path: Path) -> None:
    graphc.page(classifier(), tmp_path / "p.html")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.keyboard.press("End")
    frames, folded = page.locator(".cluster"), page.locator(".gp-folded")
    assert frames.count() >= 3 and folded.count() == 0
    frames.nth(1).focus()
    page.keyboard.press("Enter")
    assert folded.count() == 1 and frames.nth(1).get_attribute("aria-expanded") == "false"
    folded.first.click()
    assert folded.count() == 0
    page.keyboard.press("0")
    page.locator(".cluster .gp-name").nth(1).click()
    assert folded.count() == 1
    page.keyboard.press("f")
    assert folded.count() == frames.count()
    page.keyboard.press("f")
    assert folded.count() == 0 and page.trouble == []


@pytest.mark.browser
def test_boxes_are_reached_by_keyboard_and_light_up(browser: Any, tmp_path: Path) -> None:
    graphc.page(classifier(), tmp_path / "p.html")
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    for _ in range(4):
        page.keyboard.press("n")
    focused = page.evaluate("[document.activeElement.id, document.activeElement.getAttribute('aria-label'), document.activeElement.tagName]")
    assert focused[2] == "g" and focused[1] and page.locator(".gp-kin").count() == 1
    page.keyboard.press("p")
    assert page.evaluate("document.activeElement.id") != focused[0]
    page.keyboard.press("t")
    assert page.get_attribute(".gp", "data-theme") == "dark" and page.trouble == []


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
def test_contrast(theme: Theme) -> None:
    """WCAG AA: 4.5:1 for text, 3:1 for the lines that carry meaning."""
    papers = [theme.background, theme.cluster_fill, theme.forward_fill, theme.backward_fill, theme.input_fill,
              theme.parameter_fill, theme.gradient_fill, theme.constant_fill, theme.output_fill]  # fmt: skip
    for paper in papers:
        assert contrast(theme.text, paper) >= 4.5, paper
        assert contrast(theme.faint, paper) >= 4.5, paper
    for paper in (theme.background, theme.cluster_fill):
        assert contrast(theme.backward_text, paper) >= 4.5
        for line in (theme.forward, theme.backward, theme.correspondence, theme.saved):
            assert contrast(line, paper) >= 3.0, line


def test_sizes(tmp_path: Path) -> None:
    graphc.page(classifier(), tmp_path / "mlp.html")
    assert (tmp_path / "mlp.html").stat().st_size < 2_000_000
    tokens = ops.input("tokens", (2, 16), dtype="int32")
    target = ops.input("target", (2, 16), dtype="int32")
    net = nn.GPT(vocabulary=50, length=16, width=32, heads=2, depth=4)
    graphc.page(graphc.losses.cross_entropy(net(tokens), target), tmp_path / "gpt.html", level="layers")
    assert (tmp_path / "gpt.html").stat().st_size < 5_000_000
