"""The demo's report: pictures, text of every level, and one ``index.html`` that shows them offline.

What enters: the model, its compiled step, timings and history. What leaves: a folder. Invariant: the page needs no network
and no script; every text is escaped; every picture is beside it as a file of its own.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc import nn
from graphc.errors import GraphcError
from graphc.ir import Graph
from graphc.loops.text import print_kernel
from graphc.trace import Stage

if TYPE_CHECKING:
    from graphc.cli.demo import Model, StepTimes

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --line: #d5d5d0; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #16181a; --line: #3a3d40; --accent: #56b4e9; } }
body { font: 17px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 76rem;
  padding: 1.5rem; }
h1 { font-size: 1.9rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } a { color: var(--accent); }
figure { margin: 1rem 0; overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
figure img { max-width: 100%; max-height: 92vh; height: auto; width: auto; display: block; margin: auto; }
figcaption { color: #333; font-size: .9rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { border: 1px solid var(--line); padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { overflow: auto; max-height: 34rem; font: 13px/1.45 ui-monospace, monospace; border: 1px solid var(--line); padding: .8rem;
  border-radius: 6px; } summary { cursor: pointer; padding: .25rem 0; } nav a { margin-right: 1rem; }
""".strip()


def write_report(folder: Path, model: Model, timing: StepTimes, history: Any, accuracy: float, seconds: float) -> Path:
    """Write pictures, texts and ``index.html`` into ``folder``; returns the page's path.

    Raises:
        GraphcError: the folder cannot be made or written.
    """
    try:
        for part in ("pictures", "passes", "kernels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraphcError(
            f"cannot write the report to {folder}: {error.strerror}", help="choose another --out"
        ) from None
    sections = [
        _training(folder, timing, history, accuracy, seconds),
        _graphs(folder, model),
        _passes(folder, timing),
        _kernels(folder, timing),
    ]
    links = "".join(f'<a href="#{escape(i)}">{escape(t)}</a>' for i, t, _ in sections)
    body = "".join(f'<section id="{escape(i)}"><h2>{escape(t)}</h2>{html}</section>' for i, t, html in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>graphc demo</title><style>{STYLE}</style></head><body><h1>A digit classifier, from declaration to machine code"
        f"</h1><p>Validation accuracy <strong>{accuracy:.1f}%</strong> after {seconds:.1f} s of training.</p><nav>{links}</nav>"
        f"{body}</body></html>"
    )
    index = folder / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


def _figure(path: str, caption: str) -> str:
    return (
        f'<figure><img src="{escape(path)}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _text(title: str, text: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _training(folder: Path, timing: StepTimes, history: Any, accuracy: float, seconds: float) -> tuple[str, str, str]:
    history.plot(folder / "pictures" / "training.svg")
    head = "".join(f"<th>{escape(c)}</th>" for c in timing.rows[0])
    rows = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row.values()) + "</tr>" for row in timing.rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    note = f"<p>Interpreter and JIT differ by {timing.difference:.1e} after one step.</p>"
    return (
        "training",
        "Training and time",
        _figure("pictures/training.svg", "loss and accuracy by epoch") + table + note,
    )


def _graphs(folder: Path, model: Model) -> tuple[str, str, str]:
    from viz import draw

    loss = nn.with_phase(model.loss, training=False)  # without the random bits of dropout
    draw(loss, folder / "pictures" / "forward.svg")
    draw(loss, folder / "pictures" / "backward.svg", backward=True)
    return (
        "graphs",
        "Forward and backward",
        _figure("pictures/forward.svg", "the forward graph as declared")
        + _figure("pictures/backward.svg", "the forward graph and, opposite each node, its gradient"),
    )


def _passes(folder: Path, timing: StepTimes) -> tuple[str, str, str]:
    from viz import draw

    trace = timing.program.trace
    html = [f"<pre>{escape(trace.table())}</pre>"]
    for number, stage in enumerate(trace.stages):
        slug = f"{number:02d}-{stage.name.replace(' ', '-')}"
        (folder / "passes" / f"{slug}.txt").write_text(stage.text(), encoding="utf-8")
        picture = ""
        if isinstance(stage.artifact, Graph):
            draw(stage.artifact, folder / "passes" / f"{slug}.svg")
            picture = _figure(f"passes/{slug}.svg", f"the graph after {stage.name}")
        html.append(f"<h3>{number}. {escape(stage.name)}</h3>{_rules(stage)}")
        html.append(f"<details><summary>picture</summary>{picture}</details>" if picture else "")
        html.append(_text("text", stage.text()))
    return "passes", "The graph after each pass", "".join(html)


def _rules(stage: Stage) -> str:
    fired = ", ".join(f"{escape(rule)} &times;{count}" for rule, count in stage.rule_counts().items())
    refused = "".join(f"<li>did not {escape(r.what)}: {escape(r.reason)}</li>" for r in stage.refusals[:40])
    return (f"<p>fired: {fired}</p>" if fired else "") + (f"<ul>{refused}</ul>" if refused else "")


def _kernels(folder: Path, timing: StepTimes) -> tuple[str, str, str]:
    program = timing.program
    html = []
    for name, kernel in program.loops.kernels.items():
        lines = dict.fromkeys(str(n.source) for n in kernel.nodes if n.source)
        loops = print_kernel(kernel)
        llvm = program.source(f"llvm:{name}")
        (folder / "kernels" / f"{name}.loops.txt").write_text(loops, encoding="utf-8")
        (folder / "kernels" / f"{name}.ll").write_text(llvm, encoding="utf-8")
        html.append(f"<h3>{escape(name)}</h3><p>from {escape(', '.join(lines))}</p>")
        html.append(_text("loop IR", loops) + _text("LLVM IR", llvm))
    for stage, suffix in (("llvm", "ll"), ("asm", "s"), ("cuda", "cu")):
        try:
            text = program.source(stage)
        except GraphcError as error:
            html.append(f"<p>{escape(stage)}: {escape(str(error))}</p>")
            continue
        (folder / "kernels" / f"program.{suffix}").write_text(text, encoding="utf-8")
        html.append(f'<p><a href="kernels/program.{suffix}">whole program: {stage}</a></p>')
    return "kernels", "Kernels", "".join(html)
