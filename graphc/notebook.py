"""How values, graphs and programs show themselves in a notebook: as their picture.

What enters: anything that can be drawn. What leaves: SVG, HTML that is never clipped, and a bundle of both with the text. Invariants: the
drawing package is loaded when a picture is asked for, as nothing here depends on it; what cannot be drawn still shows its text.
"""

from __future__ import annotations

import importlib
from typing import Any

from graphc.errors import GraphcError


class Pictured:
    """Notebook hooks for a class whose instances can be drawn.

    >>> from graphc import ops
    >>> bundle = ops.tanh(ops.input("x"))._repr_mimebundle_()
    >>> sorted(bundle), bundle["image/svg+xml"].startswith("<svg")
    (['image/svg+xml', 'text/html', 'text/plain'], True)
    """

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(importlib.import_module("viz").to_svg(self))

    def _repr_html_(self) -> str:
        return _scrolled(self._repr_svg_())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Every form, less those that are not wanted; the text alone where there is nothing to draw."""
        bundle = {"text/plain": repr(self)}
        try:
            svg = self._repr_svg_()
        except GraphcError:
            return bundle
        bundle |= {"image/svg+xml": svg, "text/html": _scrolled(svg)}
        return {k: v for k, v in bundle.items() if (not include or k in include) and k not in (exclude or ())}


def _scrolled(svg: str) -> str:
    """A picture that a narrow cell scrolls instead of clipping."""
    return f'<div style="max-width:100%;overflow:auto">{svg}</div>'
