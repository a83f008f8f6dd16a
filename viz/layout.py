"""Where boxes stand and how edges run: forward by an engine, backward by reflection in parallel.

What enters: a diagram and the size of each box. What leaves: a :class:`Layout` in pixels, y downwards. Invariants: only the
forward part is laid out; every mirrored box has its primal's coordinates plus one fixed offset; a mirrored edge follows its
forward edge's route backwards; no two boxes overlap. Engines in order: the ``dot`` program on the path, pygraphviz's bundled
one, the own layered layout, which needs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from viz import engines, layered
from viz.dot import clusters_of
from viz.model import Diagram, Edge

Point = tuple[float, float]
CORRIDOR = 3.4  # gap between the forward and the backward part, in type sizes


@dataclass(frozen=True)
class Place:
    """Centre and size of a box."""

    x: float
    y: float
    width: float
    height: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True)
class Frame:
    """A cluster's outline."""

    scope: tuple[str, ...]
    bounds: tuple[float, float, float, float]
    backward: bool = False


@dataclass
class Layout:
    """Places by box id; routes by edge index as cubic Bezier points (1 + 3k of them); frames; the whole size."""

    places: dict[str, Place] = field(default_factory=dict)
    routes: dict[int, list[Point]] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    offset: Point = (0.0, 0.0)
    engine: str = ""


def place(diagram: Diagram, sizes: Mapping[str, tuple[float, float]], size: float) -> Layout:
    """Lay out a diagram; ``size`` is the type size, by which all gaps scale."""
    reserved = _reserved(diagram, sizes)
    gaps = _gaps(diagram, size)
    layout = None
    if len(reserved) <= engines.LIMIT:
        layout = engines.layout(diagram, reserved, gaps)
    if layout is None:
        layout = layered.layout(diagram, reserved, gaps)
    result = _from_engine(layout)
    if diagram.mirrored:
        _mirror(result, diagram, sizes, size)
    _route_rest(result, diagram)
    return result


