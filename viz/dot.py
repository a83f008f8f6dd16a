"""A diagram as DOT: bare for an engine that places boxes, or dressed for people who use Graphviz themselves.

What enters: a diagram. What leaves: DOT text. Invariants: ids come from the diagram, never from names; names reach labels only
escaped; the dressed form carries our positions (``pos="x,y!"``), so that ``neato -n`` draws the same mirror.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import graphviz

from viz.fonts import text_width, truncate
from viz.formula import unicode_formula
from viz.labels import DOUBLE, ROUND
from viz.model import BACKWARD_ROLES, Box, Diagram, Line
from viz.theme import Theme

if TYPE_CHECKING:
    from viz.engines import Gaps
    from viz.layout import Layout

_INCH = 72.0
_EFFORT = 60  # boxes up to which an engine may take its time


def clusters_of(diagram: Diagram) -> dict[tuple[str, ...], list[str]]:
    """Scope -> forward boxes in it or below, outer scopes first; a scope with one box alone gets no frame."""
    found: dict[tuple[str, ...], list[str]] = {}
    for box in diagram.forward_boxes():
        for depth in range(1, len(box.scope) + 1):
            found.setdefault(box.scope[:depth], []).append(box.id)
    return {k: found[k] for k in sorted(found, key=lambda s: (len(s), s)) if len(found[k]) > 1}


def layout_dot(diagram: Diagram, sizes: Mapping[str, tuple[float, float]], gaps: Gaps) -> str:
    """DOT with boxes of fixed size and no text: all that an engine needs to place the forward part."""
    graph = graphviz.Digraph("layout")
    graph.attr(
        rankdir=diagram.direction, ranksep=f"{gaps.rank / _INCH:.4f}", nodesep=f"{gaps.node / _INCH:.4f}", splines="true",
        newrank="true",
    )  # fmt: skip
    if len(sizes) > _EFFORT:  # a good layout soon rather than the best one in minutes
        graph.attr(nslimit="1", nslimit1="1", mclimit="0.3", remincross="false")
    graph.attr("node", fixedsize="true", label="", shape="box")
    graph.attr("edge", arrowhead="none")
    _nested(graph, diagram, gaps)
    for box in diagram.forward_boxes():
        width, height = sizes[box.id]
        shape = "ellipse" if box.role in ROUND else "box"
        graph.node(box.id, width=f"{width / _INCH:.4f}", height=f"{height / _INCH:.4f}", shape=shape)
    for index, edge in enumerate(diagram.edges):
        if not diagram.boxes[edge.tail].mirror_of and not diagram.boxes[edge.head].mirror_of:
            weight = "1" if diagram.boxes[edge.tail].role in ("parameter", "constant") else "3"
            graph.edge(edge.tail, edge.head, id=f"e{index}", weight=weight)
    return str(graph.source)


def _nested(graph: Any, diagram: Diagram, gaps: Gaps) -> None:
    """Clusters inside of clusters; deepest first, so that each is complete when its parent takes it in."""
    clusters = clusters_of(diagram)
    made: dict[tuple[str, ...], Any] = {}
    numbers = {scope: i for i, scope in enumerate(clusters)}
    for scope in sorted(clusters, key=len, reverse=True):
        cluster = graphviz.Digraph(f"cluster_{numbers[scope]}")
        width = text_width(scope[-1], "sans", gaps.size * 0.85) + 8
        table = f'<TABLE BORDER="0" FIXEDSIZE="TRUE" WIDTH="{width:.0f}" HEIGHT="{gaps.size * 1.2:.0f}"><TR><TD></TD></TR></TABLE>'
        cluster.attr(label=f"<{table}>", labeljust="l", margin=f"{gaps.size * 0.8:.1f}")
        children = [s for s in made if s[: len(scope)] == scope and len(s) == len(scope) + 1]
        for child in children:
            cluster.subgraph(made.pop(child))
        for box_id in clusters[scope]:
            if diagram.boxes[box_id].scope == scope or not any(box_id in clusters[c] for c in children):
                cluster.node(box_id)
        made[scope] = cluster
    for cluster in made.values():
        graph.subgraph(cluster)


# --- for people ----------------------------------------------------------------------------------------------------


def to_dot(diagram: Diagram, layout: Layout, theme: Theme) -> str:
    """The whole picture as DOT that stands alone, with our positions for ``neato -n``."""
    graph = graphviz.Digraph(graphviz.escape(truncate(diagram.name, 60)))
    graph.attr(rankdir=diagram.direction, bgcolor=theme.background, tooltip=_plain(diagram.summary), splines="true")
    graph.attr(
        "node",
        fontname="DejaVu Sans",
        fontsize=f"{theme.size * 0.75:.1f}",
        fontcolor=theme.text,
        style="rounded,filled",
    )
    for box in diagram.boxes.values():
        place = layout.places[box.id]
        graph.node(
            box.id, label=f"<{_table(box)}>", tooltip=_plain(box.tooltip), id=box.id, **{"class": box.role},
            pos=f"{place.x:.2f},{layout.height - place.y:.2f}!", **_look(box, theme),
        )  # fmt: skip
    styles = {"forward": "solid", "backward": "dashed", "correspondence": "dotted", "saved": "dotted"}
    colours = {
        "forward": theme.forward,
        "backward": theme.backward,
        "correspondence": theme.correspondence,
        "saved": theme.saved,
    }
    for i, edge in enumerate(diagram.edges):
        aside = edge.kind in ("correspondence", "saved")
        graph.edge(
            edge.tail, edge.head, id=f"e{i}", style=styles[edge.kind], color=colours[edge.kind], tooltip=_plain(edge.tooltip),
            constraint="false" if aside else "true", arrowhead="none" if edge.kind == "correspondence" else "normal",
        )  # fmt: skip
    return str(graph.source)


def _plain(text: str) -> str:
    """A DOT string without control characters, which no DOT parser reads."""
    return str(graphviz.escape("".join(c if c == "\n" or c.isprintable() else " " for c in text)))


def _look(box: Box, theme: Theme) -> dict[str, str]:
    backward = box.role in BACKWARD_ROLES or box.backward
    return {
        "shape": "ellipse" if box.role in ROUND else "box",
        "peripheries": "2" if box.role in DOUBLE else "1",
        "color": theme.faint if box.role == "constant" else theme.backward if backward else theme.forward,
        "fillcolor": theme.backward_fill if backward else theme.forward_fill,
    }


def _table(box: Box) -> str:
    rows = "".join(f"<TR><TD>{_cell(line)}</TD></TR>" for line in box.lines) or "<TR><TD></TD></TR>"
    return f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1">{rows}</TABLE>'


def _cell(line: Line) -> str:
    text = unicode_formula(line.text) if line.style == "formula" else line.text
    safe = escape(text, quote=True) or " "
    return {"title": f"<B>{safe}</B>", "name": f"<I>{safe}</I>", "formula": f"<I>{safe}</I>"}.get(line.style, safe)
