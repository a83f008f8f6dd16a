"""The page: forward and backward told step by step in one self-contained HTML file, with panes beside the picture.

What enters: anything that :func:`viz.draw` takes. What leaves: HTML that needs no network. Invariants: the picture is laid out in
Python, once; themes are variables of a style sheet, and scripts only toggle classes on the picture's fixed geometry; steps and sentences
are those of :func:`viz.steps.steps_of`; names of the model reach the page escaped, as text; ids start with a hash of the picture; of
several pages in one document the one with the focus hears the keys. Panes: see :mod:`viz.page.pane`. ::

    graphc.page(loss, "backprop.html", backward=True, values={"a": 2, "b": -3})
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from graphc.errors import DrawError
from graphc.loops.ir import LoopProgram
from viz.adapt import diagram_of, view_of
from viz.flow import power
from viz.formula import unicode_formula
from viz.model import Box, Diagram
from viz.page import code, live, passes
from viz.page import profile as profile_pane
from viz.page.details import details
from viz.page.pane import Context, Pane
from viz.render import scene_of, write_file
from viz.steps import Step, steps_of
from viz.svg import scene_to_svg
from viz.theme import THEMES, VARIABLES, style_sheet
from viz.view import LEVELS, View

PANES: dict[str, Callable[[Context], Pane | None]] = {  # in the order of their tabs
    "live": live.pane,
    "passes": passes.pane,
    "code": code.pane,
    "profile": profile_pane.pane,
}


def page(
    what: Any, path: str | os.PathLike[str], *, backward: Any = True, wrt: Any = None, level: str = "ops",
    direction: str | None = "LR", name: str | None = None, notation: str = "bar", values: Any = None, title: str = "",
    theme: str = "light", panes: Sequence[str] | None = None, profile: Any = None, flow: bool = False,
    progress: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Write the interactive page.

    Args:
        what, backward, wrt, level, direction, name, notation, values: as of :func:`viz.draw`. Of a compiled program the loss is
            told, or the forward pass alone where it has none.
        path: the file, ``x.html``. title: the heading; the graph's name unless said. theme: the first one shown.
        panes: names of the panes beside the picture; all that have something to show unless said, () for none.
        profile: what ``program.profile(...)`` gave, for the pane "profile"; True profiles the program now, compiled and
            interpreted, on ``values``.
        flow: with ``values``, as of :func:`viz.draw`: backward edges are coloured by the gradient's norm, that of edited numbers too.
        progress: is told what is made now; large pages take seconds.

    Raises:
        DrawError: nothing to show, another suffix than .html, an unknown theme or pane, a file that cannot be written, or a profile
            of what is not compiled.
    """
    file = Path(path)
    if file.suffix.lower() != ".html":
        raise DrawError(f"{file.name}: the page is written as HTML", help="name a file that ends in .html")
    if theme not in THEMES:
        raise DrawError(f"no theme is named {theme!r}", help=f"choose {', '.join(THEMES)}")
    unknown = [n for n in panes or () if n not in PANES]
    if unknown:
        raise DrawError(f"no pane is named {unknown[0]!r}", help=f"choose from {', '.join(PANES) or 'none'}")
    options = {"backward": backward, "wrt": wrt, "level": level, "direction": direction, "name": name, "notation": notation, "flow": flow}
    if profile is True:
        if progress is not None:
            progress("timing the program")
        profile = _profiled(what, values)
    elif profile is not None and not callable(getattr(profile, "roofline", None)):
        raise DrawError(f"{type(profile).__name__} is no profile", help="give True, or what program.profile(...) returns")
    tell = progress or (lambda _: None)
    tell("laying out the picture")
    context = _context(what, options, values, profile)
    steps = _steps(steps_of(context.diagram))
    if not steps:
        raise DrawError(
            f"{context.diagram.name} has nothing to step through", help="give a graph with at least one value"
        )
    tell("the insides of layers")
    context.details.extend(details(context))
    made = []
    for known, make in PANES.items():
        if panes is None or known in panes:
            tell(f"the pane {known}")
            pane = make(context)
            made += [pane] if pane is not None else []
    tell(f"writing {file.name}")
    write_file(file, _html(title or context.diagram.name, context, steps, made, theme).encode("utf-8", "replace"))