def _reserved(diagram: Diagram, sizes: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Forward boxes, each as large as the larger of itself and its mirror image."""
    found = {b.id: sizes[b.id] for b in diagram.forward_boxes()}
    for box in diagram.boxes.values():
        if box.mirror_of and box.role != "accumulate":
            a, b = found[box.mirror_of], sizes[box.id]
            found[box.mirror_of] = max(a[0], b[0]), max(a[1], b[1])
    return found


def _gaps(diagram: Diagram, size: float) -> engines.Gaps:
    adds = any(b.role == "accumulate" for b in diagram.boxes.values())
    rank = size * (5.0 if adds else 3.0 if diagram.direction == "LR" else 2.6)
    return engines.Gaps(rank=rank, node=size * 1.5, size=size)


def _from_engine(raw: engines.RawLayout) -> Layout:
    places = {k: Place(*v) for k, v in raw.places.items()}
    frames = [Frame(scope, bounds) for scope, bounds in raw.frames.items()]
    return Layout(places, dict(raw.routes), frames, raw.width, raw.height, engine=raw.engine)


# --- the mirror ----------------------------------------------------------------------------------------------------


def _mirror(layout: Layout, diagram: Diagram, sizes: Mapping[str, tuple[float, float]], size: float) -> None:
    gap = size * CORRIDOR
    dx, dy = (0.0, layout.height + gap) if diagram.direction == "LR" else (layout.width + gap, 0.0)
    layout.offset = dx, dy
    for box in diagram.boxes.values():
        if not box.mirror_of:
            continue
        primal = layout.places[box.mirror_of]
        if box.role != "accumulate":
            layout.places[box.id] = replace(primal, x=primal.x + dx, y=primal.y + dy)
            continue
        width, height = sizes[box.id]
        if diagram.direction == "LR":
            shift = primal.width / 2 + size * 1.1 + width / 2
            layout.places[box.id] = Place(primal.x + dx + shift, primal.y + dy, width, height)
        else:
            shift = primal.height / 2 + size * 1.1 + height / 2
            layout.places[box.id] = Place(primal.x + dx, primal.y + dy + shift, width, height)
    for index, edge in enumerate(diagram.edges):
        if edge.mirror_of is not None and edge.mirror_of in layout.routes:
            layout.routes[index] = _reflected(layout, diagram, edge, layout.routes[edge.mirror_of])
    backward = {b.mirror_of for b in diagram.boxes.values()}
    frames = clusters_of(diagram)
    for frame in list(layout.frames):
        if any(i in backward for i in frames.get(frame.scope, ())):
            left, top, right, bottom = frame.bounds
            layout.frames.append(Frame(frame.scope, (left + dx, top + dy, right + dx, bottom + dy), True))
    layout.width += dx
    layout.height += dy


def _reflected(layout: Layout, diagram: Diagram, edge: Edge, route: list[Point]) -> list[Point]:
    dx, dy = layout.offset
    points = [(x + dx, y + dy) for x, y in reversed(route)]
    if diagram.boxes[edge.head].role != "accumulate":
        return points
    plus = layout.places[edge.head]
    axis = 0 if diagram.direction == "LR" else 1
    limit = (plus.x, plus.y)[axis] + plus.width
    while len(points) > 4 and points[-4][axis] < limit:  # a long edge keeps its way around other boxes up to the (+)
        points = points[:-3]
    last, along = points[-4], points[-3]
    toward = _unit((along[0] - last[0], along[1] - last[1]))
    reach = 0.4 * ((last[0] - plus.x) ** 2 + (last[1] - plus.y) ** 2) ** 0.5
    control = (last[0] + toward[0] * reach, last[1] + toward[1] * reach)
    return [*points[:-3], *_to_circle(control, plus)]


def _to_circle(control: Point, plus: Place) -> list[Point]:
    """The last Bezier piece to the border of a circle."""
    ux, uy = _unit((control[0] - plus.x, control[1] - plus.y))
    radius = plus.width / 2
    end = (plus.x + ux * radius, plus.y + uy * radius)
    before = (plus.x + ux * radius * 2.4, plus.y + uy * radius * 2.4)
    return [control, before, end]


# --- edges that no engine routed -----------------------------------------------------------------------------------


def _route_rest(layout: Layout, diagram: Diagram) -> None:
    columns = _columns(layout, diagram)
    for index, edge in enumerate(diagram.edges):
        if index in layout.routes:
            continue
        tail, head = layout.places[edge.tail], layout.places[edge.head]
        if edge.kind == "correspondence":
            layout.routes[index] = _bowed(tail, head, columns, diagram.direction)
        else:
            layout.routes[index] = _direct(tail, head, edge, diagram)


def _columns(layout: Layout, diagram: Diagram) -> dict[int, list[Place]]:
    """Boxes by their place along the flow, so that those between a box and its mirror image are found at once."""
    found: dict[int, list[Place]] = {}
    for place_ in layout.places.values():
        found.setdefault(round(place_.x if diagram.direction == "LR" else place_.y), []).append(place_)
    return found


def _bowed(tail: Place, head: Place, columns: Mapping[int, list[Place]], direction: str) -> list[Point]:
    """A line from a box to its image: straight, or bowed around the boxes that stand between them in the same rank."""
    flow = direction == "LR"
    if flow:
        between = [p for p in columns.get(round(tail.x), ()) if tail.y < p.y < head.y]
        bow = max((p.width for p in between), default=0.0) / 2
        a, b = (tail.x, tail.y + tail.height / 2), (head.x, head.y - head.height / 2)
    else:
        between = [p for p in columns.get(round(tail.y), ()) if tail.x < p.x < head.x]
        bow = max((p.height for p in between), default=0.0) / 2
        a, b = (tail.x + tail.width / 2, tail.y), (head.x - head.width / 2, head.y)
    if not between:
        return [a, *_thirds(a, b), b]
    reach = (bow + 14) * 4 / 3
    if flow:  # out of the corner, so that the line is seen beside the box below
        a, b = (a[0] + tail.width * 0.3, a[1] - tail.height * 0.1), (b[0] + head.width * 0.3, b[1] + head.height * 0.1)
        return [a, (a[0] + reach, a[1] + 20), (b[0] + reach, b[1] - 20), b]
    a, b = (a[0] - tail.width * 0.1, a[1] - tail.height * 0.3), (b[0] + head.width * 0.1, b[1] - head.height * 0.3)
    return [a, (a[0] + 20, a[1] - reach), (b[0] - 20, b[1] - reach), b]


def _direct(tail: Place, head: Place, edge: Edge, diagram: Diagram) -> list[Point]:
    """A Bezier between the borders of two boxes."""
    dx, dy = head.x - tail.x, head.y - tail.y
    if edge.kind == "saved":
        return _saved(tail, head, diagram.direction)
    a, b = border(tail, (dx, dy)), border(head, (-dx, -dy))
    return [a, *_thirds(a, b), b]


def _thirds(a: Point, b: Point) -> list[Point]:
    third = ((b[0] - a[0]) / 3, (b[1] - a[1]) / 3)
    return [(a[0] + third[0], a[1] + third[1]), (b[0] - third[0], b[1] - third[1])]


def _saved(tail: Place, head: Place, direction: str) -> list[Point]:
    """From the side that faces the backward part to the side that faces the forward part, off the correspondence's line."""
    if direction == "LR":
        side = 1 if head.x > tail.x else -1
        a = (tail.x + side * min(tail.width * 0.22, abs(head.x - tail.x)), tail.y + tail.height / 2)
        b = (head.x - side * head.width * 0.22, head.y - head.height / 2)
        bend = max(abs(b[1] - a[1]) * 0.45, 20)
        return [a, (a[0], a[1] + bend), (b[0], b[1] - bend), b]
    side = 1 if head.y > tail.y else -1
    a = (tail.x + tail.width / 2, tail.y + side * tail.height * 0.22)
    b = (head.x - head.width / 2, head.y - side * head.height * 0.22)
    bend = max(abs(b[0] - a[0]) * 0.45, 20)
    return [a, (a[0] + bend, a[1]), (b[0] - bend, b[1]), b]


def border(place: Place, toward: Point) -> Point:
    """Where the ray from a box's centre leaves its rectangle."""
    dx, dy = toward
    if dx == 0 and dy == 0:
        return place.x, place.y
    scale = min(
        place.width / 2 / abs(dx) if dx else float("inf"),
        place.height / 2 / abs(dy) if dy else float("inf"),
    )
    return place.x + dx * scale, place.y + dy * scale


def _unit(vector: Point) -> Point:
    length = (vector[0] ** 2 + vector[1] ** 2) ** 0.5
    return (vector[0] / length, vector[1] / length) if length else (1.0, 0.0)
