"""The stages of a compilation in one picture: everything that ever stood in the graph has one place, and each stage shows its part.

What enters: a :class:`graphc.trace.Trace`. What leaves: a :class:`Union`: one diagram, laid out once, and for each :class:`Moment` the
boxes and edges that live in it, the rules that fired, what was refused and why, and the kernels. Invariants: a node and the copies that
passes make of it (:attr:`graphc.ir.Node.lineage`) are one box; the union has no cycle; passes that changed nothing are named, not shown;
more than :data:`MOST` boxes are gathered by scope, so that it can always be laid out; all work is linear and iterative. ::

    union = union_of(program.trace)
    union.moments[3].name, union.moments[3].rules          'simplify', (Rule('mul_one', 2, ('u4', 'u9')), ...)
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc.errors import DrawError
from graphc.ir import Graph, Node
from graphc.trace import Stage, Trace
from viz.fonts import truncate
from viz.model import Box, Diagram, Direction, Edge, Line, Role
from viz.union_keys import Key, Shot, by_update, gathered_keys, hidden, known, reads, separated
from viz.view import census, is_backward, short_name

MOST = 220  # boxes of a union; more are gathered by scope
_LISTED = 60  # boxes that a rule or a refusal is lit on

SAID = {
    "forward": "What was declared: inputs, parameters and ops, as written.",
    "gradient": "Reverse differentiation adds the backward part: one adjoint for each op between the loss and what is asked for.",
    "declared": "The whole graph as it was declared and differentiated, with what every step updates.",
    "fuse": "Ops that one loop nest can compute become one kernel; what only the kernel itself reads never reaches memory.",
    "lower": "Each group becomes loops over memory: a kernel.",
    "plan memory": "Intermediates get addresses in one arena; those that are never alive together share them.",
    "schedule": "Loops are tiled, vectorised and split over the threads.",
    "machine code": "LLVM compiles the loops for this machine.",
}  # fmt: skip
TITLES = {"forward": "declared", "gradient": "differentiated", "fuse": "fused", "lower": "lowered"}
_MODULES = {"freeze": "graphc.specialise"}


@dataclass(frozen=True)
class Rule:
    """A rule that fired ``count`` times, and the boxes concerned (of the stage before and after)."""

    name: str
    count: int
    boxes: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """What could have been done to some boxes, and why it was not."""

    what: str
    reason: str
    boxes: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """A kernel: its name, what it is, the boxes that it computes and those of them that reach memory."""

    name: str
    title: str
    boxes: tuple[str, ...]
    stored: tuple[str, ...]


@dataclass
class Moment:
    """One stage.

    Attributes:
        name: of the pass. say: what it does. idle: passes just before that changed nothing.
        boxes, edges: ids of what lives. count: nodes of the graph. sizes: for gathered boxes how many nodes each holds.
        seconds: time of the pass.
    """

    name: str
    say: str
    boxes: frozenset[str] = frozenset()
    edges: frozenset[str] = frozenset()
    count: int = 0
    seconds: float = 0.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    refused: tuple[Refused, ...] = ()
    kernels: tuple[Made, ...] = ()

    @property
    def title(self) -> str:
        """What the graph is then."""
        return TITLES.get(self.name, self.name)


@dataclass
class Union:
    """All stages: the diagram of everything, the moments in order, and for each box the nodes that it stood for."""

    diagram: Diagram
    moments: list[Moment]
    nodes: dict[str, list[Node]]
    gathered: bool = False


def union_of(trace: Trace, direction: Direction | None = None) -> Union:
    """The union of a trace's stages; ``direction`` of its flow, by its size unless said.

    Raises:
        DrawError: the trace has no stage with a graph.
    """
    shots = _shots(trace)
    if not shots:
        raise DrawError("the trace has no stage with a graph to draw", help="give program.trace of a compiled program")
    phases = _phases(shots)
    for shot in shots:
        shot.seen = _visible(shot.nodes)
    keys = {node: (node.lineage[0],) for shot in shots for node in shot.nodes}
    keys = separated(shots, by_update(shots, keys, phases))
    gathered = len(known(shots, keys)) > MOST
    if gathered:
        keys = gathered_keys(shots, keys, phases)
    return _drawn(shots, keys, phases, trace, gathered, direction)


# --- stages --------------------------------------------------------------------------------------------------------


def _shots(trace: Trace) -> list[Shot]:
    """Stages that changed the graph, the declared one told in two where it has a backward part."""
    shots: list[Shot] = []
    idle: list[str] = []
    for stage in trace.stages:
        if isinstance(stage.artifact, Graph):
            if not shots:
                forward = _forward_of(stage.artifact)
                if 0 < len(forward) < len(stage.artifact.nodes):
                    shots.append(Shot("forward", forward, None))
                    shots.append(Shot("gradient", stage.artifact.nodes, stage))
                    continue
            elif not stage.changed and not stage.refusals and set(shots[-1].nodes) == set(stage.artifact.nodes):
                idle.append(stage.name)
                continue
            shots.append(Shot(stage.name, stage.artifact.nodes, stage, tuple(idle)))
            idle = []
        elif hasattr(stage.artifact, "groups"):
            shots.append(Shot(stage.name, stage.artifact.graph.nodes, stage, tuple(idle)))
            idle = []
        elif shots and hasattr(stage.artifact, "program") and stage.name == "lower":
            shots.append(Shot(stage.name, shots[-1].nodes, stage, tuple(idle)))
            idle = []
    return shots


def _forward_of(graph: Graph) -> tuple[Node, ...]:
    """What the outputs need that does not come from a derivative, in order."""
    later = _depends(graph.nodes)
    wanted: set[Node] = set()
    stack = [n for n in graph.outputs.values() if n not in later]
    stack += [i for n in graph.nodes if n in later and is_backward(n) for i in n.inputs if i not in later and i.inputs]
    while stack:
        node = stack.pop()
        if node not in wanted and node not in later:
            wanted.add(node)
            stack += node.inputs
    return tuple(n for n in graph.nodes if n in wanted and not is_backward(n))


def _depends(nodes: Iterable[Node]) -> set[Node]:
    """Nodes that belong to a derivative or read one."""
    found: set[Node] = set()
    for node in nodes:
        if (node.inputs and is_backward(node)) or any(i in found for i in node.inputs):
            found.add(node)
    return found


def _phases(shots: list[Shot]) -> dict[Node, str]:
    """Node -> forward, backward or update (what only serves new values of parameters): of the first stage that has it."""
    found: dict[Node, str] = {}
    for shot in shots:
        graph = _graph(shot)
        told = set(graph.outputs.values()) if graph is not None else set(shot.nodes)
        needed: set[Node] = set()
        for node in reversed(shot.nodes):
            if node in told or is_backward(node):
                needed.add(node)
            if node in needed:
                needed.update(node.inputs)
        for node in shot.nodes:
            if node not in found:
                found[node] = "backward" if is_backward(node) else "forward" if node in needed else "update"
    return found


def _graph(shot: Shot) -> Graph | None:
    artifact = shot.stage.artifact if shot.stage is not None else None
    found = getattr(artifact, "graph", artifact)
    return found if isinstance(found, Graph) else None


def _visible(nodes: Iterable[Node]) -> dict[Node, Node]:
    """Broadcasts pass on what they read; everything else stands for itself."""
    seen: dict[Node, Node] = {}
    for node in nodes:
        seen[node] = seen[node.inputs[0]] if node.op.name == "broadcast" and node.inputs[0] in seen else node
    return seen


# --- boxes ---------------------------------------------------------------------------------------------------------


def _drawn(
    shots: list[Shot], keys: Mapping[Node, Key], phases: Mapping[Node, str], trace: Trace, gathered: bool,
    direction: Direction | None,
) -> Union:  # fmt: skip
    ids = {key: f"u{k}" for k, key in enumerate(known(shots, keys))}
    nodes: dict[str, list[Node]] = {box: [] for box in ids.values()}
    first: dict[Node, None] = dict.fromkeys(n for shot in shots for n in shot.nodes if not hidden(n))
    for node in first:
        nodes[ids[keys[node]]].append(node)
    updated = {value: target for shot in shots for graph in [_graph(shot)] if graph for target, value in graph.updates.items()}
    diagram = Diagram(trace.stages[0].artifact.name, direction=direction or ("TB" if len(ids) > 14 else "LR"))
    for key, box in ids.items():
        several = isinstance(key[0], tuple) and len({n.lineage[0] for n in nodes[box]}) > 1
        if gathered:
            diagram.add(_gathered_box(box, key, nodes[box]))
        else:
            diagram.add(_update_box(box, nodes[box], updated) if several else _box(box, nodes[box], phases))
    edges: dict[tuple[str, str], str] = {}
    box_of = {node: ids[keys[node]] for node in first}
    union = Union(diagram, [], nodes, gathered)
    lineage = {uid: box_of[node] for node in first for uid in node.lineage}
    for shot in shots:
        live = frozenset(box_of[n] for n in shot.nodes if n in box_of)
        drawn = set()
        for tail, head in reads(shot, keys):
            pair = ids[tail], ids[head]
            if pair not in edges:
                edges[pair] = f"e{len(edges)}"
                backward = all(b.backward for b in (diagram.boxes[pair[0]], diagram.boxes[pair[1]]))
                diagram.edges.append(Edge(*pair, "backward" if backward else "forward"))
            drawn.add(edges[pair])
        union.moments.append(_moment(shot, live, frozenset(drawn), box_of, lineage, gathered))
    names = ", ".join(m.name for m in union.moments)
    diagram.summary = f"All stages of {diagram.name} in one picture: {names}."
    return union


def _box(box: str, nodes: list[Node], phases: Mapping[Node, str]) -> Box:
    node = nodes[0]
    name = truncate(short_name(node), 20)
    lines: tuple[Line, ...] = (Line(name, "name") if node.op.is_source and name else Line(truncate(node.op.name), "title"),)
    if node.shape:
        lines += (Line(truncate(str(node.type), 24), "shape"),)
    backward = phases[node] == "backward"
    role: Role = "adjoint" if backward else node.op.name if node.op.name in ("input", "parameter") else "op"  # type: ignore[assignment]
    if phases[node] == "update" and role == "op":
        role = "update"
    return Box(box, role, lines, _told(node),
               backward=backward)  # fmt: skip


def _update_box(box: str, nodes: list[Node], updated: Mapping[Node, Node]) -> Box:
    targets = dict.fromkeys(short_name(updated[n]) for n in nodes if n in updated)
    own = list({n.lineage[0]: n for n in reversed(nodes) if not n.op.is_source}.values())
    title = f"update {next(iter(targets), '')}".strip() if nodes[0].shape else "step size"
    lines = (Line(truncate(title, 26), "title"), Line(truncate(census(own), 30), "note"))
    return Box(box, "update", lines, f"{title}: {census(own, 30)}")


def _told(node: Node) -> str:
    if node.op.is_source:
        return f"{node.op.name} {node.name}: {node.type}"
    where = f"  # {node.source.short}" if node.source else ""
    return f"{node.op.name}({', '.join(str(i.type) for i in node.inputs)}): {node.type}{where}"


def _gathered_box(box: str, key: Key, nodes: list[Node]) -> Box:
    scope = "/".join(p for p in key[1:] if not p.startswith("+"))
    backward = key[0] == "backward"
    held = scope or ("updates" if key[0] == "update" else census([n for n in nodes if not n.op.is_source] or nodes, 2))
    lines = (
        Line(truncate(f"{'∂ ' if backward else ''}{held}", 26), "title"),
        Line(truncate(census(nodes), 30), "note"),
    )
    return Box(box, "collapsed", lines, f"{key[0]} {scope}: {census(nodes, 30)}", backward=backward)


def _moment(
    shot: Shot, live: frozenset[str], edges: frozenset[str], box_of: Mapping[Node, str], lineage: Mapping[int, str],
    gathered: bool,
) -> Moment:  # fmt: skip
    def boxes(nodes: Iterable[Any]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for node in nodes:
            box = box_of.get(node) or next((lineage[uid] for uid in node.lineage if uid in lineage), "")
            if box:
                found[box] = None
        return tuple(found)[:_LISTED]

    stage = shot.stage
    moment = Moment(shot.name, _said(shot.name), live, edges, len(shot.nodes), idle=shot.idle)
    if gathered:
        moment.sizes = Counter(box_of[n] for n in shot.nodes if n in box_of)
    if stage is None:
        return moment
    moment.seconds = stage.seconds
    touched: dict[str, list[Node]] = {}
    for firing in stage.firings:
        touched.setdefault(firing.rule, []).extend((*firing.before, firing.after))
    moment.rules = tuple(Rule(rule, count, boxes(touched[rule])) for rule, count in stage.rule_counts().items())
    moment.refused = tuple(Refused(r.what, r.reason, boxes(r.nodes)) for r in stage.refusals)
    moment.kernels = tuple(_kernels(stage, boxes))
    return moment


def _kernels(stage: Stage, boxes: Any) -> Iterable[Made]:
    artifact = stage.artifact
    if hasattr(artifact, "groups"):
        for group in artifact.groups:
            kind = group.template or ("contraction" if group.contraction else "reduction" if group.reduces else "pointwise")
            domain = " × ".join(map(str, group.domain)) or "scalar"
            members = [n for n in group.members if n.op.name != "constant"]
            yield Made(f"k{group.number}", f"{kind} over {domain}: {census(members)}", boxes(members), boxes(group.stored))
    elif hasattr(artifact, "program"):
        program = artifact.program
        times = Counter(launch.kernel for launch in program.launches)
        for name, kernel in program.kernels.items():
            members = [n for n in kernel.nodes if n.op.name != "constant"]
            again = f", launched {times[name]} times" if times[name] > 1 else ""
            yield Made(name, f"{census(members)}{again}", boxes(members), ())


def _said(name: str) -> str:
    """What a pass does: the first paragraph of its module, or the sentence above."""
    if name in SAID:
        return SAID[name]
    module = _MODULES.get(name, f"passes.{name.replace(' ', '_')}")
    try:
        text = importlib.import_module(module).__doc__ or ""
    except ImportError:
        return ""
    return " ".join(text.partition("\n\n")[0].split())
