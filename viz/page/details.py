"""What is inside of a collapsed box: a picture of its own, laid out on its own, that the page opens in place of the whole.

What enters: a page's context. What leaves: for each collapsed box a picture of its nodes, with what enters as inputs and what leaves as
outputs, the chain rules beside it, and its steps; boxes that are collapsed in it lead further in. Invariants: of layers that repeat the
first is shown; a node of the whole is the same node inside, with its name, its source and, where the page has values, its numbers; all
pictures together are bounded by a number of nodes and of characters, the outer ones first. ::

    embed -> block x4 -> head        opened at "block":        input -> norm -> attention -> + -> ... -> block
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from graphc.errors import GraphcError
from graphc.ir import Graph, Node
from graphc.ops.declare import placeholder
from viz.collapse import LIMIT
from viz.flow import shade_edges, start_of
from viz.fonts import truncate
from viz.mirror import add_backward
from viz.page.pane import Context
from viz.render import scene_of
from viz.steps import Step, steps_of
from viz.svg import scene_to_svg
from viz.theme import VARIABLES
from viz.values import MOST, Run, annotate, run_view
from viz.view import View, build_view, short_name

MOST_DETAILS = 40
MOST_NODES = 6_000  # that all details stand for together
FORMULAS = 80  # nodes whose formulas are set, in all details together: a formula takes longer than its box
CHARACTERS = 1_200_000


@dataclass
class Detail:
    """The picture inside of a box: ``parent`` is the detail that the box is in, -1 the whole.

    ``outer`` leads from its nodes to those of the whole. ``plain`` has its sentences without numbers, where it has numbers.
    """

    parent: int
    box: str
    title: str
    view: View
    svg: str
    steps: list[Step]
    outer: dict[Node, Node]
    run: Run | None = None
    plain: list[str] = field(default_factory=list)


@dataclass
class _Inner:
    """A box's nodes as a graph of their own."""

    real: dict[Node, Node] = field(default_factory=dict)  # of the outer graph -> of the inner one
    entering: list[Node] = field(default_factory=list)
    leaving: dict[str, Node] = field(default_factory=dict)

    def outer(self) -> dict[Node, Node]:
        """Inner node -> the outer one that it stands for; what enters for its source, not for a broadcast of it."""
        found: dict[Node, Node] = {}
        for outer, inner in self.real.items():
            found.setdefault(inner, outer)
        return found


def details(context: Context) -> list[Detail]:
    """Pictures of all collapsed boxes, breadth first, as far as the bounds go."""
    if context.view is None:
        return []
    run, loss = _run_of(context)
    flow = None
    if run is not None and loss is not None and context.diagram.decades is not None:
        flow = start_of(run, loss), context.diagram.decades
    found: list[Detail] = []
    waiting: list[tuple[int, View, Run | None, dict[Node, Node]]] = [(-1, context.view, run, {n: n for n in context.view.graph.nodes})]
    nodes = characters = 0
    for parent, view, numbers, outer in waiting:
        for box in [b for b in view.diagram.boxes.values() if b.role == "collapsed"]:
            inside = _inside(view, box.id)
            nodes += len(inside)
            if len(found) >= MOST_DETAILS or nodes > MOST_NODES or characters > CHARACTERS:
                return found
            made = _detail(view, box.id, inside, parent, numbers, outer, context.diagram.mirrored, nodes <= FORMULAS, flow)
            if made is not None:
                found.append(made)
                characters += len(made.svg)
                waiting.append((len(found) - 1, made.view, made.run, made.outer))
    return found


def _run_of(context: Context) -> tuple[Run | None, Node | None]:
    """The whole's numbers, where there is a box to open, and the loss."""
    view = context.view
    assert view is not None
    loss = next((n for b, n in view.outputs.items() if f"g{b}" in context.diagram.boxes), None)
    if context.values is None or len(view.graph.nodes) > MOST or not any(b.role == "collapsed" for b in context.diagram.boxes.values()):
        return None, loss
    return run_view(view.graph, context.values, loss), loss


def _inside(view: View, box: str) -> list[Node]:
    """The nodes of a box in order; of layers that repeat those of the first."""
    copies = view.collapse.copies
    return [n for n in view.graph.nodes if view.box_of.get(n) == box and copies.get(n, ((), 0))[1] == 0]


def _detail(
    view: View, box: str, inside: list[Node], parent: int, run: Run | None, outer: dict[Node, Node], mirrored: bool, formulas: bool,
    flow: tuple[float, int] | None,
) -> Detail | None:  # fmt: skip
    inner = _inner(view, box, inside)
    if not inner.leaving:
        return None
    title = truncate(view.diagram.boxes[box].title, 40)
    numbers = _inner_run(inner, run)
    made = _shown(Graph(title, inner.leaving), inner, view, len(inside), numbers, mirrored, formulas)
    if made is None:
        return None
    plain: list[str] = []
    if numbers is not None:
        bare = _shown(Graph(title, inner.leaving), inner, view, len(inside), None, mirrored, formulas)
        plain = [s.sentence for s in steps_of(bare.diagram)] if bare is not None else []
    if numbers is not None and flow is not None and made.diagram.mirrored:
        shade_edges(made, numbers, *flow)
    whole = {r: outer[n] for r, n in inner.outer().items() if n in outer}
    svg = scene_to_svg(scene_of(made.diagram, VARIABLES)[0])
    return Detail(parent, box, title, made, svg, steps_of(made.diagram), whole, numbers, plain)