def _profiled(what: Any, values: Any) -> Any:
    """A program's profile on the given inputs, compiled and interpreted."""
    if not callable(getattr(what, "profile", None)):
        raise DrawError(
            f"{type(what).__name__} has no profile: it is not compiled", help="page(graphc.compile(...), path, profile=True)"
        )
    return what.profile(interpreted=True, **(values or {}))


def _context(what: Any, options: dict[str, Any], values: Any, profile: Any) -> Context:
    program = what if hasattr(what, "specialisations") and what.specialisations else None
    shown = what
    if program is not None:
        shown = program.trace.stage("declared").artifact  # nodes of kernels lead back to these
        if options["backward"] is True and not _has_loss(shown):
            options["backward"] = False
    view = None
    if options["level"] in LEVELS and not isinstance(getattr(what, "program", what), LoopProgram):
        try:
            view = view_of(shown, values=values, **options)
        except DrawError:
            if options.get("flow") or (not hasattr(what, "groups") and not hasattr(what, "artifact")):
                raise
    diagram = view.diagram if view is not None else diagram_of(what, values=values, **{**options, "backward": False})
    scene = scene_of(diagram, VARIABLES)[0]
    words = "".join([scene.title, scene.description, str(options), str(values)])
    prefix = "p" + hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:8]
    return Context(what, program, view.graph if view else None, view, diagram, scene, prefix, values, options, profile)


def _has_loss(graph: Any) -> bool:
    """Whether there is one value to go back from."""
    scalars = [k for k, n in graph.outputs.items() if n.shape == () and n.dtype.is_float]
    return "loss" in scalars or len(scalars) == 1


def _steps(told: Sequence[Step]) -> list[dict[str, Any]]:
    return [{"lit": [*s.boxes, *(f"e{i}" for i in s.edges)], "side": s.side, "say": s.sentence} for s in told]


def boxes_data(diagram: Diagram, view: View | None, place: str = "") -> dict[str, dict[str, Any]]:
    """For each box what a search finds and a screen reader says, and the keys that light it; ``place`` sets those of a detail apart."""
    keys: dict[str, dict[str, None]] = {box: {f"node:{place}{box}": None} for box in diagram.boxes}
    if view is not None:
        for node, box in view.box_of.items():
            for shown in (box, f"g{box}"):
                if shown in keys and node.source is not None:
                    keys[shown][f"line:{node.source.short}"] = None
    return {
        box.id: {"text": box.tooltip or " ".join(line.text for line in box.lines), "title": _title(box), "keys": list(keys[box.id])}
        for box in diagram.boxes.values()
    }


def _details(context: Context) -> list[dict[str, Any]]:
    """Pictures of what is inside of collapsed boxes, as text that is read when one is opened."""
    return [
        {"parent": d.parent, "box": d.box, "title": d.title, "svg": d.svg, "steps": _steps(d.steps),
         "boxes": boxes_data(d.view.diagram, d.view, f"d{k}/")}
        for k, d in enumerate(context.details)
    ]  # fmt: skip


def _title(box: Box) -> str:
    """A box's first line as plain text."""
    formula = bool(box.lines) and box.lines[0].style == "formula"
    return unicode_formula(box.title) if formula else box.title


def _asset(name: str) -> str:
    found = files("viz.page") / name
    return found.read_text("utf-8") if found.is_file() else ""


