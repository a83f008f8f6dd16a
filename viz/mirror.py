r"""The backward graph as a mirror of the forward one: every adjoint stands opposite to its primal.

What enters: the view of a loss's graph and the gradients as nodes. What leaves: the same diagram with mirrored boxes, which
layout puts at a fixed offset from their primals. Invariants: every forward op that a derivative flows through has exactly one
adjoint box, which holds the chain rule of that op; each forward edge with a derivative has one backward edge, reversed; a value
with several contributions has an explicit (+); what the backward pass reads of the forward pass is an edge of its own kind. ::

    a --> mul --> loss        forward
    :      :       :
    a' <-- mul' <-- 1         backward: a' = v1' * b
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphc.errors import DrawError
from graphc.ir import Graph, Node, topological
from graphc.ops.declare import Custom, NotDifferentiable, Partials, Transpose, Zero
from graphc.variables import Variable
from viz.fonts import truncate
from viz.formula import bar
from viz.model import Box, Edge, Line
from viz.values import Run, latex_number
from viz.view import View, census, fill

_RULES = 3  # lines of chain rule in a box
_CODE = 8  # nodes listed in a box at level "primitives"


def gradients_of(loss: Node, graph: Graph, backward: Any, wrt: Any) -> dict[Node, Node]:
    """Node -> gradient from whatever ``draw(backward=...)`` was given: a mapping, a Graph of gradients, or True.

    With True the gradients are made by ``passes.differentiate``, imported by name at this one place: pictures read graphs and
    do not depend on what makes them.

    Raises:
        DrawError: nothing to differentiate with respect to, or an entry is no node of the graph.
    """
    if isinstance(backward, Graph):
        by_name = {n.name: n for n in (*graph.parameters, *graph.inputs)}
        backward = {by_name[k]: v for k, v in backward.outputs.items() if k in by_name}
        if not backward:
            raise DrawError(
                "no output of the backward graph bears the name of an input or parameter",
                help="pass a mapping node -> gradient",
            )
    if isinstance(backward, Mapping):
        return {_as_node(k, graph): v for k, v in backward.items()}
    if loss.shape != () or not loss.dtype.is_float:
        raise DrawError(
            f"the backward graph starts from a float scalar, {loss.name or 'the value'} is {loss.type}", source=loss.source,
            help="draw the loss, or pass backward={node: gradient} made by graphc.vjp",
        )  # fmt: skip
    targets = [_as_node(t, graph) for t in _listed(wrt)] if wrt is not None else _default_targets(graph, loss)
    if not targets:
        raise DrawError(
            "nothing to differentiate with respect to", help="the loss reads no parameter and no float input"
        )
    made = importlib.import_module("passes.differentiate").grad(loss, targets)
    return dict(zip(targets, made, strict=True))


def _listed(wrt: Any) -> list[Any]:
    if isinstance(wrt, Mapping):
        return list(wrt.values())
    return list(wrt) if isinstance(wrt, (list, tuple, set, frozenset)) else [wrt]


def _as_node(item: Any, graph: Graph) -> Node:
    if isinstance(item, Node) and item in graph.users:
        return item
    variable = item.attrs["variable"] if isinstance(item, Node) and item.op.name == "parameter" else item
    found = next(
        (p for p in graph.parameters if isinstance(variable, Variable) and p.attrs["variable"] is variable), None
    )
    if found is None:
        label = getattr(item, "name", "") or repr(item)
        raise DrawError(
            f"{truncate(label, 60)} is no value of graph {graph.name}", help="give values that the loss is made from"
        )
    return found


def _default_targets(graph: Graph, loss: Node) -> list[Node]:
    reached = set(topological((loss,)))
    trainable = [p for p in graph.parameters if p in reached and p.attrs["variable"].trainable and p.dtype.is_float]
    return trainable or [n for n in graph.inputs if n in reached and n.dtype.is_float]


@dataclass
class _Mirror:
    """What is known while the backward part is built."""

    view: View
    loss: Node
    gradients: dict[Node, Node]
    active: set[Node] = field(default_factory=set)
    made: dict[str, list[Node]] = field(default_factory=dict)  # forward box -> backward nodes it accounts for
    saved: dict[tuple[str, str], Node] = field(
        default_factory=dict
    )  # (forward box, box whose adjoint reads it) -> value
    flowing: list[int] = field(default_factory=list)  # forward edges that have a derivative
    inflow: dict[str, int] = field(default_factory=dict)  # forward box -> number of contributions to its adjoint
    run: Run | None = None


def notation_of(name: str) -> str:
    """The notation of gradients by its name.

    Raises:
        DrawError: there is none of that name.
    """
    if name not in ("bar", "leibniz"):
        raise DrawError(f"notation={name!r}", help="choose 'bar' (x̄) or 'leibniz' (∂L/∂x)")
    return name


def adjoint(view: View, tex: str) -> str:
    """The gradient of a value in the view's notation."""
    if view.notation == "leibniz":
        return rf"\frac{{\partial {view.loss_tex}}}{{\partial {tex}}}"
    return bar(tex)