def _shown(
    graph: Graph, inner: _Inner, outer: View, count: int, numbers: Run | None, mirrored: bool, formulas: bool
) -> View | None:
    """The view of what is inside, with its mirror and its numbers; None if it shows nothing new."""
    made = _view(graph, count, outer, formulas)
    if made is None:
        return None
    made.notation = outer.notation
    if mirrored and len(inner.leaving) == 1:
        _mirror(made, inner, numbers)
    if numbers is not None:
        annotate(made, numbers)
    _without_common_frames(made)
    return made


def _view(graph: Graph, count: int, outer: View, formulas: bool) -> View | None:
    """The inner graph's view: each node where there is room, else one level further in; None if that shows nothing new."""
    levels = ("ops",) if count <= LIMIT else ("layers", "ops")
    for level in levels:
        level = level if outer.level != "primitives" else "primitives"
        made = build_view(graph, level=level, direction="LR", name=graph.name, formulas=formulas)
        shown = [b for b in made.diagram.boxes.values() if b.role in ("op", "collapsed")]
        if len(shown) > 1 or (len(shown) == 1 and shown[0].role == "op"):
            return made
    return None


def _inner(view: View, box: str, inside: list[Node]) -> _Inner:
    """Copies of the box's nodes on placeholders for what enters; values that pass unseen (broadcasts) come along."""
    made = _Inner()
    members = set(inside)
    taken: set[str] = set()

    def name_of(node: Node) -> str:
        outer = view.diagram.boxes.get(view.box_of.get(view.resolved[node], ""))
        base = short_name(node) or (outer.title if outer is not None else "") or "input"
        base = truncate(base, 24)
        k, name = 1, base
        while name in taken:
            k, name = k + 1, f"{base} ({k + 1})"
        taken.add(name)
        return name

    def inner(node: Node) -> Node:
        if node in made.real:
            return made.real[node]
        if node.op.name in ("constant", "parameter"):
            made.real[node] = node
        elif node not in members and view.resolved[node] is node:
            made.real[node] = placeholder(node.type, name_of(node))
            made.entering.append(made.real[node])
        return made.real.get(node, node)

    leaves: dict[Node, None] = {}
    roots = {view.resolved[r]: None for r in view.graph.roots}
    for node in view.graph.nodes:
        hidden = view.resolved[node] is not node
        if node in members or (hidden and view.resolved[node] in members):
            real = [inner(i) for i in node.inputs]
            made.real[node] = node if node.op.is_source else node.with_inputs(tuple(real))
        elif hidden:
            source = view.resolved[node]  # a broadcast of what enters: made again where it is read
            if any(u in members for u in view.graph.users[node]):
                made.real[node] = node.with_inputs(tuple(inner(i) for i in node.inputs)) if node.inputs[0] is source else inner(source)
        else:
            leaves.update(dict.fromkeys(r for i in node.inputs for r in (view.resolved[i],) if r in members))
    leaves.update(dict.fromkeys(n for n in roots if n in members))
    for node in leaves:
        if not node.op.is_source:
            made.leaving[_unused(made.leaving, short_name(node) or view.diagram.boxes[box].title)] = made.real[node]
    return made


def _unused(names: Iterable[str], wanted: str) -> str:
    known, k, name = set(names), 1, wanted
    while name in known:
        k, name = k + 1, f"{wanted} ({k + 1})"
    return name


def _inner_run(inner: _Inner, run: Run | None) -> Run | None:
    """The whole's numbers at the inner nodes."""
    if run is None:
        return None
    outer = inner.outer()
    contributions = {(inner.real[n], k): v for (n, k), v in run.contributions.items() if n in inner.real}
    return Run({r: run.values[n] for r, n in outer.items() if n in run.values},
               {r: run.gradients[n] for r, n in outer.items() if n in run.gradients}, contributions)  # fmt: skip


def _mirror(view: View, inner: _Inner, run: Run | None) -> None:
    """The chain rules beside the picture, from the cotangent of what leaves; a box without a derivative stays as it is."""
    (result,) = inner.leaving.values()
    within = set(view.graph.nodes)
    parameters = [p for p in view.graph.parameters if p.attrs["variable"].trainable]
    targets = [n for n in (*(e for e in inner.entering if e in within), *parameters) if n.dtype.is_float]
    if not targets or not result.dtype.is_float:
        return
    reverse = importlib.import_module("passes.differentiate").vjp  # by name: pictures depend on nothing that makes graphs
    try:
        made = reverse(result, targets, placeholder(result.type, "cotangent"))
    except GraphcError:  # an op without a derivative: forward alone
        return
    add_backward(view, result, dict(zip(targets, made, strict=True)), run)


def _without_common_frames(view: View) -> None:
    """Frames that all ops stand in say only where the reader is: the page says that above the picture."""
    scopes = [b.scope for b in view.diagram.forward_boxes() if b.role in ("op", "collapsed")]
    if not scopes:
        return
    low, high = min(scopes), max(scopes)
    depth = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    for box in view.diagram.boxes.values():
        box.scope = box.scope[depth:] if box.scope[:depth] == low[:depth] else ()
