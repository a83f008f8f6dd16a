"""The page's profile: figures are exact where they can be, and in a browser everything is reached, sorted and lit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops
from graphc.driver import Program
from graphc.errors import DrawError
from graphc.interpreted import interpret_timed
from graphc.ir import Graph
from graphc.profile import Profile
from graphc.targets.cpu.roofline import Roofline
from passes.memory import arena_of
from tests.viz.test_page import browser, opened
from viz.arena import arena_scene
from viz.profiled import kernels_of
from viz.roofline import roofline_scene
from viz.scene import Ellipse, Rect
from viz.theme import theme_of

__all__ = ["browser"]
ROOF = Roofline("a <b>CPU</b>", 1, 1e11, ((1 << 14, 2e11), (1 << 40, 2e10)))


def training() -> tuple[Program, dict[str, Any]]:
    """A training step of a small classifier."""
    with graphc.seed(0):
        image, label = ops.input("image", (16, 36)), ops.input("label", (16,), "int32")
        net = nn.Sequential(nn.Dense(24, activation="gelu"), nn.Dense(10), name="net")
        loss = graphc.losses.cross_entropy(net(image), label)
    updates = graphc.optim.Adam(1e-3).updates(loss, net.parameters())
    program = graphc.compile({"loss": loss}, updates=updates, threads=1)
    data = np.random.default_rng(0)
    return program, {"image": data.random((16, 36), np.float32), "label": data.integers(0, 10, 16).astype(np.int32)}


@pytest.fixture(scope="module")
def step() -> tuple[Program, Profile]:
    program, inputs = training()
    return program, replace(program.profile(3, interpreted=True, **inputs), roof=ROOF)


# --- figures -------------------------------------------------------------------------------------------------------


def test_a_product_is_counted_exactly() -> None:
    x, w = ops.input("x", (8, 32)), ops.parameter("w", (32, 4), 0.5)
    graph = Graph("g", {"y": x @ w})
    rows = {r.node.op.name: r.spent for r in interpret_timed(graph, {"x": np.ones((8, 32), np.float32)}, 2)}
    assert rows["matmul"].flops == 2 * 8 * 32 * 4
    assert rows["matmul"].bytes == 4 * (8 * 32 + 32 * 4 + 8 * 4)
    assert rows["input"].bytes == rows["parameter"].flops == 0
    profile = graphc.compile(x @ w, threads=1).profile(2, interpreted=True, x=np.ones((8, 32), np.float32))
    assert profile.flops == 2 * 8 * 32 * 4 and profile.rows[0].bytes == 4 * (8 * 32 + 32 * 4 + 8 * 4)
    assert profile.rows[0].interpreted is not None and profile.rows[0].interpreted.flops == profile.flops


def test_views_move_nothing() -> None:
    x = ops.input("x", (4,))
    graph = Graph("g", {"y": ops.stop_gradient(x) + ops.input("z", (6, 4))})
    inputs = {"x": np.ones(4, np.float32), "z": np.ones((6, 4), np.float32)}
    rows = {r.node.op.name: r.spent for r in interpret_timed(graph, inputs, 1)}
    assert rows["stop_gradient"].bytes == 0 and rows["broadcast"].bytes == 4 * (4 + 24)
    assert rows["add"].bytes == 3 * 24 * 4 and rows["add"].flops == 24


def test_every_interpreted_node_is_in_one_place(step: tuple[Program, Profile]) -> None:
    program, profile = step
    shared = sum(r.interpreted.seconds for r in profile.rows if r.interpreted) + profile.rest.seconds
    assert shared == pytest.approx(profile.interpreted_seconds)
    assert sum(r.interpreted.flops for r in profile.rows if r.interpreted) + profile.rest.flops == pytest.approx(
        sum(n.spent.flops for n in profile.nodes))
    assert len(profile.nodes) == len(program.trace.stage("declared").artifact.nodes)
    products = [n for n in profile.nodes if n.node.op.name == "matmul"]
    assert len(products) == 5 and sum(n.spent.flops for n in products) == 2 * 16 * (36 * 24 * 2 + 24 * 10 * 3)
    kernels = [r for r in profile.rows if any(n.op.name == "matmul" for n in r.nodes)]
    for row in kernels:
        assert row.interpreted is not None and row.interpreted.flops == pytest.approx(row.flops, rel=0.35), row.kernel


def test_kernels_of_a_profile(step: tuple[Program, Profile]) -> None:
    _, profile = step
    kernels = kernels_of(profile)
    assert sum(k.seconds for k in kernels) == pytest.approx(profile.seconds)
    assert sum(k.share for k in kernels) == pytest.approx(1.0)
    assert sorted(n for k in kernels for n in k.launches) == list(range(len(profile.rows)))
    product = max(kernels, key=lambda k: k.intensity)
    assert product.of_roof == pytest.approx(ROOF.seconds(product.flops, product.bytes) / product.seconds)
    assert f"{product.name}: " in product.sentence() and "of the roof" in product.sentence()


def test_rectangles_of_the_arena_never_overlap(step: tuple[Program, Profile]) -> None:
    program, profile = step
    arena = profile.arena
    assert arena is not None and arena.tenancies and arena == arena_of(program.loops)
    for k, a in enumerate(arena.tenancies):
        for b in arena.tenancies[k + 1 :]:
            apart = a.last < b.first or b.last < a.first
            elsewhere = a.slot.offset + a.size <= b.slot.offset or b.slot.offset + b.size <= a.slot.offset
            assert apart or elsewhere, (a, b)
    by_name = {t.slot.name: t for t in arena.tenancies}
    reused = [(t, by_name[n]) for t in arena.tenancies for n in t.after]
    assert reused, "a training step uses memory again"
    for late, early in reused:
        assert early.last < late.first
        assert early.slot.offset < late.slot.offset + late.size and late.slot.offset < early.slot.offset + early.size
    assert arena.peak == max(arena.live) <= arena.size <= sum(t.size for t in arena.tenancies)
    drawn = [s for g in arena_scene(arena, theme_of("light")).groups if g.kind == "block" for s in g.shapes if isinstance(s, Rect)]
    assert len(drawn) == len(arena.tenancies)


def test_points_of_the_roofline_are_where_they_belong(step: tuple[Program, Profile]) -> None:
    _, profile = step
    scene = roofline_scene(profile, theme_of("light"))
    discs = {g.id: g.shapes[0] for g in scene.groups if g.kind == "point"}
    kernels = kernels_of(profile)
    assert set(discs) == {f"p{k}" for k, kernel in enumerate(kernels) if kernel.flops}
    order = sorted(discs, key=lambda name: kernels[int(name[1:])].intensity)
    places = [discs[name] for name in order]
    assert all(isinstance(p, Ellipse) for p in places)
    assert [p.x for p in places] == sorted(p.x for p in places)  # type: ignore[union-attr]
    high = sorted(discs, key=lambda name: -kernels[int(name[1:])].rate)
    assert [discs[n].y for n in high] == sorted(discs[n].y for n in high)  # type: ignore[union-attr]


def test_drawings_as_files(step: tuple[Program, Profile], tmp_path: Path) -> None:
    _, profile = step
    svg = graphc.draw_roofline(profile)
    assert svg is not None and svg.startswith("<svg") and "<b>" not in svg
    for suffix in ("svg", "png", "pdf"):
        graphc.draw_arena(profile, tmp_path / f"a.{suffix}", theme="dark")
        assert (tmp_path / f"a.{suffix}").stat().st_size > 1000
    with pytest.raises(DrawError, match="has two pictures"):
        graphc.draw(profile, tmp_path / "p.svg")
    with pytest.raises(DrawError, match="no roofline"):
        graphc.draw_roofline(ops.input("x"))  # type: ignore[arg-type]
    with pytest.raises(DrawError, match="no memory plan"):
        graphc.draw_arena(ops.input("x"))  # type: ignore[arg-type]
    with pytest.raises(DrawError, match=r"not written as \.gif"):
        graphc.draw_arena(profile, tmp_path / "a.gif")
    alone = graphc.compile(ops.tanh(ops.input("x", (4,))), threads=1).profile(1)
    with pytest.raises(DrawError, match="no intermediate"):
        graphc.draw_arena(alone)


def test_what_has_no_profile_says_so(tmp_path: Path) -> None:
    with pytest.raises(DrawError, match="not compiled"):
        graphc.page(ops.tanh(ops.input("x")), tmp_path / "p.html", profile=True)
    with pytest.raises(DrawError, match="int is no profile"):
        graphc.page(ops.tanh(ops.input("x")), tmp_path / "p.html", profile=7)
    program, _ = training()
    program.page(tmp_path / "p.html")
    assert 'data-pane="profile"' not in (tmp_path / "p.html").read_text(), "nothing is timed unasked"


def data_of(file: Path) -> Any:
    return json.loads(re.search(r'class="gp-data">(.*?)</script>', file.read_text(), re.S)[1])  # type: ignore[index]


def test_gradients_that_are_drawn_as_nodes_have_their_own_heat(tmp_path: Path) -> None:
    """The whole training step, without a mirror: products of the backward pass are not counted as the forward pass."""
    x, w = ops.input("x", (16, 36)), ops.parameter("w", (36, 24), 0.1)
    v = ops.parameter("v", (24, 10), 0.1)
    loss = ops.sum(ops.tanh(ops.tanh(x @ w) @ v))
    updates = {p: p - g for p, g in zip([w, v], graphc.grad(loss, wrt=[w, v]), strict=True)}
    program = graphc.compile({"loss": loss}, updates=updates, threads=1)
    program.page(tmp_path / "p.html", profile=replace(program.profile(2, interpreted=True), roof=ROOF), backward=False)
    data = data_of(tmp_path / "p.html")
    found, boxes = data["panes"]["profile"], data["boxes"]
    products = [box for box, told in boxes.items() if told["title"] == "matmul"]
    flops = sorted(found["heat"]["interpreted"][box][1] for box in products)
    assert flops == [2 * 16 * 24 * 10] * 3 + [2 * 16 * 36 * 24] * 2
    assert all(found["heat"]["compiled"][box][1] == pytest.approx(found["heat"]["interpreted"][box][1], rel=0.2) for box in products)
    assert [found["outside"][s][1] for s in ("compiled", "interpreted")] == [0.0, 0.0], "everything is in the picture"


def test_a_value_s_picture_takes_its_program_s_profile(tmp_path: Path) -> None:
    """The sizes of a program are known, those of a declared value may be open: its nodes are found again."""
    x = ops.input("x", ("n", 8))
    y = ops.tanh(x @ ops.parameter("w", (8, 8), 0.1))
    profile = replace(graphc.compile({"y": y}, threads=1).profile(1, interpreted=True, x=np.ones((4, 8), np.float32)), roof=ROOF)
    graphc.page(y, tmp_path / "p.html", profile=profile, backward=False)
    data = data_of(tmp_path / "p.html")
    titles = {data["boxes"][box]["title"] for box in data["panes"]["profile"]["heat"]["compiled"]}
    assert {"matmul", "tanh"} <= titles and data["panes"]["profile"]["outside"]["compiled"] == [0.0, 0.0, 0.0]


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(browser: Any, tmp_path: Path, step: tuple[Program, Profile]) -> Iterator[Any]:
    program, profile = step
    program.page(tmp_path / "p.html", profile=profile)
    page = opened(browser, tmp_path / "p.html", reduced_motion="reduce")
    page.click("[role=tab][data-pane=profile]")
    yield page
    assert page.trouble == []
    page.close()


def column(page: Any, name: str) -> list[str]:
    return [str(t) for t in page.locator(f".gp-profile-rows tbody .gp-profile-{name}").all_inner_texts()]


@pytest.mark.browser
def test_the_table_shows_the_profile_and_sorts(shown: Any, step: tuple[Program, Profile]) -> None:
    kernels = kernels_of(step[1])
    assert column(shown, "title") == [k.title for k in sorted(kernels, key=lambda k: -k.seconds)]
    shown.click(".gp-profile-rows thead .gp-profile-flops button")
    assert column(shown, "title")[0] == max(kernels, key=lambda k: k.flops).title
    assert shown.get_attribute(".gp-profile-rows thead .gp-profile-flops", "aria-sort") == "descending"
    shown.keyboard.press("Enter")
    assert shown.get_attribute(".gp-profile-rows thead .gp-profile-flops", "aria-sort") == "ascending"
    assert column(shown, "title")[-1] == max(kernels, key=lambda k: k.flops).title
    told = shown.inner_text(".gp-profile-told")
    assert "compiled (1 thread)" in told and "interpreted" in told and "<b>CPU</b>" in told


@pytest.mark.browser
def test_the_switch_heats_the_picture(shown: Any, step: tuple[Program, Profile]) -> None:
    def chips() -> list[str]:
        return [str(t) for t in shown.locator(".gp-profile-chips text").all_text_contents()]

    def fills() -> set[str]:
        return set(shown.evaluate("[...document.querySelectorAll('.gp-profile-hot')].map(g => getComputedStyle(g.querySelector('rect, ellipse')).fill)"))

    compiled, colours = chips(), fills()
    assert compiled and len(colours) > 2
    assert shown.locator(".gp-pic g.gp-future").first.evaluate("g => getComputedStyle(g).opacity") == "1"
    shown.click("[data-side=interpreted]")
    assert chips() != compiled and shown.get_attribute("[data-side=interpreted]", "aria-checked") == "true"
    assert "matmul" in " ".join(column(shown, "title")) and shown.locator("thead .gp-profile-roof").count() == 0
    shown.keyboard.press("ArrowRight")
    assert shown.get_attribute("[data-side=none]", "aria-checked") == "true" and chips() == [] and fills() == set()
    shown.locator(".gp").focus()
    shown.keyboard.press("h")
    assert chips() == compiled and fills() == colours
    shown.select_option(".gp-theme", "dark")
    assert fills() != colours


@pytest.mark.browser
def test_rows_boxes_discs_and_buffers_light_each_other(shown: Any) -> None:
    shown.locator(".gp-profile-rows tbody tr").first.hover()
    assert shown.locator(".gp-pic .gp-kin").count() >= 1 and shown.locator(".gp-profile-roof .point.gp-profile-kin").count() == 1
    assert shown.locator(".gp-profile-band").count() >= 1
    title = column(shown, "title")[0]
    assert shown.inner_text(".gp-profile-say").startswith(title)
    shown.locator(".gp-profile-rows tbody tr").first.focus()
    shown.keyboard.press("ArrowDown")
    assert shown.inner_text(".gp-profile-say").startswith(column(shown, "title")[1])
    shown.locator(".gp-profile-roof .point[tabindex='0']").focus()
    first = shown.inner_text(".gp-profile-say")
    assert shown.locator(".gp-profile-rows tr.gp-profile-kin").count() == 1
    shown.keyboard.press("ArrowRight")
    assert shown.inner_text(".gp-profile-say") != first and shown.inner_text(".gp-at").startswith("1 /")
    shown.locator(".gp-profile-arena .block[tabindex='0']").focus()
    shown.keyboard.press("End")
    said = shown.inner_text(".gp-profile-say")
    assert re.search(r"at address [\d,]+; from launch \d+", said)
    assert "takes over" not in said or shown.locator(".gp-profile-before").count() >= 1
    box = shown.locator(".gp-pic g.op", has_text="matmul").first
    box.dispatch_event("pointerenter")
    assert shown.locator(".gp-profile-rows tr.gp-profile-kin").count() >= 1


@pytest.mark.browser
def test_the_heat_of_all_boxes_is_the_whole_step(shown: Any, step: tuple[Program, Profile]) -> None:
    data = json.loads(shown.evaluate("document.querySelector('.gp-data').textContent"))["panes"]["profile"]
    totals = {"compiled": (step[1].seconds, step[1].flops), "interpreted": (step[1].interpreted_seconds, step[1].flops)}
    for side, (seconds, flops) in totals.items():
        sums = [sum(v[k] for v in data["heat"][side].values()) + data["outside"][side][k] for k in range(3)]
        assert sums == pytest.approx(data["total"][side]) and sums[0] == pytest.approx(seconds)
        assert sums[1] == pytest.approx(flops, rel=0.2) and data["outside"][side][1] < 0.5 * flops
    chosen = shown.locator(".gp-profile-what")
    before = shown.locator(".gp-profile-chips text").first.text_content()
    chosen.focus()
    shown.keyboard.press("ArrowDown")
    assert chosen.input_value() == "operations" and "FLOP" in shown.inner_text(".gp-profile-legend")
    assert shown.locator(".gp-profile-chips text").first.text_content() != before
    shown.locator(".gp-pic g.op", has_text="matmul").first.dispatch_event("pointerenter")
    assert re.match(r"matmul: compiled .* moved; interpreted .* moved\.", shown.inner_text(".gp-profile-say"))


@pytest.mark.browser
def test_a_picture_of_kernels_is_heated_by_launch(browser: Any, tmp_path: Path, step: tuple[Program, Profile]) -> None:
    program, profile = step
    program.page(tmp_path / "k.html", profile=replace(profile, nodes=()), level="kernels")
    page = opened(browser, tmp_path / "k.html", reduced_motion="reduce")
    page.click("[role=tab][data-pane=profile]")
    assert page.locator("[data-side=interpreted]").count() == 0, "the interpreter was not timed"
    assert page.locator(".gp-profile-chips text").count() == len(profile.rows)
    page.locator(".gp-profile-rows tbody tr").first.hover()
    slowest = max(profile.rows, key=lambda r: r.seconds)
    assert page.locator(".gp-pic .gp-kin").count() == sum(r.kernel == slowest.kernel for r in profile.rows)
    assert slowest.kernel in str(page.text_content(".gp-pic .gp-kin >> nth=0")) and page.trouble == []


@pytest.mark.browser
def test_names_are_text_and_colours_keep_their_contrast(browser: Any, tmp_path: Path) -> None:
    with graphc.scope("</script><img src=x onerror=alert(1)>"):
        w = ops.parameter("<img src=y>", (32, 32), 0.1)
        y = ops.tanh(ops.input("x", (32, 32)) @ w) @ w
    program = graphc.compile({"loss": ops.sum(ops.exp(y @ w), axis=None)}, threads=1)
    program.page(tmp_path / "h.html", profile=replace(program.profile(1, interpreted=True), roof=ROOF))
    page = opened(browser, tmp_path / "h.html", reduced_motion="reduce")
    page.click("[role=tab][data-pane=profile]")
    assert page.locator("img").count() == 0
    for theme in ("light", "dark", "projector", "print"):
        page.select_option(".gp-theme", theme)
        worst = page.evaluate("""() => {
          const light = (c) => {
            const [, r, g, b, scale] = /^color\\(srgb ([\\d.]+) ([\\d.]+) ([\\d.]+)/.test(c) ? [...c.match(/srgb ([\\d.e-]+) ([\\d.e-]+) ([\\d.e-]+)/), 1]
              : [...c.match(/rgb\\((\\d+), (\\d+), (\\d+)/), 255];
            const l = [r, g, b].map((v) => v / scale).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
          };
          return Math.min(...[...document.querySelectorAll(".gp-profile-hot")].flatMap((g) => {
            const paper = light(getComputedStyle(g.querySelector("rect, ellipse")).fill);
            return [...g.querySelectorAll(":scope > text, :scope > path[role=img]")].map((t) => {
              const [a, b] = [paper, light(getComputedStyle(t).fill)].sort((x, y) => y - x);
              return (a + 0.05) / (b + 0.05);
            });
          }));
        }""")
        assert worst >= 4.5, theme
    assert page.trouble == []
