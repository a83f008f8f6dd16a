"""The roofline of a profile: how fast each kernel computes, against what the machine can do for its operations a byte.

What enters: a profile. What leaves: a :class:`Scene`, from which SVG, PNG and PDF are written. Invariants: both axes are logarithmic,
so that a bandwidth is a line of slope one; ceilings are the measured ones; a kernel's disc has its share of the time as area, and a
hollow disc is the same work under the interpreter. Kernels that compute nothing have no place here and are counted in the caption.

Source: Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model (2009).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphc.errors import DrawError
from viz.fonts import text_width, truncate
from viz.profiled import Kernel, amount, duration, kernels_of
from viz.render import SUFFIXES_OF_SCENES, suffix_of, write_scene
from viz.scene import Curve, Ellipse, Group, Scene, Shape, Text, straight
from viz.theme import Theme, theme_of

WIDTH, HEIGHT, SIZE = 520.0, 412.0, 13.0
LEFT, RIGHT, TOP = 64.0, 16.0, 30.0
LABELS = 8  # kernels that are named, the slowest first
_DASHES: tuple[tuple[float, ...], ...] = ((), (8.0, 3.0), (4.0, 3.0), (1.5, 3.0))


@dataclass(frozen=True)
class _Axes:
    """Powers of ten at the ends, and the plot's rectangle."""

    x: tuple[int, int]
    y: tuple[int, int]
    bottom: float

    def across(self, value: float) -> float:
        return LEFT + (math.log10(value) - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - RIGHT - LEFT)

    def up(self, value: float) -> float:
        return self.bottom - (math.log10(value) - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - TOP)


def draw_roofline(profile: Any, path: str | os.PathLike[str] | None = None, *, theme: str = "light") -> str | None:
    """Draw the roofline of a profile, to a file by its suffix (.svg, .png, .pdf, .tex) or as SVG text.

    The machine's ceilings are measured once a machine (about a second) and then kept.

    Args:
        profile: what ``program.profile(...)`` gave; with ``interpreted=True`` it shows the same work under the interpreter too.
        path: where to write; None returns the SVG. theme: "light", "dark", "projector" or "print".

    Raises:
        DrawError: it is no profile, an unknown theme or suffix, a folder that cannot be written.

    >>> import graphc
    >>> x = graphc.input("x", (64, 64))
    >>> profile = graphc.compile(graphc.tanh(x @ x), threads=1).profile(2, interpreted=True)
    >>> svg = draw_roofline(profile)
    >>> profile.rows[0].kernel in svg, "float32" in svg
    (True, True)

    Source: Williams, Waterman, Patterson, Roofline (2009).
    """
    if not callable(getattr(profile, "roofline", None)):
        raise DrawError(f"{type(profile).__name__} has no roofline", help="give what program.profile(...) returns")
    suffix_of(path, SUFFIXES_OF_SCENES)
    return write_scene(roofline_scene(profile, theme_of(theme)), path)


def roofline_scene(profile: Any, theme: Theme) -> Scene:
    """The picture. Groups of kernels have the kind ``point`` and the ids ``p0, p1, ...`` by their place in the profile."""
    kernels = kernels_of(profile)
    roof = profile.roofline()
    axes = _axes(kernels, roof)
    groups = [_frame(axes, theme), _ceilings(axes, roof, theme)]
    shown = [(k, kernel) for k, kernel in enumerate(kernels) if kernel.flops and kernel.seconds and kernel.bytes]
    groups += [_hollow(k, kernel, axes, theme) for k, kernel in shown if _place(kernel.interpreted)]
    order = sorted(shown, key=lambda item: -item[1].seconds)  # small discs over large ones
    groups += [_disc(k, kernel, axes, theme) for k, kernel in order]
    groups += _names(order[:LABELS], [g for g in groups if g.kind in ("point", "interpreted", "roof")], axes, theme)
    groups.append(_caption(axes, kernels, roof, theme))
    words = f"Roofline of {len(shown)} kernels on {roof.cpu}, {roof.threads} thread{'s' * (roof.threads > 1)}."
    return Scene(WIDTH, HEIGHT, theme.background, "Roofline", words, groups)


def _place(spent: tuple[float, float, float] | None) -> tuple[float, float] | None:
    """Operations a byte and a second, where there are any."""
    if spent is None or min(spent) <= 0:
        return None
    return spent[2] / spent[1], spent[2] / spent[0]


