"""A laid-out diagram as shapes and glyphs: the one description from which SVG, PNG and PDF are written.

What enters: diagram, layout, theme. What leaves: a :class:`Scene` of groups, in drawing order, in pixels with y downwards.
Invariant: every writer draws exactly these shapes, so that all formats have the same geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from viz.fonts import text_width, truncate
from viz.labels import DOUBLE, ROUND, Label, cells_size
from viz.layout import Frame, Layout, Place, Point
from viz.model import BACKWARD_ROLES, Box, Cells, Diagram, Edge
from viz.theme import Theme

MARGIN = 16.0


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    stroke: str
    weight: float
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ellipse:
    x: float
    y: float
    rx: float
    ry: float
    fill: str
    stroke: str
    weight: float
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Cubic Bezier pieces."""

    points: tuple[Point, ...]
    stroke: str
    weight: float
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Polygon:
    points: tuple[Point, ...]
    fill: str


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    size: float
    font: str
    fill: str


@dataclass(frozen=True)
class Glyphs:
    """Outlines of a formula, their origin at the left end of the baseline; ``text`` is what a screen reader says."""

    x: float
    y: float
    paths: tuple[str, ...]
    fill: str
    text: str
    scale: float = 1.0


@dataclass(frozen=True)
class Grid:
    """Square cells, each with its colour; ``text`` is what a screen reader says."""

    x: float
    y: float
    side: float
    rows: tuple[tuple[str, ...], ...]
    stroke: str
    text: str


Shape = Rect | Ellipse | Curve | Polygon | Text | Glyphs | Grid


@dataclass
class Group:
    """Shapes that belong to one box or edge."""

    id: str
    kind: str
    tooltip: str
    shapes: list[Shape] = field(default_factory=list)


@dataclass
class Scene:
    """The picture: size, background, groups in drawing order, and its description in words."""

    width: float
    height: float
    background: str
    title: str
    description: str
    groups: list[Group] = field(default_factory=list)


def build_scene(diagram: Diagram, layout: Layout, labels: Mapping[str, Label], theme: Theme) -> Scene:
    """Shapes of frames, edges, boxes and captions, moved into view."""
    groups = [_frame(i, f, theme) for i, f in enumerate(layout.frames)]
    ranking = {"correspondence": 0, "saved": 1, "forward": 2, "backward": 3}
    order = sorted(range(len(diagram.edges)), key=lambda i: (ranking[diagram.edges[i].kind], i))
    groups += [
        _edge(i, diagram.edges[i], layout.routes[i], theme, diagram.boxes[diagram.edges[i].tail].role == "constant")
        for i in order
    ]
    groups += [_box(box, layout.places[box.id], labels[box.id], theme) for box in diagram.boxes.values()]
    left, top, right, bottom = _extent(layout)
    if diagram.mirrored:
        captions = _captions(diagram, layout, theme, (left, top, right, bottom))
        groups += captions
        left, top, right, bottom = _with_captions(captions, (left, top, right, bottom))
    shift = (MARGIN - left, MARGIN - top)
    for group in groups:
        group.shapes = [_moved(s, shift) for s in group.shapes]
    title = truncate(f"Graph {diagram.name}", 120)
    return Scene(right - left + 2 * MARGIN, bottom - top + 2 * MARGIN, theme.background, title, diagram.summary, groups)


def _extent(layout: Layout) -> tuple[float, float, float, float]:
    boxes = [p.bounds for p in layout.places.values()] + [f.bounds for f in layout.frames]
    points = [p for route in layout.routes.values() for p in route]
    xs0, ys0 = [b[0] for b in boxes] + [p[0] for p in points], [b[1] for b in boxes] + [p[1] for p in points]
    xs1, ys1 = [b[2] for b in boxes] + [p[0] for p in points], [b[3] for b in boxes] + [p[1] for p in points]
    return min(xs0), min(ys0), max(xs1), max(ys1)


# --- boxes ---------------------------------------------------------------------------------------------------------