def add_backward(view: View, loss: Node, gradients: dict[Node, Node], run: Run | None = None) -> View:
    """Add the mirrored boxes and edges for the gradients of ``loss`` to a view's diagram.

    Args:
        run: numbers of one run; chain rules between scalars are then worked out below their symbols.
    """
    view.loss_tex = view.tex[view.resolved[loss]]
    mirror = _Mirror(view, loss, gradients, run=run)
    _find_active(mirror)
    _assign(mirror)
    _flow(mirror)
    _add_boxes(mirror)
    _add_edges(mirror)
    names = ", ".join(n.name for n in gradients if n.name)
    view.diagram.summary += (
        f" Beside it the backward graph: every operation's chain rule opposite to it, and gradients of {names}."
    )
    return view


def _carries(node: Node) -> bool:
    return node.dtype.is_float and not isinstance(node.op.derivative, (Zero, NotDifferentiable))


def _find_active(mirror: _Mirror) -> None:
    reached = topological((mirror.loss,))
    active = set(mirror.gradients)
    for node in reached:
        if not node.op.is_source and _carries(node) and any(i in active for i in node.inputs):
            active.add(node)
    mirror.active = active & set(reached)


def _assign(mirror: _Mirror) -> None:
    """Give every backward node to the box of its primal, and note which forward values it reads."""
    view = mirror.view
    home: dict[Node, str] = {}
    reader: dict[Node, Node] = {}  # a hidden node counts for the op that reads it
    for node in view.graph.nodes:
        for operand in node.inputs:
            reader.setdefault(operand, node)
    for node in topological(mirror.gradients.values()):
        if node in view.resolved:
            continue
        primal = node.primal
        seen: set[Node] = set()
        while primal is not None and primal not in view.resolved and primal not in seen:
            seen.add(primal)  # a node of a composite's expansion: its own primal is the composite
            primal = primal.primal
        while primal is not None and primal not in view.box_of:
            primal = reader.get(primal)
        if primal is None or any(o.rule in ("seed", "accumulate") for o in node.origins):
            continue
        box = home[node] = view.box_of[primal]
        mirror.made.setdefault(box, []).append(node)
        for operand in node.inputs:
            value = view.resolved.get(operand)
            if value is not None and value.op.name != "constant" and view.box_of[value] != box:
                mirror.saved.setdefault((view.box_of[value], box), value)


def _flows(mirror: _Mirror, tail: Node, head: Node, position: int) -> bool:
    """Whether the head's derivative reaches this operand."""
    if tail not in mirror.active or head not in mirror.active:
        return False
    match head.op.derivative:
        case Transpose(operands=operands):
            return position in operands
        case Partials(latex=latex) | Custom(latex=latex):
            return not (position < len(latex) and latex[position] == "")
    first = next(i for i, o in enumerate(head.inputs) if mirror.view.resolved[o] is tail)
    return position == first  # an expansion sums its own contributions


