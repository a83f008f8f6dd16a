"""Draw: from anything that has a picture to a file or a string.

What enters: see :mod:`viz.adapt`. What leaves: svg, png, pdf, dot or TikZ. Invariant: drawing needs no program outside of Python's
packages, and never fails for want of an engine. ::

    graphc.draw(loss, "backprop.svg", backward=True)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphc.errors import DrawError
from viz.adapt import diagram_of
from viz.dot import to_dot
from viz.flow import add_legend
from viz.labels import measure
from viz.layout import Layout, place
from viz.model import Diagram
from viz.raster import scene_to_bytes
from viz.scene import Scene, build_scene
from viz.svg import scene_to_svg
from viz.theme import Theme, theme_of
from viz.tikz import scene_to_tikz

SUFFIXES = (".svg", ".png", ".pdf", ".dot", ".tex")
SUFFIXES_OF_SCENES = (".svg", ".png", ".pdf", ".tex")


def draw(
    what: Any, path: str | os.PathLike[str] | None = None, *, backward: Any = False, wrt: Any = None, level: str = "ops",
    theme: str = "light", direction: str | None = None, name: str | None = None, notation: str = "bar", values: Any = None,
    flow: bool = False,
) -> str | None:  # fmt: skip
    """Draw a graph, to a file by its suffix (.svg, .png, .pdf, .dot, .tex) or as SVG text.

    Args:
        what: a value, a dict of values, a Graph, a Stage of a trace, a Program, a fusion or a LoopProgram.
        path: where to write; None returns the SVG.
        backward: True draws the backward graph as a mirror beside the forward one; or a mapping node -> gradient, or a Graph
            whose outputs are gradients named after inputs and parameters.
        wrt: what to differentiate with respect to; all trainable parameters unless said, or else all float inputs.
        level: "layers" gives each layer one box and folds layers that repeat ("×4"); "ops" folds broadcasts away and gives each
            op's backward part one box; "primitives" shows all; "kernels" what is launched, of a Program or a graph without
            open sizes.
        notation: of gradients, "bar" (x̄) or "leibniz" (∂L/∂x).
        values: input name -> array: runs the graph and shows every value (a number, or mean, spread, range and a heat map), with
            ``backward`` also every gradient, the chain rule with its numbers, and contributions on edges as wide as their norm.
        flow: with ``backward`` and ``values``: backward edges are coloured by the norm of the gradient beside that at the loss, on a scale
            in powers of ten, to see where it vanishes or explodes.
        theme: "light", "dark", "projector" or "print". direction: "LR" or "TB"; by size unless said. name: of the picture.

    Returns:
        The SVG if ``path`` is None, else None.

    Raises:
        InputError: ``values`` do not fit the inputs.
        DrawError: it cannot be drawn, an unknown suffix, a folder that cannot be written.
        DifferentiationError: with ``backward=True``, a path without a derivative.

    >>> from graphc import ops
    >>> a, b = ops.input("a"), ops.input("b")
    >>> svg = draw(ops.tanh(a * b), backward=True)
    >>> svg.startswith("<svg"), "chain rule through tanh" in svg
    (True, True)
    """
    suffix = suffix_of(path)
    colours = theme_of(theme)
    diagram = diagram_of(what, backward=backward, wrt=wrt, level=level, direction=direction, name=name,
                         notation=notation, values=values, flow=flow)  # fmt: skip
    scene, layout = scene_of(diagram, colours)
    if path is not None and suffix == ".dot":
        write_file(Path(path), to_dot(diagram, layout, colours).encode("utf-8", "replace"))
        return None
    return write_scene(scene, path)


def write_scene(scene: Scene, path: str | os.PathLike[str] | None) -> str | None:
    """A scene to a file by its suffix (.svg, .png, .pdf, .tex), or as SVG text where there is no path.

    Raises:
        DrawError: another suffix, or a place that cannot be written.
    """
    if path is None:
        return scene_to_svg(scene)
    match suffix_of(path, SUFFIXES_OF_SCENES):
        case ".svg":
            data = scene_to_svg(scene).encode()
        case ".tex":
            data = scene_to_tikz(scene).encode("utf-8", "replace")
        case suffix:
            data = scene_to_bytes(scene, suffix[1:])
    write_file(Path(path), data)
    return None


def to_svg(what: Any, **options: Any) -> str:
    """The SVG text; options as of :func:`draw`."""
    text = draw(what, None, **options)
    assert text is not None
    return text


def scene_of(diagram: Diagram, theme: Theme) -> tuple[Scene, Layout]:
    """Measure, place and dress a diagram."""
    labels = {box.id: measure(box, theme) for box in diagram.boxes.values()}
    layout = place(diagram, {k: (v.width, v.height) for k, v in labels.items()}, theme.size)
    scene = build_scene(diagram, layout, labels, theme)
    if diagram.decades is not None:
        add_legend(scene, diagram.decades, theme)
    return scene, layout


def suffix_of(path: str | os.PathLike[str] | None, known: Sequence[str] = SUFFIXES) -> str:
    """The suffix of a picture's file, ".svg" without one.

    Raises:
        DrawError: it is not among the known ones.
    """
    if path is None:
        return ".svg"
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise DrawError(f"{Path(path).name}: pictures are not written as {suffix or 'a file without a suffix'}",
                        help=f"choose one of {', '.join(known)}")  # fmt: skip
    return suffix


def write_file(path: Path, data: bytes) -> None:
    """Write a picture.

    Raises:
        DrawError: the place cannot be written; says what to do.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise DrawError(
            f"{path} cannot be written: {error.strerror or error}",
            help="name a file in a folder that exists and can be written",
        ) from error