def _colours(box: Box, theme: Theme) -> tuple[str, str, str]:
    """Fill, stroke, colour of the first line."""
    match box.role:
        case "constant":
            return theme.constant_fill, theme.cluster, theme.faint
        case "input" | "buffer":
            return theme.input_fill, theme.forward, theme.text
        case "parameter":
            return theme.parameter_fill, theme.forward, theme.text
        case "output" | "update":
            return theme.output_fill, theme.forward, theme.text
        case "parameter_gradient":
            return theme.gradient_fill, theme.backward, theme.text
    if box.role in BACKWARD_ROLES or box.backward:
        return theme.backward_fill, theme.backward, theme.text
    return theme.forward_fill, theme.forward, theme.text


def _box(box: Box, place: Place, label: Label, theme: Theme) -> Group:
    fill, stroke, colour = _colours(box, theme)
    group = Group(box.id, box.role, box.tooltip)
    backward = box.role in BACKWARD_ROLES or box.backward
    w = theme.stroke
    dash = (3.0 + 1.8 * w, 1.4 + 1.2 * w) if backward and box.role != "accumulate" else ()
    weight = theme.stroke * (1.5 if box.role == "parameter_gradient" else 0.6 if box.role == "constant" else 1.0)
    group.shapes += _outline(box, place, fill, stroke, weight, dash)
    if box.role == "accumulate":
        arm = place.width * 0.26
        group.shapes.append(straight((place.x - arm, place.y), (place.x + arm, place.y), stroke, theme.stroke * 1.2))
        group.shapes.append(straight((place.x, place.y - arm), (place.x, place.y + arm), stroke, theme.stroke * 1.2))
    for line in label.lines:
        ink = theme.faint if line.line.style in ("shape", "note", "stats") else colour
        x, y = place.x + line.x, place.y + line.y
        if line.line.cells is not None:
            group.shapes.append(_grid(line.line.cells, x, y, theme))
        elif line.formula is not None and line.formula.paths:
            group.shapes.append(Glyphs(x, y, line.formula.paths, ink, line.formula.text))
        else:
            text = line.formula.text if line.formula is not None else line.line.text
            group.shapes.append(Text(x, y, text, line.size, line.font, ink))
    return group


def straight(a: Point, b: Point, stroke: str, weight: float, dash: tuple[float, ...] = ()) -> Curve:
    """A line."""
    third = ((b[0] - a[0]) / 3, (b[1] - a[1]) / 3)
    return Curve((a, (a[0] + third[0], a[1] + third[1]), (b[0] - third[0], b[1] - third[1]), b), stroke, weight, dash)


def _outline(box: Box, place: Place, fill: str, stroke: str, weight: float, dash: tuple[float, ...]) -> list[Shape]:
    rings = [0.0, weight * 2.2] if box.role in DOUBLE else [0.0]
    shapes: list[Shape] = []
    for k, inset in enumerate(rings):
        paint, dashes = (fill if k == 0 else "none"), (dash if k == 0 else ())
        if box.role in ROUND or box.role == "accumulate":
            shapes.append(
                Ellipse(
                    place.x, place.y, place.width / 2 - inset, place.height / 2 - inset, paint, stroke, weight, dashes
                )
            )
        else:
            left, top, right, bottom = place.bounds
            radius = {"constant": 3.0, "buffer": 2.0, "parameter": 3.0, "parameter_gradient": 3.0}.get(box.role, 9.0)
            shapes.append(
                Rect(left + inset, top + inset, right - left - 2 * inset, bottom - top - 2 * inset, max(radius - inset, 1.0),
                     paint, stroke, weight, dashes)
            )  # fmt: skip
    return shapes


