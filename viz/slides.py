"""Slides: a picture built up step by step, every frame with the same geometry.

What enters: anything that :func:`viz.draw` takes. What leaves: frames as one PDF (a page each), numbered SVG files, a TikZ document (a
page each) or a self-contained HTML deck. Invariants: the picture is laid out once, so that nothing moves between frames; frame k
shows exactly the first k steps of :func:`viz.steps.steps_of`; the step's own boxes are outlined heavily, what is new is never told
by colour alone; the sentence of the step stands below, the number in the corner. ::

    graphc.slides(loss, "backprop.pdf", backward=True, values={"a": 2, "b": -3})
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from graphc.errors import DrawError
from graphc.trace import Trace
from viz.adapt import diagram_of
from viz.fonts import text_width
from viz.model import Diagram
from viz.raster import scene_figure
from viz.render import scene_of, write_file
from viz.scene import Ellipse, Group, Rect, Scene, Shape, Text, scaled
from viz.steps import Step, steps_of
from viz.svg import scene_to_svg
from viz.theme import Theme, theme_of
from viz.tikz import document, scene_to_tikz
from viz.union import Union, union_of

SUFFIXES = (".pdf", ".svg", ".tex", ".html")
WIDTH, HEIGHT = 1280.0, 720.0  # of a 16:9 frame, in its own units
_EDGE, _FOOT = 36.0, 96.0
MOST = 400


@dataclass(frozen=True)
class Frame:
    """One frame: its picture, and what it says."""

    scene: Scene
    sentence: str


def slides(
    what: Any, path: str | os.PathLike[str], *, backward: Any = False, wrt: Any = None, level: str = "ops",
    theme: str = "projector", direction: str | None = "LR", name: str | None = None, notation: str = "bar", values: Any = None,
    title: str = "", flow: bool = False,
) -> int:  # fmt: skip
    """Write the frames of a build-up.

    Args:
        what, backward, wrt, level, theme, direction, name, notation, values: as of :func:`viz.draw`. Of ``program.trace`` the
            frames are the stages of the compilation in one picture of all of them, by ``theme``, ``direction`` and ``title``.
        path: ``x.pdf`` (a page a frame), ``x.tex`` (TikZ, a page a frame), ``x.html`` (a deck: arrows, Home, End, space) or ``x.svg``
            (numbered files ``x-01.svg``, ``x-02.svg``, ...).
        title: shown above every frame. flow: with ``backward`` and ``values``, as of :func:`viz.draw`.

    Returns:
        The number of frames.

    Raises:
        DrawError: nothing to show, more than 400 steps, an unknown suffix, a file that cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise DrawError(
            f"{file.name}: slides are not written as {file.suffix or 'a file without a suffix'}",
            help=f"choose one of {', '.join(SUFFIXES)}",
        )
    if isinstance(what, Trace):
        union = union_of(what, "TB" if direction == "TB" else "LR")
        diagram, made = union.diagram, stage_frames(union, theme_of(theme), title)
    else:
        diagram = diagram_of(
            what, backward=backward, wrt=wrt, level=level, direction=direction, name=name, notation=notation, values=values,
            flow=flow,
        )  # fmt: skip
        made = frames(diagram, theme_of(theme), title)
    match file.suffix.lower():
        case ".pdf":
            write_file(file, _pdf(made))
        case ".tex":
            write_file(file, document([scene_to_tikz(f.scene, standalone=False) for f in made]).encode("utf-8", "replace"))
        case ".html":
            write_file(file, _deck(made, title or diagram.name, theme_of(theme)).encode("utf-8", "replace"))
        case _:
            digits = max(2, len(str(len(made))))
            for k, frame in enumerate(made, 1):
                write_file(file.with_name(f"{file.stem}-{k:0{digits}}.svg"), scene_to_svg(frame.scene).encode("utf-8", "replace"))
    return len(made)


