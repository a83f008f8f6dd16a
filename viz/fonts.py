"""How wide text is: real metrics of the font that is named first, so that no label leaves its box.

What enters: text, a font role and a size in pixels. What leaves: a width in pixels. Invariant: the fonts that a viewer may
substitute (Verdana aside, Helvetica, Arial, Segoe, Consolas, Menlo) are narrower than DejaVu, so text that fits here fits
there. Signs that the font lacks (CJK, emoji) count a whole em, with a margin.

>>> text_width("matmul", "sans", 10) < text_width("matmul", "bold", 10)
True
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path

FAMILIES = {
    "sans": "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif",
    "bold": "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif",
    "italic": "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif",
    "mono": "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace",
}
_FILES = {
    "sans": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf", "italic": "DejaVuSans-Oblique.ttf", "mono": "DejaVuSansMono.ttf",
}  # fmt: skip
_WIDE = 1.06  # an em and a little, for signs that another font will draw


@lru_cache(maxsize=len(_FILES))
def _advances(role: str) -> dict[int, float]:
    """Code point -> advance in ems, read from the font file that ships with matplotlib."""
    import matplotlib
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    with TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FILES[role], lazy=True) as font:
        metrics, units = font["hmtx"].metrics, font["head"].unitsPerEm
        return {code: metrics[name][0] / units for code, name in font.getBestCmap().items()}


def char_width(char: str, role: str) -> float:
    """The advance of one character in ems; 0 for combining marks."""
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return _WIDE
    return _advances(role).get(ord(char), _WIDE)


@lru_cache(maxsize=8192)
def _ems(text: str, role: str) -> float:
    return sum(char_width(c, role) for c in text)


def text_width(text: str, role: str, size: float) -> float:
    """Width of one line in pixels."""
    return _ems(text, role) * size


def truncate(text: str, limit: int = 28) -> str:
    """At most ``limit`` characters: the middle gives way to an ellipsis; control characters become spaces.

    >>> truncate("a" * 40, 9)
    'aaaa…aaaa'
    """
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[: limit - 1 - half]}…{text[-half:]}"