def _frame(index: int, frame: Frame, theme: Theme) -> Group:
    left, top, right, bottom = frame.bounds
    side = "b" if frame.backward else "f"
    group = Group(f"c{side}{index}", "cluster", "/".join(frame.scope))
    size = theme.size * 0.85
    dash = (6.0, 4.0) if frame.backward else ()
    group.shapes.append(
        Rect(left, top, right - left, bottom - top, 10.0, theme.cluster_fill, theme.cluster, theme.stroke * 0.6, dash)
    )
    group.shapes.append(Text(left + 8, top + size * 1.2, frame.scope[-1], size, "sans", theme.faint))
    return group


# --- edges ---------------------------------------------------------------------------------------------------------


def _edge(index: int, edge: Edge, route: list[Point], theme: Theme, plain: bool = False) -> Group:
    w = theme.stroke
    if edge.weight != 1.0:
        w = max(w * edge.weight, 0.5)
    stroke, weight, dash, arrow = {
        "forward": (theme.forward, w, (), True),
        "backward": (theme.backward, w * 1.1, (7.0 + w, 3.0 + w), True),
        "correspondence": (theme.correspondence, w * 0.75, (1.0 + w * 0.5, 3.0 + w), False),
        "saved": (theme.saved, w * 0.85, (1.5 + w * 0.6, 2.0 + w), True),
    }[edge.kind]
    if edge.shade is not None:
        stroke = flow_colour(edge.shade, theme)
    if plain:  # from a constant
        stroke, weight, dash = theme.correspondence, w * 0.6, ()
    group = Group(f"e{index}", f"edge-{edge.kind}", edge.tooltip)
    points = list(route)
    if arrow:
        length = (5.5 + 2.0 * w) * (0.8 if edge.kind == "saved" else 1.0)
        points, head = _arrow(points, length)
        group.shapes.append(Polygon(head, stroke))
    group.shapes.insert(0, Curve(tuple(points), stroke, weight, dash))
    if edge.label and _room(route) > text_width(edge.label, "sans", theme.size * 0.78) + theme.size:
        group.shapes += _edge_label(edge.label, middle(route), theme, edge.kind == "backward")
    return group


def _edge_label(text: str, at: Point, theme: Theme, backward: bool) -> list[Shape]:
    """A label on a halo of the background's colour, so that lines below do not cross it."""
    size = theme.size * 0.78
    width = text_width(text, "sans", size)
    x, y = at[0] - width / 2, at[1] + size * 0.36
    halo = Rect(x - 2.5, y - size * 0.92, width + 5, size * 1.22, 3.0, theme.background, theme.background, 0.1)
    return [halo, Text(x, y, text, size, "sans", theme.backward_text if backward else theme.text)]


def _room(route: list[Point]) -> float:
    """How far apart the ends of a route are: where that is little, a label would cover the arrow."""
    return max(abs(route[-1][0] - route[0][0]), 2.0 * abs(route[-1][1] - route[0][1]))


def middle(route: list[Point]) -> Point:
    """The point of a route at the middle of its pieces.

    >>> middle([(0, 0), (1, 0), (2, 0), (3, 0)])
    (1.5, 0.0)
    """
    pieces = (len(route) - 1) // 3
    k, t = divmod(pieces / 2, 1)
    k = int(k) - 1 if t == 0 and pieces % 2 == 0 and k == pieces else int(k)
    a, b, c, d = route[3 * k : 3 * k + 4]
    u = 1 - t
    x, y = (u**3 * p + 3 * u * u * t * q + 3 * u * t * t * r + t**3 * s for p, q, r, s in zip(a, b, c, d, strict=True))
    return x, y


def _grid(cells: Cells, x: float, y: float, theme: Theme) -> Grid:
    width, _ = cells_size(cells, theme)
    side = width / max(len(r) for r in cells.rows)
    rows = tuple(tuple(signed_colour(v, theme) for v in row) for row in cells.rows)
    return Grid(x, y, side, rows, theme.cluster, "heat map of the values")


SHADES = 8  # shades on either side of 0: few, so that cells of one shade are one path