def frames(diagram: Diagram, theme: Theme, title: str = "") -> list[Frame]:
    """The frames of a diagram, all with one geometry.

    Raises:
        DrawError: the diagram has more than 400 steps.
    """
    steps = steps_of(diagram)
    if len(steps) > MOST:
        raise DrawError(
            f"{diagram.name} has {len(steps)} steps, slides take up to {MOST}", help='draw it with level="layers"'
        )
    scene, _ = scene_of(diagram, theme)
    fit = _Fit.of(scene, theme)
    made = []
    seen: set[str] = set()
    for number, step in enumerate(steps, 1):
        seen |= {*step.boxes, *(f"e{index}" for index in step.edges)}
        groups = [
            fit.place(_lit(g, theme) if g.id in step.boxes else g) for g in scene.groups if _shown(g, seen, step, diagram)
        ]
        groups += _furniture(theme, step, number, len(steps), title)
        text = f"{title or diagram.name}, step {number} of {len(steps)}: {step.sentence}"
        made.append(Frame(Scene(WIDTH, HEIGHT, theme.background, scene.title, text, groups), step.sentence))
    return made


def stage_frames(union: Union, theme: Theme, title: str = "") -> list[Frame]:
    """A frame for each stage of a compilation, everything in its place; what is new at a stage has a heavy outline."""
    scene, _ = scene_of(union.diagram, theme)
    fit = _Fit.of(scene, theme)
    made = []
    before = union.moments[0].boxes
    for number, moment in enumerate(union.moments, 1):
        live = moment.boxes | moment.edges
        groups = [fit.place(_lit(g, theme) if g.id in moment.boxes - before else g) for g in scene.groups if g.id in live]
        change = f" {moment.count} nodes." if number == 1 or moment.boxes != before else ""
        step = Step(tuple(sorted(moment.boxes)), (), "forward", f"{moment.say}{change}")
        heading = f"{title}: {moment.title}" if title else moment.title
        groups += _furniture(theme, step, number, len(union.moments), heading)
        text = f"{heading}, stage {number} of {len(union.moments)}: {step.sentence}"
        made.append(Frame(Scene(WIDTH, HEIGHT, theme.background, scene.title, text, groups), step.sentence))
        before = moment.boxes
    return made


def _shown(group: Group, seen: set[str], step: Step, diagram: Diagram) -> bool:
    """Frames and captions stand from the first frame on; the backward part's only once it begins."""
    if group.kind == "cluster":
        return not group.id.startswith("cb") or step.side == "backward"
    if group.kind in ("caption", "legend"):
        return group.id == "t0" or (step.side == "backward" and diagram.mirrored)
    return group.id in seen


def _lit(group: Group, theme: Theme) -> Group:
    """A group with a heavier outline."""
    shapes: list[Shape] = [
        replace(s, weight=s.weight * 2.2, dash=()) if isinstance(s, (Rect, Ellipse)) and i == 0 else s
        for i, s in enumerate(group.shapes)
    ]
    return replace(group, shapes=shapes)


@dataclass(frozen=True)
class _Fit:
    """A picture scaled and centred into the frame's space."""

    scale: float
    dx: float
    dy: float

    @staticmethod
    def of(scene: Scene, theme: Theme) -> _Fit:
        top = _EDGE * 1.6
        room = WIDTH - 2 * _EDGE, HEIGHT - top - _FOOT
        scale = min(room[0] / scene.width, room[1] / scene.height, 1.6)
        return _Fit(
            scale, (WIDTH - scene.width * scale) / 2, top + (room[1] - scene.height * scale) / 2
        )

    def place(self, group: Group) -> Group:
        return replace(group, shapes=[scaled(s, self.scale, self.dx, self.dy) for s in group.shapes])


def _furniture(theme: Theme, step: Step, number: int, count: int, title: str) -> list[Group]:
    """The sentence below, the frame's number, the title and a line that shows how far the story is."""
    size = 22.0
    while size > 13.0 and max(text_width(line, "sans", size) for line in _wrapped(step.sentence, size)) > WIDTH - 2 * _EDGE:
        size -= 1.0
    lines = _wrapped(step.sentence, size)
    ink = theme.backward_text if step.side == "backward" else theme.forward
    shapes: list[Shape] = [
        Text(_EDGE, HEIGHT - _FOOT + 32 + i * size * 1.3, line, size, "sans", theme.text) for i, line in enumerate(lines[:2])
    ]
    label = f"{number} / {count}"
    shapes.append(Text(WIDTH - _EDGE - text_width(label, "mono", 15), 34, label, 15.0, "mono", theme.faint))
    if title:
        shapes.append(Text(_EDGE, 38, title, 24.0, "bold", theme.text))
    else:
        shapes.append(Text(_EDGE, 36, step.side, 20.0, "bold", ink))
    done = (WIDTH - 2 * _EDGE) * number / count
    shapes.append(Rect(_EDGE, HEIGHT - _FOOT, WIDTH - 2 * _EDGE, 2.5, 1.0, theme.cluster_fill, theme.cluster, 0.4))
    shapes.append(Rect(_EDGE, HEIGHT - _FOOT, done, 2.5, 1.0, ink, ink, 0.1))
    return [Group("furniture", "caption", "", shapes)]


