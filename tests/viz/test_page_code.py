"""Linked code: every line leads to what it was made for, exactly; in a browser looking at one lights its kin everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import graphc
from graphc import nn, ops
from graphc.driver import Program
from graphc.errors import CompileError
from graphc.links import Links
from tests.viz.test_page import browser, opened

__all__ = ["browser"]


def training() -> Program:
    """A training step of a small classifier: two layers that share no kernel, and two that do."""
    with graphc.seed(0):
        image, label = ops.input("image", (16, 24)), ops.input("label", (16,), "int32")
        net = nn.Sequential(*(nn.Dense(24, activation="relu") for _ in range(3)), nn.Dense(10), name="net")
        loss = graphc.losses.cross_entropy(net(image), label)
    return graphc.compile({"loss": loss}, updates=graphc.optim.SGD(0.1).updates(loss, net.parameters()), threads=1)


@pytest.fixture(scope="module")
def made() -> tuple[Program, Links]:
    program = training()
    return program, program.links()


def test_every_line_has_its_place(made: tuple[Program, Links]) -> None:
    program, links = made
    assert [k.name for k in links.kernels] == list(dict.fromkeys(a.kernel for a in program.loops.launches))
    assert not links.left_out
    for kernel in links.kernels:
        count = len(kernel.loops.split("\n"))
        assert len(kernel.nodes) == count
        for text, lines in ((kernel.llvm, kernel.llvm_lines), (kernel.asm, kernel.asm_lines)):
            assert len(text.splitlines()) == len(lines)
            assert set(lines) <= set(range(count + 1)) and len(set(lines)) > 3
    for printed in links.cuda:
        assert len(printed.text.split("\n")) == len(printed.nodes)


def test_multiply_adds_lead_to_the_product(made: tuple[Program, Links]) -> None:
    kernel = next(k for k in made[1].kernels if any(n.op.name == "matmul" for n in k.launched))
    loops = kernel.loops.split("\n")
    products = {n for n, line in enumerate(loops, 1) if " = mul(" in line or " add= " in line}
    assert products
    found = [n for line, n in zip(kernel.asm.splitlines(), kernel.asm_lines, strict=True) if re.search(r"\tv?(fmadd|mulps)", line)]
    assert found and set(found) <= products
    for n in products:
        assert {x.op.name for x in kernel.nodes[n - 1]} == {"matmul"}


def test_nodes_of_all_launches_that_share_a_kernel_are_there(made: tuple[Program, Links]) -> None:
    program, links = made
    times = [a.kernel for a in program.loops.launches]
    shared = [k for k in links.kernels if times.count(k.name) > 1]
    assert shared, "the layers of one shape share kernels"
    for kernel in shared:
        computed = {n for n in kernel.launched if n.op.name == "matmul"}
        assert computed <= {n for line in kernel.nodes for n in line}


def test_cuda_lines_lead_to_their_nodes(made: tuple[Program, Links]) -> None:
    lines = [(text, nodes) for k in made[1].cuda for text, nodes in zip(k.text.split("\n"), k.nodes, strict=True)]
    assert any("fmaxf" in text or "maximum" in text for text, nodes in lines if any(n.op.name == "maximum" for n in nodes))
    assert all(not nodes for text, nodes in lines if text.strip() in ("}", "__syncthreads();") or text.startswith("//"))


def test_a_limit_leaves_machine_code_out_and_says_whose(made: tuple[Program, Links]) -> None:
    program, whole = made
    links = program.links(limit=1)
    assert links.left_out == tuple(k.name for k in whole.kernels[1:])
    assert links.kernels[0].asm and not any(k.asm or k.llvm for k in links.kernels[1:])
    assert [k.loops for k in links.kernels] == [k.loops for k in whole.kernels]


def test_other_targets_have_no_links() -> None:
    x = ops.input("x", (3,))
    with pytest.raises(CompileError, match="no machine code"):
        graphc.compile(x + 1.0, target="interpreter").links()


@pytest.mark.browser
def test_kin_are_lit_by_mouse_and_by_keyboard(browser: Any, tmp_path: Path, made: tuple[Program, Links]) -> None:
    program, links = made
    program.page(tmp_path / "p.html")
    kernel = links.kernels[0]
    line = next(n for n, nodes in enumerate(kernel.nodes, 1) if any(x.op.name == "matmul" for x in nodes) and n in kernel.asm_lines)
    with opened(browser, tmp_path / "p.html") as page:
        page.keyboard.press("End")
        page.click("[role=tab][data-pane=code]")
        page.click("[data-level=llvm][aria-pressed]")
        page.click("[data-level=cuda][aria-pressed]")
        page.focus(f".gp-code-panel[data-level=loops] .gp-code-line:nth-child({line})")

        def lit(level: str) -> list[int]:
            found: list[int] = page.evaluate(
                f"[...document.querySelectorAll('.gp-code-panel[data-level={level}] .gp-code-line')]"
                ".flatMap((r, i) => r.classList.contains('gp-code-kin') ? [i + 1] : [])"
            )
            return found

        wanted = {line} | {b for a, b in kernel.fused if a == line} | {a for a, b in kernel.fused if b == line}
        assert set(lit("loops")) == wanted
        assert lit("asm") == [n for n, at in enumerate(kernel.asm_lines, 1) if at in wanted]
        assert lit("llvm") == [n for n, at in enumerate(kernel.llvm_lines, 1) if at in wanted]
        assert lit("cuda") and lit("source")
        assert "net(image)" in page.inner_text(".gp-code-panel[data-level=source] .gp-code-kin")
        assert page.evaluate("document.querySelectorAll('.gp-pic .gp-kin').length") >= 1
        assert page.evaluate("""new Promise((done) => setTimeout(() => { const s = document.querySelector('.gp-stage').getBoundingClientRect();
          done([...document.querySelectorAll('.gp-pic .gp-kin')].some((g) => { const r = g.getBoundingClientRect();
            return r.left >= s.left && r.right <= s.right && r.top >= s.top && r.bottom <= s.bottom; })); }, 500))""")
        page.keyboard.press("ArrowRight")  # to its kin in the next panel
        assert page.evaluate("document.activeElement.closest('.gp-code-panel').dataset.level") == "llvm"
        assert line in lit("loops")
        page.select_option(".gp-code-kernel", label=links.kernels[1].name)
        assert links.kernels[1].name in page.inner_text(".gp-code-panel[data-level=loops] .gp-code-line:first-child")
        assert page.trouble == []


@pytest.mark.browser
def test_the_picture_lights_the_code(browser: Any, tmp_path: Path, made: tuple[Program, Links]) -> None:
    program, links = made
    program.page(tmp_path / "p.html")
    with opened(browser, tmp_path / "p.html") as page:
        page.keyboard.press("End")
        page.click("[role=tab][data-pane=code]")
        page.select_option(".gp-code-kernel", index=len(links.kernels) - 1)
        page.keyboard.press("Escape")
        page.keyboard.press("0")
        boxes = [g.get_attribute("id") for g in page.query_selector_all(".gp-pic svg > g.op") if "matmul" in (g.text_content() or "")]
        page.hover(f"#{boxes[0]}")
        name = page.evaluate("document.querySelector('.gp-code-kernel').selectedOptions[0].textContent")
        chosen = next(k for k in links.kernels if k.name == name)
        assert any(n.op.name == "matmul" for n in chosen.launched)
        texts = page.evaluate("[...document.querySelectorAll('.gp-code-panel[data-level=loops] .gp-code-kin code')].map((c) => c.textContent)")
        assert any("mul(" in t or "add=" in t for t in texts)
        assert page.trouble == []
