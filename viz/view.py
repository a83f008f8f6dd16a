"""A graph as boxes and edges: what is visible, what is folded, and what everything is called.

What enters: a :class:`Graph`. What leaves: a :class:`View`, a diagram with the map from nodes to boxes. Invariants: at level
"ops" broadcasts are folded into the edges that pass through them; a graph with more than :data:`LIMIT` visible nodes collapses
by scope, and beyond :data:`CROWD` into bands of its order, so that a picture never has more boxes than can be laid out; all
work is linear and iterative. ::

    x -> broadcast -> mul      is drawn      x -> mul
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphc.errors import DrawError
from graphc.ir import Graph, Node
from graphc.provenance import Origin
from graphc.text import print_node, value_names
from viz.collapse import LIMIT, Collapse, collapse
from viz.fonts import truncate
from viz.formula import latex_name
from viz.model import Box, Diagram, Direction, Edge, Line, Role

SMALL = 12  # nodes up to which a graph runs from left to right
LEVELS = ("layers", "ops", "primitives")  # and "kernels", which is no view of the graph
FORMULAS = 80  # boxes up to which formulas are set
_TOOLTIP = 600
_ANCESTRY = 64  # derivations that are followed back


@dataclass
class View:
    """A diagram and how it came from its graph.

    Attributes:
        box_of: visible node -> box id (several nodes share a collapsed box).
        resolved: every node -> the visible node whose value it passes on (itself unless hidden).
        tex: visible node -> its name in formulas. uses: edge index -> (tail, head, operand position) of the reads it shows.
        worked: box -> the operand positions whose chain rules are worked out in its mirror image, in order.
    """

    graph: Graph
    diagram: Diagram
    level: str
    box_of: dict[Node, str] = field(default_factory=dict)
    resolved: dict[Node, Node] = field(default_factory=dict)
    tex: dict[Node, str] = field(default_factory=dict)
    names: Mapping[Node, str] = field(default_factory=dict)
    uses: list[list[tuple[Node, Node, int]]] = field(default_factory=list)
    outputs: dict[str, Node] = field(default_factory=dict)
    worked: dict[str, list[int]] = field(default_factory=dict)
    formulas: bool = True
    shapes: bool = True
    notation: str = "bar"  # of gradients: "bar" or "leibniz"
    loss_tex: str = "L"
    collapse: Collapse = field(default_factory=Collapse)


def build_view(
    graph: Graph, *, level: str = "ops", direction: str | None = None, name: str | None = None, formulas: bool = True
) -> View:
    """The view of a graph at a level; formulas are set where they are wanted and boxes are few.

    Raises:
        DrawError: an unknown level or direction, or a graph without nodes.
    """
    if level not in LEVELS:
        raise DrawError(f"level={level!r}", help="choose 'layers', 'ops', 'primitives' or 'kernels'")
    if direction not in (None, "", "LR", "TB"):
        raise DrawError(f"direction={direction!r}", help="choose 'LR' or 'TB'")
    if not graph.nodes:
        raise DrawError(f"graph {graph.name} has no nodes to draw", help="give it an output")
    view = View(graph, Diagram(name or graph.name), level)
    visible = _resolve(view)
    view.collapse = collapse(visible, _frame_of, level)
    keys = view.collapse.keys
    boxes = len(set(keys.values())) if keys else len(visible)
    view.formulas = formulas and boxes <= FORMULAS
    view.shapes = any(n.shape for n in visible)
    view.names = value_names(graph)
    _name(view, visible)
    view.diagram.direction = _direction(direction, boxes)
    if keys:
        _collapsed_boxes(view, visible, keys)
    else:
        for i, node in enumerate(visible):
            view.box_of[node] = f"n{i}"
            view.diagram.add(node_box(view, node, f"n{i}"))
    _edges(view, visible)
    _roots(view)
    view.diagram.summary = _summary(view, visible)
    return view


def _direction(wanted: str | None, count: int) -> Direction:
    if wanted == "LR" or (not wanted and count <= SMALL):
        return "LR"
    return "TB"


def _resolve(view: View) -> list[Node]:
    roots = set(view.graph.roots)
    visible = []
    for node in view.graph.nodes:
        hidden = view.level != "primitives" and node.op.name == "broadcast" and node not in roots
        view.resolved[node] = view.resolved[node.inputs[0]] if hidden else node
        if not hidden:
            visible.append(node)
    return visible


def scope_of(node: Node) -> tuple[str, ...]:
    """The scope path of a node: of its declaration, or of a parameter's full name."""
    if node.op.name == "parameter" and "/" in node.name:
        return tuple(node.name.split("/")[:-1])
    return node.source.scope if node.source else ()


