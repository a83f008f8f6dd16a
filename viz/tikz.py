r"""A scene as TikZ, for slides and papers set with LaTeX.

What enters: a scene. What leaves: a ``tikzpicture`` (a whole document with ``standalone=True``) with the geometry of the SVG, in
points. Invariants: text is escaped; formulas are paths, so that no maths package is needed; it compiles with pdfLaTeX,
LuaLaTeX and XeLaTeX and the packages tikz (with ``svg.path``) and lmodern alone. ::

    \begin{tikzpicture}[x=1pt, y=-1pt] \draw[...] (0,0) .. controls (1,0) and (2,0) .. (3,0); ... \end{tikzpicture}

Signs that pdfLaTeX's fonts lack become their LaTeX commands; letters that it lacks are set by LuaLaTeX and XeLaTeX, and "?" there.
"""

from __future__ import annotations

from collections.abc import Sequence

from viz.fonts import FAMILIES, text_width
from viz.scene import Curve, Ellipse, Glyphs, Grid, Group, Polygon, Rect, Scene, Shape, Text

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "−": r"\ensuremath{-}", "×": r"\ensuremath{\times}", "·": r"\ensuremath{\cdot}",
    "∂": r"\ensuremath{\partial}", "…": r"\ldots{}", "±": r"\ensuremath{\pm}", "‖": r"\ensuremath{\Vert}",
    "←": r"\ensuremath{\leftarrow}", "→": r"\ensuremath{\rightarrow}", "x̄": r"\ensuremath{\bar{x}}", "∞": r"\ensuremath{\infty}",
}  # fmt: skip
_FONTS = {"sans": r"\sffamily", "bold": r"\sffamily\bfseries", "italic": r"\sffamily\itshape", "mono": r"\ttfamily"}
assert _FONTS.keys() == FAMILIES.keys()

_HEAD = r"""\documentclass[tikz,border=0pt]{standalone}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usetikzlibrary{svg.path}
\begin{document}
"""
_UNICODE = r"\providecommand\gcuni[1]{\ifdefined\XeTeXversion#1\else\ifdefined\luatexversion#1\else?\fi\fi}"
_TAIL = "\\end{document}\n"


def scene_to_tikz(scene: Scene, *, standalone: bool = True) -> str:
    """The scene as TikZ code.

    Args:
        standalone: a whole document; else the picture alone, for ``\\input`` into one that loads tikz and svg.path.
    """
    colours = _Colours()
    body = [line for group in scene.groups for line in _group(group, colours)]
    background = colours.name(scene.background)
    w, h = _n(scene.width), _n(scene.height)
    lines = [
        f"% {_comment(scene.title)}",
        f"% {_comment(scene.description)}",
        _UNICODE,
        *colours.definitions(),
        r"\begin{tikzpicture}[x=1pt, y=-1pt, line cap=butt]",
        rf"\useasboundingbox[fill={background}] (0,0) rectangle ({w},{h});",
        *body,
        r"\end{tikzpicture}",
    ]
    text = "\n".join(lines) + "\n"
    return document([text]) if standalone else text


def document(pictures: Sequence[str]) -> str:
    """A LaTeX document with one picture a page."""
    return _HEAD + "\n".join(pictures) + _TAIL


