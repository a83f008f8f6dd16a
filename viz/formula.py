r"""Formulas: LaTeX in, outlines out (or plain Unicode where an outline cannot be made).

What enters: LaTeX of the small kind that ops declare. What leaves: a :class:`Formula` with its size and its outlines, drawn
with ziamath, or with ``text`` alone. Invariant: a formula is never lost; whatever ziamath cannot set is shown as Unicode.

>>> unicode_formula(r"\frac{1}{2}\,\bar{y} \cdot W^\top")
'1/2 ȳ · Wᵀ'
"""

from __future__ import annotations

import re
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import lru_cache

from viz.fonts import text_width


@dataclass(frozen=True)
class Formula:
    """A formula of one line.

    Attributes:
        text: the formula in Unicode, for tooltips, screen readers and where there are no outlines.
        width, height: in pixels. ascent: the baseline's distance from the top.
        paths: SVG path data relative to the left end of the baseline; empty if the text is to be shown.
    """

    text: str
    width: float
    height: float
    ascent: float
    size: float
    paths: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def typeset(latex: str, size: float) -> Formula:
    """Set a formula at a type size in pixels."""
    text = unicode_formula(latex)
    outlines = _outlines(latex, size)
    if outlines is None:
        return Formula(text, text_width(text, "italic", size), size * 1.25, size, size)
    paths, (left, top, width, height) = outlines
    return Formula(text, width + left, height, -top, size, paths)


def _outlines(latex: str, size: float) -> tuple[tuple[str, ...], tuple[float, float, float, float]] | None:
    try:
        import ziamath
    except ImportError:
        return None
    if not all(c.isascii() or _has_sign(c) for c in latex):
        return None  # Hebrew, Chinese, emoji: the viewer's fonts have them, the mathematical one does not
    before = ziamath.config.svg2
    ziamath.config.svg2 = False  # outlines in place instead of shared symbols, whose ids would clash on a page
    try:
        tree = ET.fromstring(ziamath.Math(_mathml(latex), size=size).svg())
        paths = tuple(p for element in tree.iter() for p in _path_of(element))
        left, top, width, height = (float(v) for v in tree.attrib["viewBox"].split())
    except Exception:  # a parser of a language this large fails in many ways; the Unicode form is always there
        return None
    finally:
        ziamath.config.svg2 = before
    if not paths:
        return None
    return paths, (left, top, width, height)


_ALONE = ("mi", "mn", "mrow", "mover", "msub", "mfrac")  # not operators: a row around one takes away its spaces


def _mathml(latex: str) -> ET.Element:
    """The formula as MathML without rows around one thing: the setter sets what is in a row twice, so nested rows cost 2^depth."""
    from ziamath.tex import tex2mml

    math = ET.fromstring(tex2mml(latex, inline=False))
    for element in [math, *math.iter()]:
        for place, child in enumerate(list(element)):
            while _name(child) == "mrow" and len(child) == 1 and not child.attrib and _name(child[0]) in _ALONE:
                child = child[0]
            element[place] = child
    rows = list(math)
    if len(rows) == 1 and _name(rows[0]) == "mrow" and not rows[0].attrib:
        math[:] = list(rows[0])
    return math


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


@lru_cache(maxsize=4096)
def _has_sign(char: str) -> bool:
    """Whether the mathematical font has a character; marks over a name are drawn as bars by themselves."""
    import ziamath

    return unicodedata.category(char) not in ("Mn", "Me") and ziamath.Latex("a").font.glyphindex(char) != 0


def _path_of(element: ET.Element) -> list[str]:
    tag = element.tag.rpartition("}")[2]
    if tag == "path":
        return [element.attrib["d"]]
    if tag == "rect":
        x, y, w, h = (float(element.attrib[k]) for k in ("x", "y", "width", "height"))
        return [f"M {x:.3f} {y:.3f} L {x + w:.3f} {y:.3f} L {x + w:.3f} {y + h:.3f} L {x:.3f} {y + h:.3f} Z"]
    return []


# --- names as LaTeX ------------------------------------------------------------------------------------------------

_SPECIAL = {c: "\\" + c for c in "#$%&_{}"} | {"\\": r"\backslash ", "^": r"\wedge ", "~": r"\sim "}


def latex_name(name: str) -> str:
    r"""A user's name as LaTeX: a letter stays italic, a trailing number becomes an index, words are upright.

    >>> latex_name("x"), latex_name("w1"), latex_name("loss"), latex_name("a_b")
    ('x', 'w_{1}', '\\mathrm{loss}', '\\mathrm{a\\_b}')
    """
    match = re.fullmatch(r"([A-Za-z])_?(\d+)", name)
    if match:
        return f"{match[1]}_{{{match[2]}}}"
    if re.fullmatch(r"[A-Za-zα-ωΑ-Ω]", name):
        return name
    safe = "".join(_SPECIAL.get(c, c) for c in name)
    return rf"\mathrm{{{safe}}}"


