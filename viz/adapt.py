"""Everything that can be drawn, as a diagram.

What enters: a value, a dict of values, a Graph, a stage of a trace, a Program, a fusion, a loop program. What leaves: a
:class:`Diagram`. Fusions and programs are recognised by what they have (``groups``, ``graph``), so that pictures depend on
nothing that makes or runs a graph.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from graphc.errors import DrawError
from graphc.ir import Graph, Node
from graphc.loops.ir import Kernel, LoopProgram
from graphc.trace import Stage, Trace
from viz.flow import shade_edges, start_of
from viz.fonts import truncate
from viz.launches import directions, launches
from viz.mirror import add_backward, gradients_of, notation_of
from viz.model import Box, Diagram, Edge, Line
from viz.values import annotate, run_view
from viz.view import View, build_view, census, is_backward

_FLOW = "the flow of gradients is drawn of a backward graph with numbers"
_WORDS = "a value, a dict of values, a Graph, a Stage of a trace, a Program, a fusion or a LoopProgram"


def diagram_of(
    what: Any, *, backward: Any = False, wrt: Any = None, level: str = "ops", direction: str | None = None,
    name: str | None = None, notation: str = "bar", values: Any = None, flow: bool = False,
) -> Diagram:  # fmt: skip
    """The diagram of whatever can be drawn.

    Raises:
        DrawError: it cannot be drawn, or it has no single loss to go back from.
    """
    wants_backward = backward is not False and backward is not None
    if flow and level == "kernels":
        raise DrawError(_FLOW, help="give another level")
    if isinstance(what, Stage):
        return diagram_of(
            what.artifact, backward=backward, wrt=wrt, level=level, direction=direction, name=name or what.name,
            notation=notation, values=values, flow=flow,
        )  # fmt: skip
    if isinstance(what, str):
        raise DrawError("text cannot be drawn", help="this stage is text: read it with stage.text()")
    if level == "kernels":
        what = _kernels_of(what, name)
    if isinstance(getattr(what, "program", None), LoopProgram):
        what = what.program  # a stage's wrapping of a loop program
    if isinstance(what, (LoopProgram, Kernel)) or _is_fusion(what):
        if wants_backward:
            raise DrawError(
                f"{type(what).__name__} has no backward graph of its own", help="draw the loss with backward=True"
            )
        return _kernels(what, direction, name)
    return view_of(
        what, backward=backward, wrt=wrt, level=level, direction=direction, name=name, notation=notation, values=values, flow=flow
    ).diagram


def view_of(
    what: Any, *, backward: Any = False, wrt: Any = None, level: str = "ops", direction: str | None = None,
    name: str | None = None, notation: str = "bar", values: Any = None, flow: bool = False,
) -> View:  # fmt: skip
    """The diagram of a graph with the map from its nodes to boxes.

    Raises:
        DrawError: it is no graph and has none, or no single loss to go back from.
    """
    wants_backward = backward is not False and backward is not None
    if flow and (not wants_backward or values is None):
        raise DrawError(_FLOW, help="give backward=True and values=")
    graph = _as_graph(what, name, wants_backward)
    _check_order(graph)
    if not wants_backward:
        view = build_view(graph, level=level, direction=direction, name=name)
        if values is not None:
            annotate(view, run_view(view.graph, values))
        return view
    loss = _loss_of(graph)
    if not isinstance(what, Node):  # the metrics beside a loss have no part in its derivative
        graph = Graph(graph.name, {k: n for k, n in graph.outputs.items() if n is loss})
    gradients = gradients_of(loss, graph, backward, wrt)
    view = build_view(graph, level=level, direction=direction, name=name)
    view.notation = notation_of(notation)
    found = run_view(graph, values, loss) if values is not None else None
    add_backward(view, loss, gradients, found)
    if found is not None:
        annotate(view, found)
        if flow:
            shade_edges(view, found, start_of(found, loss))
    return view


def _kernels_of(what: Any, name: str | None) -> Any:
    """The loop program of a Program, or of a graph that is compiled for its picture.

    The driver is imported by name at this one place: pictures read what it makes and do not depend on it.
    """
    if isinstance(what, (LoopProgram, Kernel)) or _is_fusion(what) or isinstance(getattr(what, "program", None), LoopProgram):
        return what
    loops = getattr(what, "loops", None)
    if isinstance(loops, LoopProgram):
        return loops
    graph = _as_graph(what, name, False)
    if graph.symbols:
        open_ = ", ".join(sorted(graph.symbols))
        raise DrawError(
            f"kernels have sizes, graph {graph.name} leaves {open_} open",
            help="draw a Program that has been called, or declare the inputs with fixed sizes",
        )
    driver = importlib.import_module("graphc.driver")
    return driver.build_loops(graph, driver.Options(), Trace())


def _is_fusion(what: Any) -> bool:
    return hasattr(what, "groups") and isinstance(getattr(what, "graph", None), Graph)


def graph_of(what: Any, name: str | None = None) -> Graph:
    """The graph of a value, of values by name, of a program, or of whatever has one.

    Raises:
        DrawError: it has none.
    """
    return _as_graph(what, name, False)


def _as_graph(what: Any, name: str | None, backward: bool) -> Graph:
    if isinstance(what, Graph):
        return what
    if isinstance(what, Node):
        label = what.name or ("loss" if backward else "output")
        return Graph(name or label, {label: what})
    if isinstance(what, Mapping):
        if not what:
            raise DrawError("an empty dict cannot be drawn", help="give it a value to draw")
        return Graph(name or "graph", dict(what))
    if isinstance(what, (list, tuple)) and what and all(isinstance(n, Node) for n in what):
        return Graph(name or "graph", {n.name or f"output{i}": n for i, n in enumerate(what)})
    inner = getattr(what, "graph", None)
    if isinstance(inner, Graph):
        return inner
    if callable(what) and hasattr(what, "variables") and not isinstance(what, type):
        raise DrawError(f"{type(what).__name__} is a model: its sizes are those of what it is called with",
                        help="draw what it returns: graphc.draw(model(graphc.input('x', ('batch', 4))))")  # fmt: skip
    if callable(getattr(what, "roofline", None)):
        raise DrawError(
            f"a {type(what).__name__} has two pictures", help="draw_roofline(profile, path) or draw_arena(profile, path)"
        )
    raise DrawError(f"{type(what).__name__} cannot be drawn", help=f"give {_WORDS}")


def _check_order(graph: Graph) -> None:
    """A graph whose nodes were changed by hand may lead back into itself.

    Raises:
        DrawError: it does; says where.
    """
    seen: set[Node] = set()
    for node in graph.nodes:
        for operand in node.inputs:
            if operand not in seen:
                raise DrawError(
                    f"graph {truncate(graph.name, 60)} has a cycle: {node.op.name} reads {operand.op.name}, which comes after it",
                    source=node.source, help="a value is made from values before it; build the node again instead of changing its inputs",
                )  # fmt: skip
        seen.add(node)


def _loss_of(graph: Graph) -> Node:
    scalars = {k: n for k, n in graph.outputs.items() if n.shape == () and n.dtype.is_float}
    if "loss" in scalars:
        return scalars["loss"]
    if len(scalars) == 1:
        return next(iter(scalars.values()))
    if len(graph.outputs) == 1:
        return next(iter(graph.outputs.values()))
    found = ", ".join(truncate(k, 30) for k in scalars) or "none"
    raise DrawError(f"graph {graph.name} has no single loss to go back from", notes=(f"float scalars: {found}",),
                    help="draw the loss itself, or call it 'loss'")  # fmt: skip


# --- kernels -------------------------------------------------------------------------------------------------------


def _kernels(what: Any, direction: str | None, name: str | None) -> Diagram:
    if isinstance(what, Kernel):
        diagram = _one_kernel(what)
    elif isinstance(what, LoopProgram):
        diagram = launches(what)
    else:
        diagram = _groups(what)
    diagram.name = name or diagram.name
    diagram.direction = direction or ("LR" if len(diagram.boxes) <= 8 else "TB")  # type: ignore[assignment]
    return diagram


def _one_kernel(kernel: Kernel) -> Diagram:
    diagram = Diagram(
        kernel.name, summary=f"Kernel {kernel.name} with buffers {', '.join(b.name for b in kernel.params)}."
    )
    diagram.add(
        Box("k0", "kernel", (Line(truncate(kernel.name), "title"), Line(census(kernel.nodes) or "kernel", "note")))
    )
    roles = directions(kernel)
    for i, buffer in enumerate(kernel.params):
        lines = (Line(truncate(buffer.name), "name"), Line(truncate(str(buffer.type)), "shape"))
        diagram.add(Box(f"b{i}", "buffer", lines, f"{roles[i]} {buffer.name}: {buffer.type}"))
        if "in" in roles[i]:
            diagram.edges.append(Edge(f"b{i}", "k0", tooltip="read"))
        if "out" in roles[i] and roles[i] != "inout":
            diagram.edges.append(Edge("k0", f"b{i}", tooltip="written"))
    return diagram


def _groups(fusion: Any) -> Diagram:
    """The groups of a fusion in launch order, with what each computes inside of it."""
    lines: tuple[Line, ...]
    diagram = Diagram(fusion.graph.name)
    made: dict[Node, str] = {}
    sources = [n for n in fusion.graph.nodes if n.op.is_source and n.op.name != "constant"]
    views = dict(fusion.views)
    wanted = {n for g in fusion.groups for n in g.reads} | set(views.values())
    for i, node in enumerate(n for n in sources if n in wanted):
        lines = (Line(truncate(node.name.rpartition("/")[2]), "name"), Line(truncate(str(node.type)), "shape"))
        made[node] = diagram.add(Box(f"i{i}", node.op.name, lines, f"{node.op.name} {node.name}: {node.type}")).id
    for group in fusion.groups:
        kind = group.template or ("contraction" if group.contraction else "reduction" if group.reduces else "pointwise")
        ops = [n for n in group.members if n.op.name != "constant"]
        domain = " × ".join(map(str, group.domain)) or "scalar"
        lines = (
            Line(f"k{group.number} {kind}", "title"),
            Line(truncate(census(ops), 40), "note"),
            Line(domain, "shape"),
        )
        backward = bool(ops) and all(is_backward(n) for n in ops)
        tip = f"{kind} over [{domain}]: {census(ops, 30)}\nstores {', '.join(f'{n.op.name}: {n.type}' for n in group.stored)}"
        diagram.add(Box(f"k{group.number}", "kernel", lines, tip, backward=backward))
        made.update(dict.fromkeys(group.stored, f"k{group.number}"))
    seen: set[tuple[str, str]] = set()
    for group in fusion.groups:
        for node in group.reads:
            while node in views:
                node = views[node]
            pair = made.get(node, ""), f"k{group.number}"
            if pair[0] and pair[0] != pair[1] and pair not in seen:
                seen.add(pair)
                kind = "backward" if is_backward(node) else "forward"
                diagram.edges.append(Edge(*pair, kind, tooltip=str(node.type)))  # type: ignore[arg-type]
    _fusion_roots(diagram, fusion, made, views)
    inlined = sum(len(g.members) - len(g.stored) for g in fusion.groups)
    diagram.summary = (
        f"Fusion of {fusion.graph.name}: {len(fusion.groups)} kernels, {inlined} values never reach memory."
    )
    return diagram


def _fusion_roots(diagram: Diagram, fusion: Any, made: Mapping[Node, str], views: Mapping[Node, Node]) -> None:
    roots = [(k, "output", n) for k, n in fusion.graph.outputs.items()]
    roots += [(f"{s.name.rpartition('/')[2]} ←", "update", n) for s, n in fusion.graph.updates.items()]
    for i, (key, role, root) in enumerate(roots):
        node = root
        while node in views:
            node = views[node]
        if node in made:
            lines = (Line(truncate(key), "name"), Line(truncate(str(root.type)), "shape"))
            diagram.add(Box(f"o{i}", role, lines, f"{role} {key}: {root.type}"))  # type: ignore[arg-type]
            diagram.edges.append(Edge(made[node], f"o{i}", tooltip=str(root.type)))
