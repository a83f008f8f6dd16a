"""Labels laid out and measured: how large each box must be so that its text stays inside.

What enters: a box and a theme. What leaves: its size and its lines with positions relative to its centre. Invariant: every
line lies inside the box's outline, for ellipses too, by the font's real metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

from viz.fonts import text_width
from viz.formula import Formula, typeset
from viz.model import Box, Cells, Line
from viz.theme import Theme

_SCALE = {"title": 1.0, "name": 1.05, "shape": 0.78, "code": 0.78, "note": 0.8, "formula": 1.12, "value": 0.95, "stats": 0.7,
          "cells": 1.0}
_FONT = {"title": "bold", "name": "italic", "shape": "mono", "code": "mono", "note": "sans", "formula": "italic", "value": "bold",
         "stats": "sans", "cells": "sans"}
_LEADING = 1.32
ROUND = frozenset({"input", "output", "update", "gradient", "seed"})  # ellipses
DOUBLE = frozenset({"parameter", "parameter_gradient", "update"})


@dataclass(frozen=True)
class PlacedLine:
    """A line of a label: its baseline's start relative to the box's centre; a formula has outlines."""

    line: Line
    x: float
    y: float
    width: float
    size: float
    font: str
    formula: Formula | None = None


@dataclass(frozen=True)
class Label:
    """A measured label: the least size of its box, and its lines."""

    width: float
    height: float
    lines: tuple[PlacedLine, ...]


def measure(box: Box, theme: Theme) -> Label:
    """Lay out a box's lines, centred."""
    if box.role == "accumulate":
        side = theme.size * 1.7
        return Label(side, side, ())
    rows = [_row(line, theme) for line in box.lines]
    width = max((w for w, *_ in rows), default=0.0)
    height = sum(h for _, h, *_ in rows)
    placed = []
    top = -height / 2
    for line, (w, h, ascent, size, formula) in zip(box.lines, rows, strict=True):
        placed.append(PlacedLine(line, -w / 2, top + ascent, w, size, _FONT[line.style], formula))
        top += h
    pad = theme.size * (0.45 if box.role == "constant" else 0.7) + (theme.stroke * 2.2 if box.role in DOUBLE else 0.0)
    if box.role in ROUND:
        # an ellipse around a w x h rectangle: semi-axes w/sqrt2 and h/sqrt2, drawn flatter and wider
        return Label(width * 1.25 + 2.2 * pad, height * 1.45 + 0.9 * pad, tuple(placed))
    return Label(max(width + 2 * pad, theme.size * 2.6), height + 1.3 * pad, tuple(placed))


def _row(line: Line, theme: Theme) -> tuple[float, float, float, float, Formula | None]:
    size = theme.size * _SCALE[line.style]
    if line.cells is not None:
        width, height = cells_size(line.cells, theme)
        return width, height + size * 0.4, size * 0.2, size, None
    if line.style == "formula":
        formula = typeset(line.text, size)
        return formula.width, max(formula.height, size) + size * 0.28, formula.ascent + size * 0.14, size, formula
    return text_width(line.text, _FONT[line.style], size), size * _LEADING, size * 1.02, size, None


def cells_size(cells: Cells, theme: Theme) -> tuple[float, float]:
    """Width and height of a heat map: cells are square, small, and fewer rows make them no larger."""
    side = theme.size * 0.42
    return side * max(len(r) for r in cells.rows), side * len(cells.rows)
