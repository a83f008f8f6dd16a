"""Code: the user's lines, loops, LLVM IR, assembly and CUDA beside each other; what is looked at in one is lit in all.

What enters: a page's context with a program that was compiled for the cpu. What leaves: a pane with a kernel at a time. Invariants: no
link is guessed: machine code leads to lines of loops by the numbers that :mod:`graphc.links` carries, loops and CUDA to boxes and the
user's lines by the nodes of their statements; what is left out for its size is named. Files are shown by their last name, never by their
folder.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from graphc.errors import CompileError, GraphError
from graphc.ir import Node
from viz.page.pane import Context, Pane

LEVELS = (("source", "Python"), ("loops", "Loops"), ("llvm", "LLVM IR"), ("asm", "Assembly"), ("cuda", "CUDA"))
SHOWN = ("source", "loops", "asm")
AROUND = 2  # lines of the user's shown around one that counts
CUDA = 3  # kernels of CUDA shown for one of the cpu's


def pane(context: Context) -> Pane | None:
    """The pane; None where no machine code was made."""
    if context.program is None:
        return None
    try:
        links = context.program.links()
    except (CompileError, GraphError):
        return None  # another target
    keys: dict[str, int] = {}
    kernels = [_kernel(k, context, keys) for k in links.kernels]
    cuda = [{"name": k.name, "text": k.text, "keys": _of_lines(k.nodes, context, keys)} for k in links.cuda]
    for kernel, linked in zip(kernels, links.kernels, strict=True):
        kernel["cuda"] = _in_cuda(linked, kernel, links.cuda, cuda, keys)
    data = {"keys": list(keys), "kernels": kernels, "cuda": cuda, "source": _source(links, keys), "left": list(links.left_out)}
    options = "".join(f'<option value="{k}">{escape(str(kernel["title"]))}</option>' for k, kernel in enumerate(kernels))
    switches = "".join(
        f'<button data-level="{name}" aria-pressed="{"true" if name in SHOWN else "false"}">{title}</button>' for name, title in LEVELS
    )
    panels = "".join(
        f'<section class="gp-code-panel" data-level="{name}" aria-label="{title}"{"" if name in SHOWN else " hidden"}><h3>{title}</h3>'
        f'<div class="gp-code-lines" role="listbox" aria-label="{title}"></div></section>'
        for name, title in LEVELS
    )
    html = (
        f'<div class="gp-code-bar"><label>Kernel <select class="gp-code-kernel">{options}</select></label>'
        f'<span class="gp-code-levels" role="group" aria-label="What is shown">{switches}</span></div>'
        f'<p class="gp-code-say"></p><div class="gp-code-panels">{panels}</div>'
    )
    return Pane("code", "Code", html, data)


def _kernel(linked: Any, context: Context, keys: dict[str, int]) -> dict[str, Any]:
    computed = [n for n in linked.launched if isinstance(n, Node) and not n.op.is_source]
    return {
        "name": linked.name, "title": linked.name, "loops": linked.loops, "keys": _of_lines(linked.nodes, context, keys),
        "llvm": linked.llvm, "llvmLines": list(linked.llvm_lines), "asm": linked.asm, "asmLines": list(linked.asm_lines),
        "fused": [list(pair) for pair in linked.fused], "all": _numbers(context.keys_of(computed), keys),
    }  # fmt: skip


def _numbers(found: Iterable[str], keys: dict[str, int]) -> list[int]:
    return [keys.setdefault(key, len(keys)) for key in found]


def _of_lines(nodes: Iterable[tuple[Any, ...]], context: Context, keys: dict[str, int]) -> list[list[int]]:
    """For each line the numbers of its keys."""
    return [_numbers(context.keys_of(n for n in line if isinstance(n, Node)), keys) if line else [] for line in nodes]


def _in_cuda(
    linked: Any, kernel: Mapping[str, Any], printed: Iterable[Any], cuda: list[dict[str, Any]], keys: Mapping[str, int]
) -> list[int]:  # fmt: skip
    """The kernels of CUDA that compute the most of what a kernel computes."""
    boxes = {number for key, number in keys.items() if key.startswith("node:")}
    own = set(kernel["all"]) & boxes or set(kernel["all"])
    shared = []
    for place, made in enumerate(printed):
        computes = [bool(line) and not all(n.op.is_source for n in line if isinstance(n, Node)) for line in made.nodes]
        held = {key for line, counts in zip(cuda[place]["keys"], computes, strict=True) if counts for key in line}
        if held & own:
            shared.append((-len(held & own) / len(held | own), made.name != linked.name, place))
    return [place for _, _, place in sorted(shared)[:CUDA]]


def _source(links: Any, keys: Mapping[str, int]) -> list[dict[str, Any]]:
    """The user's lines by file, with some around them."""
    wanted: dict[str, set[int]] = {}
    for linked in links.kernels:
        for node in (*linked.launched, *(n for line in linked.nodes for n in line)):
            source = getattr(node, "source", None)
            if source is not None:
                wanted.setdefault(source.file, set()).add(source.line)
    found = []
    for file, lines in wanted.items():
        text = linecache.getlines(file)
        short = file.replace("\\", "/").rpartition("/")[2]
        around = sorted({n + d for n in lines for d in range(-AROUND, AROUND + 1) if 0 < n + d <= max(len(text), n)})
        rows = [[n, text[n - 1].rstrip("\n") if n <= len(text) else "(the file cannot be read)", keys.get(f"line:{short}:{n}", -1)]
                for n in around]  # fmt: skip
        found.append({"file": short, "lines": rows})
    return found
