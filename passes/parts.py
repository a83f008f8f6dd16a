"""Parts: a sum of parts that are padded to one size becomes one concatenation.

What enters: a primitive graph with static shapes. What leaves: the same, where terms of a sum that are zero but for ranges of one axis
that do not overlap are put beside one another instead of being added up. The gradient of a value that was cut into slices (the gates of
an LSTM, a packed query, key and value) is such a sum. ::

    %3 = pad(%0, to 0..2 of 6); %4 = pad(%1, to 4..6); %5 = pad(%2, to 2..4)
    %6 = add(%3, %4); %7 = add(%6, %5)                                            ->  %7 = concatenate(%0, %2, %1)

Invariant: the value is the same, up to the sign of a zero (-0 + 0 is 0). Each part is copied once, instead of as many whole arrays being
filled, copied and added as there are parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc import ops, provenance
from graphc.ir import REGISTRY, Graph, Node
from graphc.rewrite import Context


@dataclass(frozen=True)
class _Part:
    """A padded term: where its operand lies along the one axis that is padded."""

    pad: Node
    axis: int
    start: int
    stop: int


def parts(graph: Graph, context: Context) -> Graph:
    """Concatenations instead of sums of padded parts; the same object if there are none."""
    if not any(node.op.name == "pad" for node in graph.nodes):
        return graph
    inside = {node for node in graph.nodes if node.op.name == "add" and _only_in_a_sum(node, graph)}
    made: dict[Node, Node] = {}

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        made[node] = node.with_inputs(inputs)
        if node.op.name == "add" and node not in inside:
            terms = _terms(node, inside)
            runs = _runs([p for t in terms if (p := _part(t, graph)) is not None])
            if runs:
                made[node] = _joined(node, terms, runs, made)
                context.fire("join padded parts", (node, *(p.pad for run in runs for p in run)), made[node])
        return made[node]

    return graph.transform(visit)


def _only_in_a_sum(node: Node, graph: Graph) -> bool:
    """Whether a node's one reader adds it to something of its shape."""
    users = graph.users[node]
    return len(users) == 1 and users[0].op.name == "add" and users[0].shape == node.shape and node not in graph.roots


def _terms(node: Node, inside: set[Node]) -> list[Node]:
    """What a tree of sums adds up, from left to right."""
    found: list[Node] = []
    pending = list(reversed(node.inputs))
    while pending:
        term = pending.pop()
        if term in inside:
            pending.extend(reversed(term.inputs))
        else:
            found.append(term)
    return found


def _part(node: Node, graph: Graph) -> _Part | None:
    """A term as a part: padded with zeros along one axis, for this sum alone."""
    if node.op.name != "pad" or node.attrs["value"] != 0 or not _only_in_a_sum(node, graph):
        return None
    low, high = node.attrs["low"], node.attrs["high"]
    axes = [a for a, widths in enumerate(zip(low, high, strict=True)) if any(w != 0 for w in widths)]
    if len(axes) != 1:
        return None
    axis = axes[0]
    return _Part(node, axis, low[axis], low[axis] + node.inputs[0].shape[axis])


def _runs(found: list[_Part]) -> list[list[_Part]]:
    """Two and more parts that follow one another without a gap, along the same axis."""
    runs: list[list[_Part]] = []
    for part in sorted(found, key=lambda p: (p.axis, p.start)):  # stable: of parts that overlap the first one is taken
        last = runs[-1][-1] if runs else None
        if last is not None and last.axis == part.axis and last.stop == part.start:
            runs[-1].append(part)
        else:
            runs.append([part])
    return [run for run in runs if len(run) > 1]


def _joined(node: Node, terms: list[Node], runs: list[list[_Part]], made: dict[Node, Node]) -> Node:
    """The sum of what is left and the runs, each one concatenated (and padded, where it is shorter than the axis)."""
    taken = {part.pad for run in runs for part in run}
    parents = tuple(part.pad for run in runs for part in run)
    with provenance.deriving("parts", "join padded parts", (node, *parents), node.primal, node.source):
        total: Node | None = None
        for run in runs:
            axis = run[0].axis
            whole = REGISTRY["concatenate"](*(made[p.pad].inputs[0] for p in run), axis=axis)
            before, after = run[0].start, node.shape[axis] - run[-1].stop
            if before or after:
                low, high = (tuple(w if a == axis else 0 for a in range(node.ndim)) for w in (before, after))
                whole = REGISTRY["pad"](whole, low=low, high=high, value=0)
            total = whole if total is None else ops.add(total, whole)
        assert total is not None
        for term in terms:
            if term not in taken:
                total = ops.add(total, made[term])
    return total