def bar(latex: str) -> str:
    r"""The adjoint's sign of a value: a bar over it.

    >>> bar("x"), bar("w_{1}")
    ('\\bar{x}', '\\bar{w}_{1}')
    """
    match = re.fullmatch(r"([A-Za-zα-ωΑ-Ω])(_\{\d+\})?", latex)
    if match:
        return rf"\bar{{{match[1]}}}{match[2] or ''}"
    return rf"\overline{{{latex}}}"


# --- Unicode -------------------------------------------------------------------------------------------------------

_SIGNS = {
    "cdot": " · ", "times": " × ", "sigma": "σ", "Phi": "Φ", "varphi": "φ", "pi": "π", "ln": "ln ", "log": "log ", "tanh": "tanh ",
    "sin": "sin ", "cos": "cos ", "tan": "tan ", "sinh": "sinh ", "cosh": "cosh ", "arcsin": "arcsin ", "arccos": "arccos ",
    "arctan": "arctan ", "sum": "Σ ", "prod": "Π ", "max": "max ", "min": "min ", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈",
    "rceil": "⌉", "langle": "⟨", "rangle": "⟩", "odot": " ⊙ ", "oplus": "⊕", "wedge": "∧", "vee": "∨", "neg": "¬", "top": "ᵀ",
    "ll": "<<", "gg": ">>", "le": "≤", "ge": "≥", "leq": "≤", "geq": "≥", "neq": "≠", "ne": "≠", "partial": "∂", "lVert": "‖",
    "rVert": "‖", "bigwedge": "∀ ", "bigvee": "∃ ", "leftarrow": "←", "to": "→", "infty": "∞", "backslash": "\\", "sim": "~",
    "bmod": "mod ", "Sigma": "Σ", "varepsilon": "ε", "quad": " ", "ldots": "…", "dots": "…", "circ": "∘", "mid": "|",
}  # fmt: skip
_TRANSPARENT = (
    "mathrm",
    "mathbf",
    "operatorname",
    "text",
    "textstyle",
    "displaystyle",
    "mathrel",
    "mathit",
    "left",
    "right",
)
_SUB = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_SUPER = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_TOKEN = re.compile(r"\\[A-Za-z]+ ?|\\.|[{}^_]|[^\\{}^_]")


def unicode_formula(latex: str) -> str:
    r"""LaTeX of the small kind as one line of Unicode.

    >>> unicode_formula(r"e^{x} - \mathbf e_{y}"), unicode_formula(r"\ln(1 + v_{12})")
    ('e^x - e_y', 'ln (1 + v₁₂)')
    """
    tokens = _TOKEN.findall(latex)
    text, _ = _sequence(tokens, 0)
    return re.sub(r"\s+", " ", text).replace("( ", "(").replace(" )", ")").strip()


def _sequence(tokens: list[str], at: int) -> tuple[str, int]:
    parts: list[str] = []
    while at < len(tokens) and tokens[at] != "}":
        part, at = _item(tokens, at)
        parts.append(part)
    return "".join(parts), at


def _argument(tokens: list[str], at: int) -> tuple[str, int]:
    while at < len(tokens) and tokens[at].isspace():
        at += 1
    if at >= len(tokens):
        return "", at
    return _item(tokens, at)


def _item(tokens: list[str], at: int) -> tuple[str, int]:
    token, at = tokens[at], at + 1
    if token == "{":
        text, at = _sequence(tokens, at)
        return text, at + 1
    if token in "^_":
        text, at = _argument(tokens, at)
        return _script(text.strip(), token), at
    if not token.startswith("\\"):
        return token, at
    name = token[1:].rstrip()
    if name in ("frac", "tfrac", "dfrac"):
        top, at = _argument(tokens, at)
        below, at = _argument(tokens, at)
        return f"{_grouped(top)}/{_grouped(below)}", at
    if name in ("bar", "overline"):
        text, at = _argument(tokens, at)
        if len(text) > 1:  # one line over the whole word
            return "".join(c if c.isspace() else c + "\u0305" for c in text), at
        return "".join(_barred(c) for c in text), at
    if name == "sqrt":
        text, at = _argument(tokens, at)
        return f"√{_grouped(text)}", at
    if name in _TRANSPARENT:
        return "", at
    if not name.isalpha():
        return {",": " ", ";": " ", "!": "", ":": " ", " ": " "}.get(name, name), at
    return _SIGNS.get(name, name), at


def _barred(char: str) -> str:
    """A character with a bar above, composed where Unicode has it."""
    return unicodedata.normalize("NFC", char + "\u0304") if not char.isspace() else char


def _script(text: str, kind: str) -> str:
    if text == "ᵀ":
        return text
    table = _SUB if kind == "_" else _SUPER
    if text and all(ord(c) in table for c in text):
        return text.translate(table)
    return f"{kind}{_grouped(text)}"


def _grouped(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 1 or text.replace(".", "").isalnum() else f"({text})"