def _pane_script(pane: Pane) -> str:
    """A pane's script, with its code as fourth argument; nothing in it closes the page's script element."""
    script = _asset(f"{pane.name}.js").strip() or "() => {}"
    code = (pane.code or "null").replace("</", "<\\/").replace("<!--", "<\\!--")
    return f"(root, data, page) => ({script})(root, data, page, {code})"


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _html(title: str, context: Context, steps: list[dict[str, Any]], panes: list[Pane], theme: str) -> str:
    style = "\n".join([style_sheet(".gp"), _asset("page.css"), *(_asset(f"{p.name}.css") for p in panes)])
    scripts = ",\n".join(f"{_json(p.name)}: {_pane_script(p)}" for p in panes)
    script = _asset("page.js").replace("/*PANES*/", scripts)
    options = "".join(f"<option{' selected' if t == theme else ''}>{t}</option>" for t in THEMES)
    data = {"prefix": context.prefix, "steps": steps, "boxes": boxes_data(context.diagram, context.view),
            "details": _details(context), "panes": {p.name: p.data for p in panes}}  # fmt: skip
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,"><style>{style}</style></head><body>
<main class="gp" data-theme="{theme}" tabindex="-1">
<header><h1>{escape(title)}</h1>
<div class="gp-find" role="search"><input class="gp-search" type="search" placeholder="Find" aria-label="Find a value, an op or a shape"
><output class="gp-hits"></output></div>
<div class="gp-zoom" role="group" aria-label="Zoom"><button class="gp-out" aria-label="Zoom out">−</button
><button class="gp-fit">Fit</button><button class="gp-in" aria-label="Zoom in">+</button></div>
<button class="gp-follow" aria-pressed="true">Follow</button>
<button class="gp-quiz" aria-pressed="false">Quiz</button>
<label><span>Theme </span><select class="gp-theme" aria-label="Theme">{options}</select></label>
<button class="gp-ask" aria-expanded="false" aria-label="Help">?</button></header>
<div class="gp-main"><div class="gp-stage" tabindex="0" role="group" aria-label="The graph"
><nav class="gp-trail" aria-label="Where you are" hidden></nav><div class="gp-pic">{scene_to_svg(context.scene)}</div>
{_scale(context.diagram.decades)}</div>
{_side(panes, context.prefix)}</div>
<footer><p class="gp-say"></p><div class="gp-bar"><button class="gp-prev">Back</button>
<button class="gp-play" aria-pressed="false">Play</button><button class="gp-next">Next</button>
<input class="gp-scrub" type="range" min="0" max="{len(steps) - 1}" value="0" aria-label="Step"><output class="gp-at"></output></div>
<p class="gp-live" aria-live="polite"></p></footer>
<div class="gp-help" role="dialog" aria-label="Help" hidden><h2>Keys</h2><dl></dl>
<p>Each step shows what is computed now with a heavy outline; what is still to come appears in its turn. In quiz mode the backward
step's sentence and numbers stay hidden until you press Enter or click the question. A click on a frame's name folds it.</p>
<button class="gp-close">Close</button></div>
<script type="application/json" class="gp-data">{_json(data)}</script></main><script>{script}</script></body></html>
"""


def _scale(decades: int | None) -> str:
    """What the colours of the flow mean, wherever the picture is looked at."""
    if decades is None:
        return ""
    return (
        f'<p class="gp-scale" title="the gradient\'s norm beside that where it leaves the loss">{power(-decades)} vanishes '
        f"<span></span> explodes {power(decades)}</p>"
    )


def _side(panes: list[Pane], prefix: str) -> str:
    """Tabs and their bodies; nothing where there is no pane."""
    if not panes:
        return ""
    tabs = "".join(
        f'<button role="tab" id="{prefix}-tab-{p.name}" aria-controls="{prefix}-pane-{p.name}" data-pane="{p.name}" '
        f'aria-selected="false" tabindex="-1">{escape(p.title)}</button>'
        for p in panes
    )
    bodies = "".join(
        f'<section role="tabpanel" id="{prefix}-pane-{p.name}" aria-labelledby="{prefix}-tab-{p.name}" class="gp-pane gp-pane-{p.name}" '
        f'data-pane="{p.name}" tabindex="0" hidden>{p.html}</section>'
        for p in panes
    )
    return (
        f'<div class="gp-split" role="separator" aria-orientation="vertical" aria-label="Width of the panes" aria-valuenow="40" '
        f'aria-valuemin="20" aria-valuemax="75" tabindex="0"></div>'
        f'<aside class="gp-side"><div class="gp-tabs" role="tablist">{tabs}'
        f'<button class="gp-fold" aria-label="Hide the panes">×</button></div>'
        f"{bodies}</aside>"
    )