def _axes(kernels: Iterable[Kernel], roof: Any) -> _Axes:
    points = [(k.intensity, k.rate) for k in kernels if k.flops and k.seconds and k.bytes]
    points += [p for k in kernels if (p := _place(k.interpreted))]
    ridges = [(roof.flops / rate, roof.flops) for _, rate in roof.bandwidths]
    xs = [x for x, _ in points + ridges]
    ys = [y for _, y in points + ridges]
    return _Axes(_powers(min(xs), max(xs)), _powers(min(ys), max(ys)), HEIGHT - 120.0)


def _powers(low: float, high: float) -> tuple[int, int]:
    a, b = math.floor(math.log10(low) - 0.1), math.ceil(math.log10(high) + 0.15)
    return a, max(b, a + 1)


def _frame(axes: _Axes, theme: Theme) -> Group:
    """Grid lines at the powers of ten, their numbers, and what the axes are."""
    group = Group("grid", "grid", "")
    size = SIZE * 0.85
    for power in range(axes.x[0], axes.x[1] + 1):
        x = axes.across(10.0**power)
        group.shapes.append(straight((x, TOP), (x, axes.bottom), theme.cluster, 0.5))
        group.shapes.append(_middle(_number(power), x, axes.bottom + size * 1.35, size, theme))
    for power in range(axes.y[0], axes.y[1] + 1):
        y = axes.up(10.0**power)
        group.shapes.append(straight((LEFT, y), (WIDTH - RIGHT, y), theme.cluster, 0.5))
        text = amount(10.0**power, "").strip().replace(".00", "").replace(".0", "")
        width = text_width(text, "sans", size)
        group.shapes.append(Text(LEFT - 6 - width, y + size * 0.35, text, size, "sans", theme.faint))
    group.shapes.append(Text(8, TOP - 12, "FLOP/s", SIZE, "bold", theme.text))
    words = "FLOP per byte moved"
    width = text_width(words, "bold", SIZE)
    group.shapes.append(Text(WIDTH - RIGHT - width, axes.bottom + SIZE * 2.5, words, SIZE, "bold", theme.text))
    return group


def _number(power: int) -> str:
    return f"{10**power}" if power >= 0 else f"{10.0**power:.{-power}f}"


def _middle(text: str, x: float, y: float, size: float, theme: Theme) -> Text:
    return Text(x - text_width(text, "sans", size) / 2, y, text, size, "sans", theme.faint)


def _ceilings(axes: _Axes, roof: Any, theme: Theme) -> Group:
    """The roof: the multiply-adds' rate, and under it a slope for every level of memory."""
    group = Group("roof", "roof", f"At most {amount(roof.flops, 'FLOP/s')} (float32)")
    low = 10.0 ** axes.x[0]
    ridge = min(roof.flops / rate for _, rate in roof.bandwidths)
    ceiling = axes.up(roof.flops)
    group.shapes.append(straight((axes.across(ridge), ceiling), (WIDTH - RIGHT, ceiling), theme.text, 2.0))
    floor = 10.0 ** axes.y[0]
    for k, (_, rate) in enumerate(roof.bandwidths):
        begin = max(low, floor / rate)
        ends = (axes.across(begin), axes.up(begin * rate)), (axes.across(roof.flops / rate), ceiling)
        group.shapes.append(straight(*ends, theme.text, 1.4, _DASHES[min(k, 3)]))
    words = f"{amount(roof.flops, 'FLOP/s')} float32"
    width = text_width(words, "sans", SIZE * 0.85)
    group.shapes.append(Text(WIDTH - RIGHT - width, ceiling - 6, words, SIZE * 0.85, "sans", theme.text))
    return group


def _radius(kernel: Kernel) -> float:
    return 3.2 + 9.0 * math.sqrt(kernel.share)


def _disc(k: int, kernel: Kernel, axes: _Axes, theme: Theme) -> Group:
    r = _radius(kernel)
    disc = Ellipse(axes.across(kernel.intensity), axes.up(kernel.rate), r, r, theme.forward, theme.background, 1.0)
    return Group(f"p{k}", "point", kernel.sentence(), [disc])


def _hollow(k: int, kernel: Kernel, axes: _Axes, theme: Theme) -> Group:
    """The same work under the interpreter, tied to the kernel's disc."""
    place = _place(kernel.interpreted)
    assert place is not None
    at = axes.across(place[0]), axes.up(place[1])
    tie = straight(at, (axes.across(kernel.intensity), axes.up(kernel.rate)), theme.correspondence, 0.7, (2.0, 2.5))
    ring = Ellipse(*at, 3.4, 3.4, theme.background, theme.backward, 1.5)
    return Group(f"i{k}", "interpreted", f"Interpreted: {kernel.sentence()}", [tie, ring])