def signed_colour(value: float, theme: Theme) -> str:
    """A value from -1 to 1 on the diverging scale: blue below 0, the background at 0, orange above.

    >>> from viz.theme import LIGHT
    >>> signed_colour(0.0, LIGHT), signed_colour(1.0, LIGHT), signed_colour(-1.0, LIGHT)
    ('#ffffff', '#d55e00', '#0072b2')
    """
    share = min(abs(round(value * SHADES) / SHADES), 1.0)
    end = theme.positive if value > 0 else theme.negative
    if end.startswith("var("):
        return f"color-mix(in srgb, {end} {share * 100:.4g}%, {theme.background})"  # mixed by the style sheet
    mixed = [round(a + (b - a) * share) for a, b in zip(_rgb(theme.background), _rgb(end), strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def flow_colour(shade: float, theme: Theme) -> str:
    """From -1 (a gradient vanishes) over grey to 1 (it explodes); on paper from light to black.

    >>> from viz.theme import LIGHT
    >>> flow_colour(-1.0, LIGHT), flow_colour(0.0, LIGHT), flow_colour(1.0, LIGHT)
    ('#0072b2', '#6b6b6b', '#d55e00')
    """
    end = theme.positive if shade > 0 else theme.cluster if theme.name == "print" else theme.negative
    share = min(abs(round(shade * SHADES) / SHADES), 1.0)
    if end.startswith("var("):
        return f"color-mix(in srgb, {end} {share * 100:.4g}%, {theme.correspondence})"
    mixed = [round(a + (b - a) * share) for a, b in zip(_rgb(theme.correspondence), _rgb(end), strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _arrow(points: list[Point], length: float) -> tuple[list[Point], tuple[Point, ...]]:
    """The route shortened by an arrow head, and the head."""
    end = points[-1]
    back = next((p for p in reversed(points[:-1]) if abs(p[0] - end[0]) + abs(p[1] - end[1]) > 1e-6), None)
    if back is None:
        return points, (end, end, end)
    dx, dy = end[0] - back[0], end[1] - back[1]
    norm = (dx * dx + dy * dy) ** 0.5
    ux, uy = dx / norm, dy / norm
    base = (end[0] - ux * length, end[1] - uy * length)
    half = length * 0.42
    head = (end, (base[0] - uy * half, base[1] + ux * half), (base[0] + uy * half, base[1] - ux * half))
    stop = (end[0] - ux * length * 0.85, end[1] - uy * length * 0.85)
    shift = (stop[0] - end[0], stop[1] - end[1])
    control = (points[-2][0] + shift[0], points[-2][1] + shift[1])
    return [*points[:-2], control, stop], head


# --- captions ------------------------------------------------------------------------------------------------------


def _captions(diagram: Diagram, layout: Layout, theme: Theme, bounds: tuple[float, float, float, float]) -> list[Group]:
    """The words "forward" and "backward" at the two parts, and a legend of the dotted lines below."""
    left, top, _, bottom = bounds
    size = theme.size
    dx, dy = layout.offset
    first = Text(left, top - size * 0.9, "forward", size, "bold", theme.forward)
    seed = next(b for b in diagram.boxes.values() if b.role == "seed")
    scalar = bool(seed.lines) and seed.lines[0].style == "formula"  # else a cotangent comes in from a loss that is not shown
    name = truncate(diagram.boxes[seed.mirror_of].title, 20) if scalar else "L"
    second = Text(left + dx, top + dy - size * 0.9, "backward", size, "bold", theme.backward_text)
    note = Text(
        second.x + text_width("backward  ", "bold", size), second.y, f"x̄ = ∂{name}/∂x", size, "sans", theme.faint
    )
    width = note.x - second.x + text_width(note.text, "sans", size)
    halo = Rect(second.x - 4, second.y - size, width + 8, size * 1.35, 3.0, theme.background, theme.background, 0.1)
    groups = [Group("t0", "caption", "", [first]), Group("t1", "caption", "", [halo, second, note])]
    x, y = left, bottom + size * 1.7
    rows = [("correspondence", "value and its gradient")]
    if any(e.kind == "saved" for e in diagram.edges):
        rows.append(("saved", "saved for the backward pass"))
    if any(b.role == "accumulate" for b in diagram.boxes.values()):
        rows.append(("accumulate", "contributions are added"))
    if any(line.cells is not None for b in diagram.boxes.values() for line in b.lines):
        rows.append(("cells", "below, at and above 0"))
    if diagram.decades is None and any(e.weight != 1.0 for e in diagram.edges):
        rows.append(("width", "wider: a larger gradient flows"))
    for i, (kind, text) in enumerate(rows):
        group = Group(f"l{i}", "legend", "")
        mid = y - size * 0.28
        if kind == "accumulate":
            r = size * 0.45
            group.shapes.append(Ellipse(x + 30 - r, mid, r, r, theme.backward_fill, theme.backward, theme.stroke))
            group.shapes.append(straight((x + 30 - r * 1.5, mid), (x + 30 - r * 0.5, mid), theme.backward, theme.stroke))
            group.shapes.append(
                straight((x + 30 - r, mid - r * 0.5), (x + 30 - r, mid + r * 0.5), theme.backward, theme.stroke)
            )
        elif kind == "cells":
            colours = tuple(signed_colour(v, theme) for v in (-1.0, 0.0, 1.0))
            group.shapes.append(Grid(x + 2, mid - size * 0.35, size * 0.7, (colours,), theme.cluster, ""))
        elif kind == "width":
            for k, width in enumerate((0.6, 1.4, 2.6)):
                a = x + 2 + 13 * k
                group.shapes.append(straight((a, mid), (a + 10, mid), theme.backward, theme.stroke * width))
        else:
            line = Edge("", "", "saved" if kind == "saved" else "correspondence")
            route = [(x, mid), (x + 12, mid), (x + 24, mid), (x + 36, mid)]
            group.shapes += _edge(0, line, route, theme).shapes
        group.shapes.append(Text(x + 44, y, text, size * 0.85, "sans", theme.faint))
        groups.append(group)
        x += 44 + text_width(text, "sans", size * 0.85) + size * 1.8
    return groups


def _with_captions(groups: list[Group], bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = bounds
    for group in groups:
        for shape in group.shapes:
            if isinstance(shape, Text):
                right = max(right, shape.x + text_width(shape.text, shape.font, shape.size))
                top, bottom = min(top, shape.y - shape.size), max(bottom, shape.y + shape.size * 0.3)
    return left, top, right, bottom


def scaled(shape: Shape, scale: float, dx: float, dy: float) -> Shape:
    """A shape under x -> scale x + (dx, dy); strokes and dashes scale with it."""
    made = _scaled_size(shape, scale)
    if isinstance(made, (Curve, Polygon)):
        return replace(made, points=tuple((x * scale + dx, y * scale + dy) for x, y in made.points))
    return replace(made, x=made.x * scale + dx, y=made.y * scale + dy)


def _scaled_size(shape: Shape, k: float) -> Shape:
    match shape:
        case Rect():
            dash = tuple(d * k for d in shape.dash)
            return replace(
                shape, width=shape.width * k, height=shape.height * k, radius=shape.radius * k, weight=shape.weight * k, dash=dash
            )
        case Ellipse():
            return replace(
                shape, rx=shape.rx * k, ry=shape.ry * k, weight=shape.weight * k, dash=tuple(d * k for d in shape.dash)
            )
        case Curve():
            return replace(shape, weight=shape.weight * k, dash=tuple(d * k for d in shape.dash))
        case Text():
            return replace(shape, size=shape.size * k)
        case Glyphs():
            return replace(shape, scale=shape.scale * k)
        case Grid():
            return replace(shape, side=shape.side * k)
    return shape


def _moved(shape: Shape, shift: Point) -> Shape:
    dx, dy = shift
    if isinstance(shape, (Curve, Polygon)):
        return replace(shape, points=tuple((x + dx, y + dy) for x, y in shape.points))
    return replace(shape, x=shape.x + dx, y=shape.y + dy)
