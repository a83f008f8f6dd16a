"""A scene as SVG: self-contained, scalable, accessible, safe to embed several times on one page.

What enters: a scene. What leaves: SVG text. Invariants: every text and attribute is escaped; every id starts with a hash of the
drawing; there is a viewBox and no fixed size, a title, a description and ``role="img"``; no script, no style sheet, no link.
"""

from __future__ import annotations

import hashlib
import re
from html import escape

from viz.fonts import FAMILIES
from viz.scene import Curve, Ellipse, Glyphs, Grid, Group, Polygon, Rect, Scene, Shape, Text

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def scene_to_svg(scene: Scene) -> str:
    """The scene as one SVG element."""
    body = [_group(g) for g in scene.groups]
    prefix = (
        "g"
        + hashlib.sha256("".join([scene.title, scene.description, *body]).encode("utf-8", "replace")).hexdigest()[:8]
    )
    w, h = _n(scene.width), _n(scene.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="100%" '
        f'style="max-width:{w}px;height:auto;direction:ltr" role="img" aria-labelledby="{prefix}-title {prefix}-desc">',
        f'<title id="{prefix}-title">{_text(scene.title)}</title>',
        f'<desc id="{prefix}-desc">{_text(scene.description)}</desc>',
        f'<rect width="{w}" height="{h}" fill="{scene.background}"/>',
        *(line.replace('id="@', f'id="{prefix}-') for line in body),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", value), quote=True)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _group(group: Group) -> str:
    tip = f"<title>{_text(group.tooltip)}</title>" if group.tooltip else ""
    return f'<g id="@{group.id}" class="{group.kind}">{tip}{"".join(_shape(s) for s in group.shapes)}</g>'


def _paint(fill: str, stroke: str, weight: float, dash: tuple[float, ...]) -> str:
    dashes = f' stroke-dasharray="{" ".join(_n(d) for d in dash)}"' if dash else ""
    return f'fill="{fill}" stroke="{stroke}" stroke-width="{_n(weight)}"{dashes}'


def _points(points: tuple[tuple[float, float], ...]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _shape(shape: Shape) -> str:
    match shape:
        case Rect():
            paint = _paint(shape.fill, shape.stroke, shape.weight, shape.dash)
            return (
                f'<rect x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" height="{_n(shape.height)}" '
                f'rx="{_n(shape.radius)}" {paint}/>'
            )
        case Ellipse():
            paint = _paint(shape.fill, shape.stroke, shape.weight, shape.dash)
            return f'<ellipse cx="{_n(shape.x)}" cy="{_n(shape.y)}" rx="{_n(shape.rx)}" ry="{_n(shape.ry)}" {paint}/>'
        case Curve():
            path = f"M{_points(shape.points[:1])} C{_points(shape.points[1:])}"
            return f'<path d="{path}" {_paint("none", shape.stroke, shape.weight, shape.dash)}/>'
        case Polygon():
            return f'<polygon points="{_points(shape.points)}" fill="{shape.fill}"/>'
        case Text():
            return _label(shape)
        case Grid():
            return _grid(shape)
        case Glyphs():
            data = " ".join(_tight(p) for p in shape.paths)
            scale = f" scale({shape.scale:.4g})" if shape.scale != 1.0 else ""
            return (
                f'<path transform="translate({_n(shape.x)} {_n(shape.y)}){scale}" fill="{shape.fill}" role="img" '
                f'aria-label="{_text(shape.text)}" d="{data}"/>'
            )
    raise AssertionError(shape)


def _grid(shape: Grid) -> str:
    """Cells of one colour are one path."""
    by_colour: dict[str, list[str]] = {}
    side = _n(shape.side)
    for i, row in enumerate(shape.rows):
        for k, colour in enumerate(row):
            corner = f"M{_n(shape.x + k * shape.side)} {_n(shape.y + i * shape.side)}"
            by_colour.setdefault(colour, []).append(f"{corner}h{side}v{side}h-{side}z")
    width, height = shape.side * max(len(r) for r in shape.rows), shape.side * len(shape.rows)
    cells = "".join(f'<path d="{"".join(paths)}" fill="{colour}"/>' for colour, paths in by_colour.items())
    return (
        f'<g role="img" aria-label="{_text(shape.text)}" shape-rendering="crispEdges">{cells}<rect x="{_n(shape.x)}" '
        f'y="{_n(shape.y)}" width="{_n(width)}" height="{_n(height)}" fill="none" stroke="{shape.stroke}" stroke-width="0.6"/></g>'
    )


def _label(shape: Text) -> str:
    style = {"bold": ' font-weight="bold"', "italic": ' font-style="italic"'}.get(shape.font, "")
    return (
        f'<text x="{_n(shape.x)}" y="{_n(shape.y)}" font-family="{FAMILIES[shape.font]}" font-size="{_n(shape.size)}"{style} '
        f'fill="{shape.fill}" xml:space="preserve">{_text(shape.text)}</text>'
    )


def _tight(path: str) -> str:
    """Path data with two decimals: a third of the bytes, a hundredth of a pixel."""
    return re.sub(r"-?\d+\.\d+", lambda m: _n(float(m[0])), path)