def _flow(mirror: _Mirror) -> None:
    for index, uses in enumerate(mirror.view.uses):
        if any(_flows(mirror, *use) for use in uses):
            mirror.flowing.append(index)
            tail = mirror.view.diagram.edges[index].tail
            mirror.inflow[tail] = mirror.inflow.get(tail, 0) + 1


# --- boxes ---------------------------------------------------------------------------------------------------------


def _add_boxes(mirror: _Mirror) -> None:
    view, diagram = mirror.view, mirror.view.diagram
    end = next(k for k, n in view.outputs.items() if n is mirror.loss)
    seed = Line(f"{adjoint(view, view.tex[view.resolved[mirror.loss]])} = 1", "formula")
    seeded = mirror.loss.shape == ()
    lines = (seed,) if seeded else (Line("cotangent", "note"),)
    diagram.add(
        Box(f"g{end}", "seed", lines, "the backward pass starts here: the loss changes as itself", (), end, True)
    )
    for node, box_id in list(view.box_of.items()):
        if node not in mirror.active or f"g{box_id}" in diagram.boxes:
            continue
        primal = diagram.boxes[box_id]
        box = _mirrored(mirror, node, primal)
        diagram.add(box)
        if mirror.inflow.get(box_id, 0) > 1:
            tip = f"{mirror.inflow[box_id]} contributions to the gradient of {primal.title} are added"
            diagram.add(Box(f"s{box_id}", "accumulate", (Line("+", "title"),), tip, primal.scope, box_id, True))


def _mirrored(mirror: _Mirror, node: Node, primal: Box) -> Box:
    view = mirror.view
    lines: tuple[Line, ...]
    made = mirror.made.get(primal.id, [])
    tip = f"chain rule through {primal.title}"
    if made:
        tip += ": " + census(made, 12)
    if primal.role == "collapsed":
        made = [n for n in made if view.collapse.copies.get(n.primal, ((), 0))[1] == 0] if view.collapse.copies else made  # type: ignore[arg-type]
        lines = (Line(f"∂ {primal.title}", "title"), Line(f"{len(made)} nodes", "note"), Line(census(made), "note"))
        return Box(f"g{primal.id}", "adjoint", lines, tip, (), primal.id, True)
    shape = (Line(truncate(str(node.type), 30), "shape"),) if view.shapes else ()
    if not any(i in mirror.active for i in node.inputs):
        role = "parameter_gradient" if node.op.name == "parameter" else "gradient"
        tip = f"gradient of {mirror.loss.name or 'the loss'} with respect to {node.name}: {node.type}"
        name = Line(adjoint(view, view.tex[node]), "formula")
        return Box(f"g{primal.id}", role, (name, *shape), tip, primal.scope, primal.id, True)  # type: ignore[arg-type]
    if view.level == "primitives":
        code = [Line(truncate(f"{n.op.name}: {n.type}", 36), "code") for n in made[:_CODE]]
        more = [Line(f"and {len(made) - _CODE} more", "note")] if len(made) > _CODE else []
        lines = (Line(f"∂ {primal.title}", "title"), *code, *more)
    else:
        lines = (Line(f"∂ {primal.title}", "title"), *chain_rule(mirror, node))
    return Box(f"g{primal.id}", "adjoint", lines, tip, primal.scope, primal.id, True)


def chain_rule(mirror: _Mirror, node: Node) -> list[Line]:
    """A line an operand: its adjoint (or what is added to it) in terms of the node's adjoint."""
    view = mirror.view
    if not view.formulas:
        return [Line(census(mirror.made.get(view.box_of[node], ())) or "copies", "note")]
    lines: list[list[Line]] = []
    for position, operand in enumerate(node.inputs):
        tail = view.resolved[operand]
        if not _flows(mirror, tail, node, position):
            continue
        right = operand_rule(view, node, position)
        if operand is not tail:
            right = rf"\textstyle\sum {_bracketed(right)}"  # a broadcast was folded into the edge
        sign = "=" if mirror.inflow[view.box_of[tail]] == 1 else r"\;{+}{=}\;"
        numbers = worked_out(mirror, node, position)
        if numbers:
            view.worked.setdefault(view.box_of[node], []).append(position)
        lines.append([Line(f"{adjoint(view, view.tex[tail])} {sign} {right}", "formula"), *numbers])
    shown = [line for rule in lines[:_RULES] for line in rule]
    return shown + ([Line("…", "note")] if len(lines) > _RULES else [])