def short_name(node: Node) -> str:
    """A node's name without its scope."""
    return node.name.rpartition("/")[2]


def _name(view: View, visible: Iterable[Node]) -> None:
    names = {node: key for key, node in reversed(list(view.graph.outputs.items()))}
    count = 0
    positions = view.collapse.positions(visible)
    known: dict[Any, str] = {}  # copies of a folded layer are named alike
    for node in visible:
        if positions[node] in known:
            view.tex[node] = known[positions[node]]
            continue
        name = short_name(node) or ("" if node.op.is_source else names.get(node, ""))
        if node.op.name == "constant":
            view.tex[node] = _number(node) or r"\mathrm{const}"
        elif name:
            view.tex[node] = latex_name(truncate(name, 16))
        else:
            count += 1
            view.tex[node] = f"v_{{{count}}}"
        known[positions[node]] = view.tex[node]


def _number(node: Node) -> str:
    """A constant of one value as text; "" if its elements differ."""
    value = node.attrs["value"]
    first = value.reshape(-1)[0] if value.size else None
    if first is None or (value.size > 1 and (value.size > 1 << 16 or not (value == first).all())):
        return ""
    return f"{first:g}" if value.dtype.kind == "f" else str(first)


def is_backward(node: Node) -> bool:
    """Whether a node exists for the derivative alone: every way in which it was derived leads back to an adjoint."""
    return all(_leads_to_adjoint(origin) for origin in node.origins)


def _leads_to_adjoint(origin: Origin) -> bool:
    for _ in range(_ANCESTRY):
        if origin.primal is not None:
            return True
        if not origin.parents:
            return False
        origin = origin.parents[0].origins[0]
    return False


# --- labels --------------------------------------------------------------------------------------------------------


def node_box(view: View, node: Node, box_id: str) -> Box:
    """The box of one node: role, label, tooltip."""
    role: Role = {"input": "input", "parameter": "parameter", "constant": "constant"}.get(node.op.name, "op")  # type: ignore[assignment]
    shape = [Line(truncate(str(node.type), 30), "shape")] if view.shapes else []
    if role == "constant":
        number = _number(node)
        lines = [Line(number, "note")] if number else [Line("constant", "note"), *shape]
    elif role != "op":
        lines = [Line(truncate(short_name(node) or role), "name"), *shape]
    else:
        lines = [Line(_title(node), "title"), *shape]
        if view.formulas:
            lines.insert(1, Line(node_formula(view, node), "formula"))
    scope = () if role == "input" else tuple(truncate(s) for s in scope_of(node))
    return Box(box_id, role, tuple(lines), tooltip(view, node), scope, backward=is_backward(node))


def _title(node: Node) -> str:
    if node.op.name == "custom":
        return truncate(str(getattr(node.attrs.get("function"), "__name__", "custom")))
    return node.op.name.replace("_", " ")


def node_formula(view: View, node: Node) -> str:
    """``v_1 = a + b``: the op's formula over its operands' names."""
    operands = [view.tex[view.resolved[i]] for i in node.inputs]
    right = fill(node.op.latex, operands, dict(node.attrs)) if node.op.latex else None
    if right is None:
        right = rf"{latex_name(node.op.name)}({', '.join(operands)})"
    if right.startswith("-"):
        right = "{-}" + right[1:]  # a sign, not a difference
    return f"{view.tex[node]} = {right}"


