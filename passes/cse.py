"""Common subexpression elimination: equal computations become one node.

What enters: any graph. What leaves: a graph in which no two nodes have the same op, operands and attributes. The surviving
node carries the origins of all that it stands for. Ops are pure, so this is exact; reads of one variable merge as well. ::

    %2 = exp(%x); %3 = exp(%x); %4 = add(%2, %3)   ->   %2 = exp(%x); %4 = add(%2, %2)

Method: hash consing, one pass, operands first.
"""

from __future__ import annotations

from typing import Any

from graphc.ir import Graph, Node, attrs_key
from graphc.rewrite import Context


def cse(graph: Graph, context: Context) -> Graph:
    """The graph with equal nodes merged; the same object if there are none."""
    number: dict[Node, int] = {}
    classes: dict[tuple[Any, ...], int] = {}
    members: list[list[Node]] = []
    for node in graph.nodes:
        key = (node.op.name, tuple(number[i] for i in node.inputs), attrs_key(node.attrs))
        found = classes.setdefault(key, len(members))
        if found == len(members):
            members.append([])
        members[found].append(node)
        number[node] = found
    if len(members) == len(graph.nodes):
        return graph
    survivor: dict[int, Node] = {}

    def visit(node: Node, inputs: tuple[Node, ...]) -> Node:
        which = number[node]
        if which not in survivor:
            group = members[which]
            made = node.with_inputs(inputs)
            if len(group) > 1:
                name = next((n.name for n in group if n.name), "")
                made = made.standing_for(*group[1:])
                made = made.named(name) if name != made.name else made
                context.fire(f"merge {len(group)} equal {node.op.name}", tuple(group), made)
            survivor[which] = made
        return survivor[which]

    return graph.transform(visit)
