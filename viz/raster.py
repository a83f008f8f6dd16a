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
from viz.fonts import char_width, has_sign
from viz.scene import Curve, Ellipse, Glyphs, Grid, Polygon, Rect, Scene, Shape, Text

if TYPE_CHECKING:
    from matplotlib.path import Path

_PIXELS = 16_000  # longest side of a PNG
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WIDE = ("Noto Sans", "WenQuanYi", "Hiragino", "Microsoft YaHei", "Segoe UI", "Arial Unicode MS", "Unifont", "FreeSans")
_STANDS_IN = "□"  # for a sign that no installed font has


def scene_to_bytes(scene: Scene, kind: str, scale: float = 2.0) -> bytes:
    """The scene as "png" (``scale`` pixels a unit) or "pdf" (vectors, fonts embedded).

    Raises:
        DrawError: matplotlib is not installed.
    """
    scale = min(scale, _PIXELS / max(scene.width, scene.height))
    title, description = (_NOT_XML.sub("\ufffd", text) for text in (scene.title, scene.description))
    out = io.BytesIO()
    with scene_figure(scene, scale) as figure:
        metadata = {"Title": title} if kind == "pdf" else {"Title": title, "Description": description}
        if kind == "pdf":
            metadata |= {"CreationDate": None, "Subject": description[:500]}  # type: ignore[dict-item]
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
    _warn_of_missing(scene)
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
            text, upright, others = _with_signs(shape.text, shape.font)
            family = ["DejaVu Sans Mono" if shape.font == "mono" else "DejaVu Sans", *others]
            return MplText(
                shape.x, shape.y, text, fontsize=shape.size, color=shape.fill, family=family, parse_math=False,
                weight="bold" if shape.font == "bold" else "normal", style="italic" if shape.font == "italic" and not upright else "normal",
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


@lru_cache(maxsize=4096)
def _with_signs(text: str, role: str) -> tuple[str, bool, tuple[str, ...]]:
    """What can be drawn of a text, whether only the upright face has it, and the fonts that it takes beside the first."""
    lacking = {c for c in text if not has_sign(c, role)}
    if not lacking:
        return text, False, ()
    upright = role == "italic" and all(has_sign(c, "sans") for c in lacking)
    fonts: dict[str, None] = {}
    shown = []
    for c in text:
        font = None if has_sign(c, role) or has_sign(c, "sans") else _font_with(c)
        if font:
            fonts[font] = None
        if c not in lacking or has_sign(c, "sans") or font:
            shown.append(c)
        elif char_width(c, role):  # marks and joiners of signs that are missing go with them
            shown.append(_STANDS_IN)
    return "".join(shown), upright, ("DejaVu Sans", *fonts)


def _warn_of_missing(scene: Scene) -> None:
    """Say once a picture which signs stand as empty squares; an SVG has them, because its viewer's fonts do."""
    texts = (s for g in scene.groups for s in g.shapes if isinstance(s, Text))
    lost = {c: None for s in texts if _STANDS_IN in _with_signs(s.text, s.font)[0] for c in s.text
            if not has_sign(c, "sans") and char_width(c, "sans") and not _font_with(c)}  # fmt: skip
    if lost:
        signs = "".join(list(lost)[:12])
        warnings.warn(f"no installed font has {signs}: squares stand for them; install a Noto Sans font, or write .svg", stacklevel=4)


@lru_cache(maxsize=4096)
def _font_with(char: str) -> str:
    """The name of an installed font that has a character, or ""."""
    return next((name for name, file in _installed_fonts() if ord(char) in _signs_of(file)), "")


@lru_cache(maxsize=1)
def _installed_fonts() -> tuple[tuple[str, str], ...]:
    """Names and files of fonts for the world's scripts, in the order of preference."""
    from matplotlib import font_manager

    known = {f.name: f.fname for f in font_manager.fontManager.ttflist if f.style == "normal"}
    return tuple((name, known[name]) for start in _WIDE for name in sorted(known) if name.startswith(start))


@lru_cache(maxsize=64)
def _signs_of(file: str) -> frozenset[int]:
    from fontTools.ttLib import TTFont, TTLibError  # type: ignore[import-untyped]

    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ()) if "glyf" in font or "CFF " in font else frozenset()
    except (OSError, TTLibError):  # a broken font file has no signs
        return frozenset()


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
