"""The page: forward and backward told step by step in one self-contained HTML file.

What enters: anything that :func:`viz.draw` takes. What leaves: HTML that needs no network. Invariants: the picture is laid out in
Python, once a theme, and the script only toggles classes on it; steps and sentences are those of :func:`viz.steps.steps_of`; names
of the model reach the page escaped, as text; ids start with a hash of the picture; of several pages in one document the one with
the focus hears the keys. ::

    graphc.page(loss, "backprop.html", backward=True, values={"a": 2, "b": -3})
"""

from __future__ import annotations

import json
import os
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from graphc.errors import DrawError
from viz.adapt import diagram_of
from viz.render import scene_of, write_file
from viz.steps import steps_of
from viz.svg import scene_to_svg
from viz.theme import theme_of

THEMES = ("light", "dark", "projector", "print")


def page(
    what: Any, path: str | os.PathLike[str], *, backward: Any = True, wrt: Any = None, level: str = "ops",
    direction: str | None = "LR", name: str | None = None, notation: str = "bar", values: Any = None, title: str = "",
) -> None:  # fmt: skip
    """Write the interactive page.

    Args:
        what, backward, wrt, level, direction, name, notation, values: as of :func:`viz.draw`.
        path: the file, ``x.html``. title: the heading; the graph's name unless said.

    Raises:
        DrawError: nothing to show, another suffix than .html, a file that cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() != ".html":
        raise DrawError(f"{file.name}: the page is written as HTML", help="name a file that ends in .html")
    diagram = diagram_of(
        what, backward=backward, wrt=wrt, level=level, direction=direction, name=name, notation=notation, values=values
    )
    pictures = {t: scene_to_svg(scene_of(diagram, theme_of(t))[0]) for t in THEMES}
    steps = [
        {"lit": [*s.boxes, *(f"e{i}" for i in s.edges)], "side": s.side, "say": s.sentence} for s in steps_of(diagram)
    ]
    if not steps:
        raise DrawError(f"{diagram.name} has nothing to step through", help="give a graph with at least one value")
    write_file(file, _html(title or diagram.name, pictures, steps).encode("utf-8", "replace"))


def _html(title: str, pictures: dict[str, str], steps: list[dict[str, Any]]) -> str:
    here = files("viz.page")
    style, script = ((here / n).read_text("utf-8") for n in ("page.css", "page.js"))
    shown = "".join(f'<div class="gp-pic" data-theme="{t}">{svg}</div>' for t, svg in pictures.items())
    options = "".join(f"<option>{t}</option>" for t in THEMES)
    data = json.dumps(steps).replace("<", "\\u003c")
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,"><style>{style}</style></head><body>
<main class="gp" data-theme="light" tabindex="-1"><header><h1>{escape(title)}</h1>
<label>Theme <select class="gp-theme">{options}</select></label>
<button class="gp-quiz" aria-pressed="false">Quiz</button></header>
<div class="gp-stage">{shown}</div>
<footer><p class="gp-say" aria-live="polite"></p><div class="gp-bar"><button class="gp-prev">Back</button>
<button class="gp-play" aria-pressed="false">Play</button><button class="gp-next">Next</button>
<input class="gp-scrub" type="range" min="0" max="{len(steps) - 1}" value="0" aria-label="Step"><output class="gp-at"></output></div>
<p class="gp-keys">Keys: ← → step, Home, End, space plays, Q quiz, Enter answers, ? help</p>
<p class="gp-help" hidden>Each step shows what is computed now with a heavy outline; what is still to come appears in its turn.
In quiz mode the backward step's sentence and numbers stay hidden until you press Enter or click the question.</p></footer>
<script type="application/json" class="gp-data">{data}</script></main><script>{script}</script></body></html>
"""
