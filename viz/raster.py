"""A scene as PNG or PDF through matplotlib, with the geometry of the SVG.

What enters: a scene. What leaves: bytes. Invariant: no global state of matplotlib is touched (no pyplot), names are never read
as formulas, and a missing glyph is no warning.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from graphc.errors import DrawError
from viz.scene import Curve, Ellipse, Glyphs, Grid, Polygon, Rect, Scene, Shape, Text

if TYPE_CHECKING:
    from matplotlib.path import Path

_PIXELS = 16_000  # longest side of a PNG
_CJK = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
)


def scene_to_bytes(scene: Scene, kind: str, scale: float = 2.0) -> bytes:
    """The scene as "png" (``scale`` pixels a unit) or "pdf" (vectors, fonts embedded).

    Raises:
        DrawError: matplotlib is not installed.
    """
    scale = min(scale, _PIXELS / max(scene.width, scene.height))
    out = io.BytesIO()
    with scene_figure(scene, scale) as figure:
        metadata = {"Title": scene.title} if kind == "pdf" else {"Title": scene.title, "Description": scene.description}
        if kind == "pdf":
            metadata |= {"CreationDate": None, "Subject": scene.description[:500]}  # type: ignore[dict-item]
        figure.savefig(out, format=kind, dpi=72 * scale, metadata=metadata, facecolor=scene.background)
    return out.getvalue()


@contextmanager
def scene_figure(scene: Scene, scale: float = 1.0) -> Iterator[Any]:
    """The scene as a matplotlib figure of its own size, to be saved inside of the block.

    Raises:
        DrawError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DrawError(
            "png and pdf need matplotlib, which is not installed", help="write .svg, or install matplotlib"
        ) from error
    figure = Figure(figsize=(scene.width / 72, scene.height / 72), dpi=72 * scale, facecolor=scene.background)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    for group in scene.groups:
        for shape in group.shapes:
            axes.add_artist(_grid(shape) if isinstance(shape, Grid) else _artist(shape))
    with warnings.catch_warnings(), mpl.rc_context({"pdf.fonttype": 42}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield figure


def _artist(shape: Shape) -> Any:
    from matplotlib import patches
    from matplotlib.path import Path
    from matplotlib.text import Text as MplText

    match shape:
        case Rect():
            box = patches.FancyBboxPatch(
                (shape.x, shape.y), shape.width, shape.height, mutation_aspect=1,
                boxstyle=patches.BoxStyle.Round(pad=0, rounding_size=shape.radius), **_paint(shape),
            )  # fmt: skip
            return box
        case Ellipse():
            return patches.Ellipse((shape.x, shape.y), 2 * shape.rx, 2 * shape.ry, **_paint(shape))
        case Curve():
            codes = [Path.MOVETO] + [Path.CURVE4] * (len(shape.points) - 1)
            return patches.PathPatch(
                Path(list(shape.points), codes), fill=False, edgecolor=shape.stroke, linewidth=shape.weight,
                linestyle=_dash(shape), capstyle="butt",
            )  # fmt: skip
        case Polygon():
            return patches.Polygon(list(shape.points), closed=True, facecolor=shape.fill, linewidth=0)
        case Glyphs():
            return patches.PathPatch(_glyph_path(shape), facecolor=shape.fill, linewidth=0)
        case Text():
            family = ["DejaVu Sans Mono" if shape.font == "mono" else "DejaVu Sans", *_wide_fonts(shape.text)]
            return MplText(
                shape.x, shape.y, shape.text, fontsize=shape.size, color=shape.fill, family=family, parse_math=False,
                weight="bold" if shape.font == "bold" else "normal", style="italic" if shape.font == "italic" else "normal",
                verticalalignment="baseline", horizontalalignment="left",
            )  # fmt: skip
    raise AssertionError(shape)


def _grid(shape: Grid) -> Any:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    squares, colours = [], []
    for i, row in enumerate(shape.rows):
        for k, colour in enumerate(row):
            squares.append(Rectangle((shape.x + k * shape.side, shape.y + i * shape.side), shape.side, shape.side))
            colours.append(colour)
    width, height = shape.side * max(len(r) for r in shape.rows), shape.side * len(shape.rows)
    squares.append(Rectangle((shape.x, shape.y), width, height))
    colours.append("none")
    edges = [*colours[:-1], shape.stroke]
    return PatchCollection(squares, facecolors=colours, edgecolors=edges, linewidths=[0.2] * (len(edges) - 1) + [0.6])


def _paint(shape: Rect | Ellipse) -> dict[str, Any]:
    return {
        "facecolor": shape.fill, "edgecolor": shape.stroke, "linewidth": shape.weight, "linestyle": _dash(shape),
    }  # fmt: skip


def _dash(shape: Rect | Ellipse | Curve) -> Any:
    """Dash lengths in units of the line's width, as matplotlib wants them."""
    return (0, tuple(d / shape.weight for d in shape.dash)) if shape.dash else "solid"


def _wide_fonts(text: str) -> tuple[str, ...]:
    return _installed_wide_fonts() if any(ord(c) > 0x2E80 for c in text) else ()


@lru_cache(maxsize=1)
def _installed_wide_fonts() -> tuple[str, ...]:
    from matplotlib import font_manager

    known = {f.name for f in font_manager.fontManager.ttflist}
    return tuple(name for name in _CJK if name in known)


_TOKEN = re.compile(r"[A-Za-z]|-?\d*\.?\d+(?:[eE][-+]?\d+)?")
_ARITY = {"M": 1, "L": 1, "Q": 2, "C": 3, "Z": 0}


def _glyph_path(shape: Glyphs) -> Path:
    """SVG path data (absolute M, L, H, V, Q, C, Z) as a matplotlib path at the formula's place."""
    from matplotlib.path import Path

    vertices: list[tuple[float, float]] = []
    codes: list[Any] = []
    k = shape.scale
    kinds = {"M": Path.MOVETO, "L": Path.LINETO, "Q": Path.CURVE3, "C": Path.CURVE4}
    for data in shape.paths:
        tokens = _TOKEN.findall(data)
        at, command = 0, "M"
        last = (0.0, 0.0)
        while at < len(tokens):
            if tokens[at].isalpha():
                command, at = tokens[at], at + 1
            if command == "Z":
                vertices.append((shape.x, shape.y))
                codes.append(Path.CLOSEPOLY)
                continue
            if command in "HV":
                value, at = float(tokens[at]), at + 1
                last = (value, last[1]) if command == "H" else (last[0], value)
                vertices.append((shape.x + k * last[0], shape.y + k * last[1]))
                codes.append(Path.LINETO)
                continue
            for _ in range(_ARITY[command]):
                last = float(tokens[at]), float(tokens[at + 1])
                at += 2
                vertices.append((shape.x + k * last[0], shape.y + k * last[1]))
                codes.append(kinds[command])
    return Path(vertices, codes)