def _names(slowest: list[tuple[int, Kernel]], obstacles: list[Group], axes: _Axes, theme: Theme) -> list[Group]:
    """Names beside the slowest kernels' discs, where they cover neither discs nor each other."""
    size = SIZE * 0.85
    taken = [box for g in obstacles for s in g.shapes for box in _boxes(s)]
    found = []
    for k, kernel in slowest:
        text = truncate(kernel.title, 22)
        x, y, r = axes.across(kernel.intensity), axes.up(kernel.rate), _radius(kernel) + 3
        w = text_width(text, "sans", size)
        places = [(x + r, y + size * 0.35), (x - r - w, y + size * 0.35), (x - w / 2, y - r), (x - w / 2, y + r + size * 0.8),
                  (x + r * 0.7, y - r * 0.7), (x + r * 0.7, y + r * 0.7 + size * 0.7), (x - w - r * 0.7, y - r * 0.7)]  # fmt: skip
        for left, base in places:
            box = (left - 1, base - size * 0.8, left + w + 1, base + size * 0.25)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP and box[3] <= axes.bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append(Group(f"n{k}", "name", "", [Text(left, base, text, size, "sans", theme.text)]))
                break
    return found


def _boxes(shape: Shape) -> list[tuple[float, float, float, float]]:
    """What a name must not cover: discs, words, and the roof's lines piece by piece."""
    match shape:
        case Ellipse():
            return [(shape.x - shape.rx, shape.y - shape.ry, shape.x + shape.rx, shape.y + shape.ry)]
        case Text():
            return [(shape.x, shape.y - shape.size, shape.x + text_width(shape.text, "sans", shape.size), shape.y + 2)]
        case Curve() if shape.weight > 1.0:
            (x0, y0), (x1, y1) = shape.points[0], shape.points[-1]
            parts = 40
            return [
                (x0 + (x1 - x0) * k / parts, y - 1, x0 + (x1 - x0) * (k + 1) / parts, y + 1)
                for k in range(parts)
                for y in [y0 + (y1 - y0) * (k + 0.5) / parts]
            ]
    return []


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _caption(axes: _Axes, kernels: list[Kernel], roof: Any, theme: Theme) -> Group:
    """What the lines and discs are."""
    group = Group("caption", "legend", "")
    size = SIZE * 0.85
    x, y = LEFT, axes.bottom + SIZE * 4.1
    entries: list[tuple[str, Curve | Ellipse]] = []
    before = 0
    for k, (limit, rate) in enumerate(roof.bandwidths):
        last = k == len(roof.bandwidths) - 1
        reach = f"beyond {_size(before)}" if last and k else f"up to {_size(limit)}"
        entries.append(
            (f"{reach}: {amount(rate, 'B/s')}", straight((0, 0), (22, 0), theme.text, 1.4, _DASHES[min(k, 3)]))
        )
        before = limit
    entries.append(("compiled, by share of time", Ellipse(11, 0, 6, 6, theme.forward, theme.background, 1.0)))
    if any(k.interpreted for k in kernels):
        entries.append(("the same interpreted", Ellipse(11, 0, 3.4, 3.4, theme.background, theme.backward, 1.5)))
    for text, sign in entries:
        width = 30 + text_width(text, "sans", size) + 16
        if x + width > WIDTH:
            x, y = LEFT, y + size * 1.6
        group.shapes.append(_shifted(sign, x, y - size * 0.3))
        group.shapes.append(Text(x + 30, y, text, size, "sans", theme.faint))
        x += width
    idle = [k for k in kernels if not k.flops]
    words = f"{truncate(roof.cpu, 40)}, {roof.threads} thread{'s' * (roof.threads > 1)}"
    if idle:
        words += f"; not shown: {len(idle)} that only move data ({duration(sum(k.seconds for k in idle))})"
    if x + text_width(words, "sans", size) > WIDTH:
        x, y = LEFT, y + size * 1.6
    group.shapes.append(Text(x, y, words, size, "sans", theme.faint))
    return group


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def _shifted(shape: Curve | Ellipse, dx: float, dy: float) -> Curve | Ellipse:
    if isinstance(shape, Curve):
        return Curve(tuple((x + dx, y + dy) for x, y in shape.points), shape.stroke, shape.weight, shape.dash)
    return Ellipse(shape.x + dx, shape.y + dy, shape.rx, shape.ry, shape.fill, shape.stroke, shape.weight)