def fill(template: str, operands: list[str], fields: Mapping[str, Any]) -> str | None:
    """An op's formula with its fields filled in, or None if it asks for one that there is not."""
    try:
        return template.format(*operands, **fields)
    except (KeyError, IndexError, ValueError, AttributeError):
        return None


def tooltip(view: View, node: Node) -> str:
    """The node's line of text, its name in full, the user's line, and how it was derived."""
    if node.op.name == "constant":
        text = f"{view.names.get(node, '')}: {node.type} = constant"
    elif node.op.is_source:
        text = f"{node.op.name} {node.name}: {node.type}"
    else:
        text = print_node(node, view.names, sources=False)
    parts = [text[:_TOOLTIP]]
    if node.name and node.name not in parts[0]:
        parts.append(f"name: {node.name[:_TOOLTIP]}")
    if node.source is not None:
        parts.append(str(node.source) + (f" in {'/'.join(node.source.scope)}" if node.source.scope else ""))
    if any(o.rule for o in node.origins):
        parts.append("from " + ", ".join(str(o) for o in node.origins[:4]))
    return "\n".join(parts)


# --- collapsing ----------------------------------------------------------------------------------------------------


def _frame_of(node: Node) -> tuple[str, ...]:
    """The scope whose frame a node stands in: inputs stand outside of all."""
    return () if node.op.name == "input" else scope_of(node)


def _collapsed_boxes(view: View, visible: list[Node], keys: Mapping[Node, Any]) -> None:
    members: dict[Any, list[Node]] = {}
    for node in visible:
        members.setdefault(keys[node], []).append(node)
    position = {n: i for i, n in enumerate(visible, 1)}
    copies = view.collapse.copies
    for i, (key, nodes) in enumerate(members.items()):
        box_id = f"n{i}"
        view.box_of.update(dict.fromkeys(nodes, box_id))
        first = [n for n in nodes if copies.get(n, ((), 0))[1] == 0]
        if len(first) == 1:
            box = node_box(view, first[0], box_id)
            view.diagram.add(replace(box, scope=view.collapse.display(view.collapse.shown[first[0]])))
            continue
        banded = isinstance(key, int)
        title = f"nodes {position[nodes[0]]} to {position[nodes[-1]]}" if banded else _scope_title(view, key)
        backward = all(is_backward(n) for n in nodes)
        tip = f"{title}: {census(nodes, 40)}"
        frame = view.collapse.display(key)[:-1] if view.level == "layers" and not banded else ()
        lines = (Line(truncate(title, 36), "title"), *_layer_lines(view, first))
        view.diagram.add(Box(box_id, "collapsed", lines, tip, frame, backward=backward))


def _scope_title(view: View, key: tuple[str, ...]) -> str:
    names = view.collapse.display(key)
    return names[-1] if view.level == "layers" else "/".join(names)


def _layer_lines(view: View, nodes: list[Node]) -> tuple[Line, ...]:
    """What a collapsed box says: at level "layers" its result's type and its weights, else what is in it."""
    if view.level != "layers":
        return (Line(f"{len(nodes)} nodes", "note"), Line(census(nodes), "note"))
    ops = [n for n in nodes if not n.op.is_source]
    lines = [Line(census(ops), "note")] if ops else []
    weights = [n.attrs["variable"].value.size for n in nodes if n.op.name == "parameter"]
    if weights:
        each = " each" if any(view.collapse.copies.get(n) for n in nodes) else ""
        lines.append(Line(f"{sum(weights):,} parameters{each}", "note"))
    if ops:
        lines.append(Line(truncate(str(ops[-1].type), 30), "shape"))
    return tuple(lines)


