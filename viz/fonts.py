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
_JOINERS = "\u200c\u200d"  # letters and emoji join or do not: invisible, and not to be taken away
_MARKS = 2  # marks on one letter that a line has room for
_WIDE = 1.06  # an em and a little, for signs that another font will draw


@lru_cache(maxsize=len(_FILES))
def _advances(role: str) -> dict[int, float]:
    """Code point -> advance in ems, read from the font file that ships with matplotlib."""
    import matplotlib
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    with TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FILES[role], lazy=True) as font:
        metrics, units = font["hmtx"].metrics, font["head"].unitsPerEm
        return {code: metrics[name][0] / units for code, name in font.getBestCmap().items()}


def has_sign(char: str, role: str = "sans") -> bool:
    """Whether the font that is named first has this character."""
    return ord(char) in _advances(role)


def char_width(char: str, role: str) -> float:
    """The advance of one character in ems; 0 for combining marks and joiners."""
    if unicodedata.category(char) in ("Mn", "Me") or char in _JOINERS:
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
    """A name on one line: at most ``limit`` characters, the middle gives way to an ellipsis.

    What would break the line or turn others around (control characters, marks of direction, lone surrogates) becomes a space, a pile
    of marks over one letter keeps the first two, and a name of nothing but spaces shows them.

    >>> truncate("a" * 40, 9), truncate("a\\u0301\\u0301\\u0301\\u0301") == "a\\u0301\\u0301", truncate("  ")
    ('aaaa…aaaa', True, '␣␣')
    """
    signs: list[str] = []  # a letter with its marks is one sign
    for c in text[: 64 * limit]:
        kind = unicodedata.category(c)
        if kind in ("Mn", "Me") or c in _JOINERS:
            if signs and len(signs[-1]) <= _MARKS:
                signs[-1] += c
            continue
        signs.append(" " if kind in ("Cc", "Cf", "Cs", "Zl", "Zp") else c)
    if not "".join(signs).strip():
        return "␣" * min(max(len(signs), 1), 3) if text else ""
    if len(signs) <= limit and len(text) <= 64 * limit:
        return "".join(signs)
    half = (limit - 1) // 2
    return f"{''.join(signs[: limit - 1 - half])}…{''.join(signs[-half:])}"
