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
from graphc import ops
from graphc.errors import DrawError
from graphc.ir import Node
from viz.adapt import diagram_of
from viz.gallery import scalar
from viz.steps import steps_of

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
    assert [s["say"] for s in data] == [s.sentence for s in told]
    for step in data:
        assert all(f'-{name}"' in text for name in step["lit"])


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DrawError, match=r"\.svg"):
        pass_through = graphc.page(scalar(), tmp_path / "p.html.svg")
        del pass_through
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
        "b => getComputedStyle(document.querySelector(`.gp-pic[data-theme=light] g[id$='-${b}']`)).opacity !== '0'"
        " && getComputedStyle(document.querySelector(`.gp-pic[data-theme=light] g[id$='-${b}']`)).visibility !== 'hidden'", box
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

    assert at() == 0 and says() == told[0].sentence
    page.keyboard.press("ArrowRight")
    assert at() == 1 and says() == told[1].sentence and seen(page, told[1].boxes[0]) and not seen(page, told[-1].boxes[-1])
    page.keyboard.press("End")
    assert at() == len(told) - 1 and says() == told[-1].sentence and seen(page, told[-1].boxes[-1])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    assert at() == 0
    page.click(".gp-next")
    page.click(".gp-next")
    page.click(".gp-prev")
    assert at() == 1
    page.fill(".gp-scrub", "4")
    assert at() == 4 and says() == told[4].sentence
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
        assert page.is_visible(f".gp-pic[data-theme={theme}]") and page.locator(".gp-pic:visible").count() == 1
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
    assert page.inner_text(".gp-say") == told[back].sentence and seen(page, told[back].boxes[0])
    page.click(".gp-next")
    assert page.inner_text(".gp-say") != told[back + 1].sentence
    page.click(".gp-say")
    assert page.inner_text(".gp-say") == told[back + 1].sentence
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