class _Colours:
    """Colours by name, defined once each."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def name(self, colour: str) -> str:
        return self.names.setdefault(colour.upper(), f"gc{len(self.names)}")

    def definitions(self) -> list[str]:
        return [rf"\definecolor{{{name}}}{{HTML}}{{{colour.lstrip('#')}}}" for colour, name in self.names.items()]


def _n(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _comment(text: str) -> str:
    return " ".join(text.split())


def escape(text: str) -> str:
    r"""Text as LaTeX source that shows exactly it.

    >>> escape("a_b & 50%"), escape("∂ mul")
    ('a\\_b \\& 50\\%', '\\ensuremath{\\partial} mul')
    """
    out, at = [], 0
    while at < len(text):
        pair = text[at : at + 2]
        if pair in _ESCAPES:
            out.append(_ESCAPES[pair])
            at += 2
            continue
        char = text[at]
        plain = ord(char) < 0x250 and char.isprintable()
        out.append(_ESCAPES.get(char) or (char if plain else rf"\gcuni{{{char}}}"))
        at += 1
    return "".join(out)


def _group(group: Group, colours: _Colours) -> list[str]:
    left = group.kind in ("caption", "legend", "cluster")  # other text is centred: LaTeX's fonts are narrower than ours
    return [
        line
        for shape in group.shapes
        for line in (_text(shape, colours, left) if isinstance(shape, Text) else _shape(shape, colours))
    ]


def _dash(dash: tuple[float, ...]) -> str:
    if not dash:
        return ""
    parts = " ".join(f"{'on' if k % 2 == 0 else 'off'} {_n(d)}pt" for k, d in enumerate(dash))
    return f", dash pattern={parts}"


def _paint(fill: str, stroke: str, weight: float, dash: tuple[float, ...], colours: _Colours) -> str:
    inside = f", fill={colours.name(fill)}" if fill != "none" else ""
    return f"draw={colours.name(stroke)}{inside}, line width={_n(weight)}pt{_dash(dash)}"


def _shape(shape: Shape, colours: _Colours) -> list[str]:
    match shape:
        case Rect():
            paint = _paint(shape.fill, shape.stroke, shape.weight, shape.dash, colours)
            corner = f"({_n(shape.x + shape.width)},{_n(shape.y + shape.height)})"
            return [rf"\path[{paint}, rounded corners={_n(shape.radius)}pt] ({_n(shape.x)},{_n(shape.y)}) rectangle {corner};"]
        case Ellipse():
            paint = _paint(shape.fill, shape.stroke, shape.weight, shape.dash, colours)
            return [rf"\path[{paint}] ({_n(shape.x)},{_n(shape.y)}) ellipse [x radius={_n(shape.rx)}, y radius={_n(shape.ry)}];"]
        case Curve():
            paint = f"draw={colours.name(shape.stroke)}, line width={_n(shape.weight)}pt{_dash(shape.dash)}"
            points = [f"({_n(x)},{_n(y)})" for x, y in shape.points]
            pieces = [
                f".. controls {points[k]} and {points[k + 1]} .. {points[k + 2]}" for k in range(1, len(points) - 2, 3)
            ]
            return [rf"\path[{paint}] {points[0]} {' '.join(pieces)};"]
        case Polygon():
            points = [f"({_n(x)},{_n(y)})" for x, y in shape.points]
            return [rf"\fill[{colours.name(shape.fill)}] {' -- '.join(points)} -- cycle;"]
        case Glyphs():
            place = f"shift={{({_n(shape.x)},{_n(shape.y)})}}, scale={shape.scale:.4g}"
            fill = colours.name(shape.fill)
            # svg.path draws upwards; yscale turns it over
            return [rf"\fill[{fill}, {place}, yscale=-1] svg {{{_closed(p)}}};" for p in shape.paths]
        case Grid():
            return _grid(shape, colours)
    raise AssertionError(shape)


def _text(shape: Text, colours: _Colours, left: bool) -> list[str]:
    size = _n(shape.size)
    font = rf"\fontsize{{{size}}}{{{size}}}\selectfont{_FONTS[shape.font]}"
    x = shape.x if left else shape.x + text_width(shape.text, shape.font, shape.size) / 2
    anchor = "base west" if left else "base"
    style = f"anchor={anchor}, inner sep=0, text={colours.name(shape.fill)}, font={{{font}}}"
    return [rf"\node[{style}] at ({_n(x)},{_n(shape.y)}) {{{escape(shape.text)}}};"]


def _closed(path: str) -> str:
    return " ".join(path.split())


def _grid(shape: Grid, colours: _Colours) -> list[str]:
    lines = []
    for i, row in enumerate(shape.rows):
        for k, colour in enumerate(row):
            x, y = shape.x + k * shape.side, shape.y + i * shape.side
            corner = f"({_n(x + shape.side)},{_n(y + shape.side)})"
            lines.append(rf"\fill[{colours.name(colour)}] ({_n(x)},{_n(y)}) rectangle {corner};")
    return lines
