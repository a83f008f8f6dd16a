"""What stands beside the page's picture, and what it may show.

What enters: a page's :class:`Context`. What leaves: a :class:`Pane`, the body of a tab with its data. Invariants: one module a pane,
``viz/page/<name>.py`` with a function ``pane(context) -> Pane | None`` (None: nothing to show here), its script ``<name>.js`` (one arrow
function ``(root, data, page) => {...}``) and its style ``<name>.css`` beside it. Panes speak to each other by events of the page only:

- ``step {index}``: the step shown of the whole has changed; ``told {sheet, index}``: the same of any picture, -1 the whole, else the
  number of a detail; ``sheet {detail}``: another picture is shown. ``theme {name}``. ``show {pane}``: a tab was opened (heavy bodies are
  made then).
- ``highlight {keys, from}``: what is looked at, as keys ``node:<box>``, ``line:<file>:<n>`` and ``kernel:<name>``; no keys: nothing.

In a script, ``page`` has ``root``, ``prefix`` (of ids), ``on(event, f)``, ``emit(event, detail)``, ``svg()`` (the picture), ``box(id)`` (a
box's group in it), ``setStep(k)``, ``step()``, ``sheet(k)`` (a picture that has been shown: its ``number``, ``svg``, ``groups``, ``boxes``,
``steps`` and the step ``at``; the one that is shown without ``k``), ``again()`` (tell the step once more), ``announce(text)`` (for screen
readers), ``key(k, text, f)`` (a key, and its line in the help) and ``reduced`` (no motion is wanted). Colours are CSS variables: those of
:func:`viz.theme.style_sheet`, and ``--gp-accent`` for what is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphc.ir import Graph, Node
from viz.model import Diagram
from viz.scene import Scene
from viz.view import View

if TYPE_CHECKING:
    from viz.page.details import Detail


@dataclass(frozen=True)
class Pane:
    """A tab: ``name`` of its files, ``title`` on its tab, ``html`` of its body (escaped, ids start with the prefix), ``data`` as JSON.

    ``code`` is a JavaScript expression that reaches the script as its fourth argument.
    """

    name: str
    title: str
    html: str
    data: Any = None
    code: str = ""


@dataclass(frozen=True)
class Context:
    """What a page is about.

    Attributes:
        what: what the user gave. program: it, if it is a compiled program that knows its sizes. graph: the graph that is drawn.
        view: the picture with its map from nodes to boxes; None for kernels. prefix: what ids of the page start with.
        values: what inputs were given. options: the others of :func:`viz.page`. profile: where the program's time goes, if asked.
        details: pictures of what is inside of collapsed boxes.
    """

    what: Any
    program: Any
    graph: Graph | None
    view: View | None
    diagram: Diagram
    scene: Scene
    prefix: str
    values: Mapping[str, Any] | None
    options: Mapping[str, Any]
    profile: Any = None
    details: list[Detail] = field(default_factory=list, compare=False)
    _known: dict[Node, frozenset[str]] = field(default_factory=dict, compare=False)
    _boxes: dict[int, str] = field(default_factory=dict, compare=False)

    def keys_of(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """Keys of what the picture shows of these nodes, or of the nodes that they were derived from, and of the user's lines.

        A node of a compiled program leads back through its lineage and its origins: to the box of what was declared, or for a part
        of a gradient to the mirrored box of its primal.
        """
        found: dict[str, None] = {}
        for node in nodes:
            for box in sorted(self.boxes_of(node)):
                found[f"node:{box}"] = None
            if node.source is not None:
                found[f"line:{node.source.short}"] = None
        return tuple(found)

    def boxes_of(self, node: Node) -> frozenset[str]:
        """Ids of the boxes that show a node or what it comes from; linear in its ancestry, and remembered."""
        stack = [node]
        while stack:
            at = stack[-1]
            if at in self._known:
                stack.pop()
                continue
            own = self._own_boxes(at)
            ancestors = [] if own else _ancestors(at, self.diagram.mirrored)
            waiting = [a for a, _ in ancestors if a not in self._known]
            if waiting:
                stack.extend(waiting)
                continue
            boxes = own
            for ancestor, mirrored in ancestors:
                boxes |= {self._mirrored(b) if mirrored else b for b in self._known[ancestor]}
            self._known[at] = frozenset(boxes)
            stack.pop()
        return self._known[node]

    def _own_boxes(self, node: Node) -> set[str]:
        """Boxes of the drawn nodes of which this is a copy."""
        if self.view is not None and not self._boxes:
            for drawn in self.view.graph.nodes:
                shown = self.view.box_of.get(self.view.resolved.get(drawn, drawn), "")
                self._boxes.update(dict.fromkeys(drawn.lineage, shown))
                for inner in drawn.inner_nodes():
                    for uid in inner.lineage:
                        self._boxes.setdefault(uid, shown)
        return {box for uid in node.lineage if (box := self._boxes.get(uid))}

    def _mirrored(self, box: str) -> str:
        return f"g{box}" if f"g{box}" in self.diagram.boxes else box


def _ancestors(node: Node, mirrored: bool) -> list[tuple[Node, bool]]:
    """What a node was derived from, each with whether it is the primal of a part of a gradient.

    Where gradients are the mirror of a picture, the primal says where; else they may be drawn as what they are, and a rewritten one
    leads to what was rewritten.
    """
    found: list[tuple[Node, bool]] = []
    for origin in node.origins:
        if origin.primal is not None and (mirrored or origin.pass_name == "differentiate" or not origin.parents):
            found.append((origin.primal, True))
        else:
            found += [(parent, False) for parent in origin.parents]
    return found