def worked_out(mirror: _Mirror, node: Node, position: int) -> list[Line]:
    """The chain rule of a scalar op with its numbers in place of the names, and the result; nothing without a run."""
    run, view = mirror.run, mirror.view
    if run is None or (node, position) not in run.contributions or any(i.shape for i in (node, *node.inputs)):
        return []
    names = {view.resolved[i]: latex_number(run.values[i]) for i in node.inputs}
    names[node] = latex_number(run.values[node])
    numbers = operand_rule(view, node, position, names, latex_number(run.gradients[node]))
    result = latex_number(run.contributions[node, position]).removeprefix("(").removesuffix(")")
    same = numbers.removeprefix("(").removesuffix(")") == result
    return [Line(f"{{}} = {result}" if same else f"{{}} = {numbers} = {result}", "formula")]


def operand_rule(
    view: View, node: Node, position: int, names: Mapping[Node, str] | None = None, g: str | None = None
) -> str:
    """The cotangent of one operand as LaTeX, from the op's own derivative.

    Args:
        names: what stands for each value (its name unless said). g: what stands for the node's own gradient.
    """
    names = view.tex if names is None else names
    operands = [names[view.resolved[i]] for i in node.inputs]
    y = names[node]
    g = adjoint(view, y) if g is None else g
    fields = {**node.attrs, "y": y, "g": g}
    latex: Sequence[str] = getattr(node.op.derivative, "latex", ())
    template = latex[position] if position < len(latex) else ""
    found = fill(template, operands, fields) if template else None
    if found is None:
        return rf"{g}\,\frac{{\partial {y}}}{{\partial {operands[position]}}}"
    if not isinstance(node.op.derivative, Partials):
        return found.replace(r"\,\mathbf 1", "")  # a scalar that spreads over a tensor reads better without its ones
    if found in ("1", "-1"):
        return g if found == "1" else "{-}" + g  # a sign, not a difference
    return rf"{g} \cdot {_bracketed(found)}"


def _bracketed(latex: str) -> str:
    """In parentheses if it is a sum or begins with a sign."""
    depth = 0
    for c in latex:
        depth += (c in "{(") - (c in "})")
        if latex.startswith("{-}") or (depth == 0 and c in "+-"):
            return f"({latex})"
    return latex


# --- edges ---------------------------------------------------------------------------------------------------------


def _add_edges(mirror: _Mirror) -> None:
    diagram = mirror.view.diagram
    forward = list(diagram.edges)
    flowing = set(mirror.flowing)
    for index, edge in enumerate(forward):
        seed = edge.head in mirror.view.outputs and f"g{edge.head}" in diagram.boxes
        if index not in flowing and not seed:
            continue
        target = f"s{edge.tail}" if f"s{edge.tail}" in diagram.boxes else f"g{edge.tail}"
        if f"g{edge.head}" in diagram.boxes and target in diagram.boxes:
            diagram.edges.append(Edge(f"g{edge.head}", target, "backward", tooltip="chain rule", mirror_of=index))
    for box in list(diagram.boxes.values()):
        if box.role == "accumulate":
            diagram.edges.append(Edge(box.id, f"g{box.mirror_of}", "backward", tooltip="sum of the contributions"))
        elif box.mirror_of:
            diagram.edges.append(Edge(box.mirror_of, box.id, "correspondence", tooltip="value and its gradient"))
    for (source, box_id), value in mirror.saved.items():
        if f"g{box_id}" in diagram.boxes:
            tip = f"{mirror.view.names.get(value, '')} is saved for the backward pass"
            diagram.edges.append(Edge(source, f"g{box_id}", "saved", tooltip=tip))