def census(nodes: Iterable[Node], most: int = 3) -> str:
    """What kinds of nodes there are: ``matmul ×2, add ×2, relu``."""
    counts = Counter(n.op.name for n in nodes)
    ranked = sorted(counts.items(), key=lambda item: (item[0] in ("constant", "broadcast"), -item[1], item[0]))
    words = [f"{op} ×{n}" if n > 1 else op for op, n in ranked[:most]]
    return ", ".join(words + (["…"] if len(ranked) > most else []))


# --- edges ---------------------------------------------------------------------------------------------------------


def _edges(view: View, visible: list[Node]) -> None:
    collapsed = len(set(view.box_of.values())) < len(visible)
    found: dict[tuple[str, str], int] = {}
    for node in visible:
        for position, operand in enumerate(node.inputs):
            tail = view.resolved[operand]
            pair = view.box_of[tail], view.box_of[node]
            if pair[0] == pair[1] or view.collapse.between_copies(tail, node):
                continue
            if collapsed and pair in found:
                view.uses[found[pair]].append((tail, node, position))
                continue
            if tail.op.name == "constant" and not collapsed:
                pair = _own_constant(view, pair, position)
            found[pair] = len(view.diagram.edges)
            hidden = f" through {operand.op.name} to {operand.type}" if operand is not tail else ""
            kind = "backward" if is_backward(tail) and is_backward(node) else "forward"
            tip = f"{view.names.get(tail, '')}: {tail.type}{hidden}"
            view.diagram.edges.append(Edge(*pair, kind, tooltip=tip))  # type: ignore[arg-type]
            view.uses.append([(tail, node, position)])


def _own_constant(view: View, pair: tuple[str, str], position: int) -> tuple[str, str]:
    """Every reader of a constant has a copy of it at hand: long lines from a shared 0 say nothing."""
    if not any(e.tail == pair[0] for e in view.diagram.edges):
        return pair
    box = view.diagram.boxes[pair[0]]
    copy = view.diagram.add(replace(box, id=f"{pair[0]}_{pair[1]}_{position}", scope=view.diagram.boxes[pair[1]].scope))
    return copy.id, pair[1]


def _roots(view: View) -> None:
    """Boxes of the outputs and of the updates of variables, at the far end."""

    def shape(node: Node) -> tuple[Line, ...]:
        return (Line(truncate(str(node.type), 30), "shape"),) if view.shapes else ()

    if len(view.graph.outputs) + len(view.graph.updates) > LIMIT:
        return
    for i, (key, node) in enumerate(view.graph.outputs.items()):
        box = Box(f"o{i}", "output", (Line(truncate(key), "name"), *shape(node)), f"output {key}: {node.type}",
                  backward=is_backward(node))  # fmt: skip
        _root_edge(view, box, node)
    for i, (state, node) in enumerate(view.graph.updates.items()):
        if view.resolved[node] is state:
            continue
        title = f"{truncate(short_name(state), 20)} ←"
        box = Box(
            f"u{i}", "update", (Line(title, "name"), *shape(node)), f"the next value of {state.name}: {node.type}"
        )
        _root_edge(view, box, node)


def _root_edge(view: View, box: Box, node: Node) -> None:
    view.diagram.add(box)
    view.outputs[box.id] = node
    tail = view.resolved[node]
    view.diagram.edges.append(
        Edge(view.box_of[tail], box.id, "backward" if is_backward(tail) else "forward", tooltip=str(node.type))
    )
    view.uses.append([])


def _summary(view: View, visible: list[Node]) -> str:
    graph = view.graph
    named = {
        "inputs": [n.name for n in graph.inputs], "parameters": [n.name for n in graph.parameters],
        "outputs": list(graph.outputs),
    }  # fmt: skip
    parts = [
        f"{kind} {', '.join(names[:12])}{' and more' if len(names) > 12 else ''}"
        for kind, names in named.items()
        if names
    ]
    ops = [n for n in visible if not n.op.is_source]
    text = f"Graph {view.diagram.name}: {'; '.join(parts)}. {len(ops)} operations"
    return f"{text}: {census(ops, 8)}." if ops else f"{text}."
