"""Themes: colours, strokes and type sizes. Okabe-Ito hues, never hue alone.

What enters: a theme's name. What leaves: a :class:`Theme`. Invariant: forward strokes are solid, backward ones dashed and
correspondences dotted in every theme, so that a picture survives greyscale; text has at least 4.5:1 on its background.

>>> theme_of("projector").size > theme_of("light").size
True
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from graphc.errors import DrawError


@dataclass(frozen=True)
class Theme:
    """Colours by role; ``size`` is the type size of a box's title in pixels, ``stroke`` the width of an edge."""

    name: str
    background: str
    text: str
    faint: str
    forward: str
    backward: str
    backward_text: str
    correspondence: str
    saved: str
    forward_fill: str
    backward_fill: str
    input_fill: str
    parameter_fill: str
    gradient_fill: str
    constant_fill: str
    output_fill: str
    cluster: str
    cluster_fill: str
    positive: str = "#D55E00"  # ends of the scale of signed values, 0 is the background
    negative: str = "#0072B2"
    size: float = 15.0
    stroke: float = 1.6


LIGHT = Theme(
    "light", background="#FFFFFF", text="#1A1A1A", faint="#595959", forward="#0072B2", backward="#D55E00",
    backward_text="#A84300", correspondence="#6B6B6B", saved="#00795A", forward_fill="#E8F2FA", backward_fill="#FCEBDD",
    input_fill="#FFFFFF", parameter_fill="#FFF6D6", gradient_fill="#F7C9A3", constant_fill="#F2F2F2",
    output_fill="#D3E8F7", cluster="#B8B8B8", cluster_fill="#FAFAFA",
)  # fmt: skip
DARK = Theme(
    "dark", background="#16181D", text="#F2F2F2", faint="#BABABA", forward="#56B4E9", backward="#F0803C",
    backward_text="#F5A66F", correspondence="#9A9A9A", saved="#3CC29A", forward_fill="#1D3444", backward_fill="#45291A",
    input_fill="#20242C", parameter_fill="#433A16", gradient_fill="#6E3A17", constant_fill="#2B2E35",
    output_fill="#1F4863", cluster="#4A4F59", cluster_fill="#1B1E24",
    positive="#F0803C", negative="#56B4E9",
)  # fmt: skip
PROJECTOR = replace(LIGHT, name="projector", text="#000000", faint="#404040", size=20.0, stroke=3.0, cluster="#9A9A9A")
PRINT = replace(
    LIGHT, name="print", text="#000000", faint="#404040", forward="#000000", backward="#000000", backward_text="#000000",
    correspondence="#6B6B6B", saved="#555555", forward_fill="#F4F4F4", backward_fill="#DADADA", input_fill="#FFFFFF",
    parameter_fill="#FFFFFF", gradient_fill="#C4C4C4", constant_fill="#EEEEEE", output_fill="#E6E6E6", cluster="#A0A0A0",
    cluster_fill="#FBFBFB", positive="#000000", negative="#8A8A8A",
)  # fmt: skip
THEMES = {t.name: t for t in (LIGHT, DARK, PROJECTOR, PRINT)}

COLOURS = tuple(f.name for f in fields(Theme) if f.type == "str" and f.name != "name")
_VARIABLES: dict[str, Any] = {n: f"var(--gp-{n.replace('_', '-')})" for n in COLOURS}
VARIABLES = replace(LIGHT, name="variables", **_VARIABLES)  # coloured by a style sheet


def style_sheet(selector: str) -> str:
    """The colours of every theme as CSS variables: ``selector[data-theme=dark]{--gp-background:#16181D;...}``.

    A drawing with the theme :data:`VARIABLES` takes its colours from them. On paper a dark one is light.
    """
    rules = [f"{selector}[data-theme={theme.name}]{{{_variables(theme)}}}" for theme in THEMES.values()]
    return "\n".join([*rules, f"@media print{{{selector}[data-theme=dark]{{{_variables(LIGHT)};color-scheme:light}}}}"])


def _variables(theme: Theme) -> str:
    colours = ";".join(f"--gp-{n.replace('_', '-')}:{getattr(theme, n)}" for n in COLOURS)
    return f"{colours};--gp-stroke:{theme.stroke / LIGHT.stroke:.3g}"


def theme_of(name: str) -> Theme:
    """The theme of that name.

    Raises:
        DrawError: there is none; lists those that are.
    """
    if name not in THEMES:
        raise DrawError(f"no theme is named {name!r}", help=f"choose {', '.join(THEMES)}")
    return THEMES[name]