def _wrapped(text: str, size: float) -> list[str]:
    """The sentence on one line, or on two where it is long."""
    room = WIDTH - 2 * _EDGE
    if text_width(text, "sans", size) <= room:
        return [text]
    words = text.split(" ")
    first: list[str] = []
    while words and text_width(" ".join([*first, words[0]]), "sans", size) <= room:
        first.append(words.pop(0))
    return [" ".join(first), " ".join(words)] if first and words else [text]


# --- formats -------------------------------------------------------------------------------------------------------


def _pdf(made: Sequence[Frame]) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import PdfPages

    data = io.BytesIO()
    metadata = {"CreationDate": None, "Title": made[0].scene.title}
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(data, metadata=metadata) as pages:  # read when the file is closed
        for frame in made:
            with scene_figure(frame.scene) as figure:
                pages.savefig(figure, facecolor=frame.scene.background)
    return data.getvalue()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
html, body {{ margin: 0; height: 100%; background: {background}; color: {text}; font: 16px sans-serif }}
main {{ height: 100%; display: grid; place-items: center }}
section {{ display: none; width: min(100vw, 177.78vh) }}
section.on {{ display: block }}
section svg {{ display: block; width: 100% !important; max-width: none !important }}
nav {{ position: fixed; right: 1rem; bottom: .6rem; display: flex; gap: .3rem }}
button {{ font: inherit; padding: .2rem .7rem; border: 1px solid {faint}; border-radius: .4rem; background: transparent; color: inherit }}
button:focus-visible {{ outline: 3px solid {accent}; outline-offset: 2px }}
.said {{ position: absolute; left: -9999px }}
@media print {{ @page {{ size: 1280px 720px; margin: 0 }} nav {{ display: none }} main {{ display: block }}
  section {{ display: block; width: 100%; break-after: page }} }}
</style></head><body><main>
{sections}
</main><nav aria-label="slides"><button id="first" aria-label="first">⏮</button><button id="back" aria-label="back">◀</button>
<button id="next" aria-label="next">▶</button><button id="last" aria-label="last">⏭</button></nav>
<p class="said" role="status" aria-live="polite"></p>
<script>
const said = {sentences}, all = [...document.querySelectorAll("section")], live = document.querySelector(".said");
let at = Math.min(Math.max((parseInt(location.hash.slice(1)) || 1) - 1, 0), all.length - 1);
function show(k) {{
  at = Math.min(Math.max(k, 0), all.length - 1);
  all.forEach((s, i) => s.classList.toggle("on", i === at));
  live.textContent = said[at];
  history.replaceState(null, "", "#" + (at + 1));
}}
const go = {{ first: () => show(0), back: () => show(at - 1), next: () => show(at + 1), last: () => show(all.length - 1) }};
for (const [id, act] of Object.entries(go)) document.getElementById(id).onclick = act;
const keys = {{ ArrowRight: go.next, ArrowDown: go.next, PageDown: go.next, " ": go.next, ArrowLeft: go.back, ArrowUp: go.back,
  PageUp: go.back, Home: go.first, End: go.last }};
addEventListener("keydown", e => {{
  const act = keys[e.key];
  if (!act || e.ctrlKey || e.metaKey || e.altKey || (e.key === " " && e.target.tagName === "BUTTON")) return;
  e.preventDefault(); act();
}});
show(at);
</script></body></html>
"""


def _deck(made: Sequence[Frame], title: str, theme: Theme) -> str:
    """One self-contained HTML file; without scripts, or printed, it shows all frames."""
    sections = "\n".join(
        f'<section aria-label="step {k} of {len(made)}">{scene_to_svg(frame.scene)}</section>'
        for k, frame in enumerate(made, 1)
    )
    sentences = json.dumps([f.sentence for f in made]).replace("<", "\\u003c")
    noscript = "<noscript><style>section { display: block }</style></noscript>"
    return _PAGE.format(
        title=escape(title), background=theme.background, text=theme.text, faint=theme.faint, accent=theme.forward,
        sections=noscript + sections, sentences=sentences,
    )  # fmt: skip
