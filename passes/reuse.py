"""Equal groups are lowered once: a structural key of a fused group, and its launch made from an equal one's.

What enters: groups of a :class:`passes.groups.Fusion`. What leaves: a :class:`Shape` (key, buffers, nodes of a group in a
canonical numbering). Invariant: two groups of one key lower to the same statements, so a launch of the second is the
first's kernel on the second's buffers. That makes the lowering of a deep net proportional to its distinct kernels.

The numbering: members depth first from the roots, which is the order in which lowering visits them; buffers as they are first met from
there. A node's row holds its op, attributes and type, and where each operand comes from: a member, a buffer (seen as
some type), or a literal's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from graphc.ir import Node, attrs_key
from graphc.loops import ir
from graphc.ops.declare import Movement
from passes.groups import Fusion, Group, base_of, computed_in_order

__all__ = ["Shape", "counterparts", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """A group in canonical numbering.

    Attributes:
        key: equal for groups that lower to the same kernel.
        buffers: the names of its buffers. nodes: its members.
    """

    key: tuple[Any, ...]
    buffers: tuple[str, ...]
    nodes: tuple[Node, ...]


def shape_of(group: Group, fusion: Fusion, names: Mapping[Node, str]) -> Shape:
    """The canonical form of a group."""
    computed = computed_in_order(group, fusion.views)
    nodes = tuple([n for n in computed if n in group.members])
    local = {node: n for n, node in enumerate(nodes)}
    buffers: dict[str, int] = {}

    def buffer(node: Node) -> int:
        return buffers.setdefault(names[base_of(fusion.views, node)], len(buffers))

    def operand(node: Node) -> tuple[Any, ...]:
        if node in local:
            return (local[node],)
        if base_of(fusion.views, node) in local:  # a reshape of a member: looked through
            return ("view", local[base_of(fusion.views, node)], node.type)
        if node.op.name == "constant" and node.ndim == 0:
            return ("literal", node.attrs["value"].tobytes(), node.dtype)
        return ("buffer", buffer(node), node.type)

    rows = tuple((n.op.name, attrs_key(n.attrs), n.type, tuple(map(operand, n.inputs))) for n in nodes)
    stored = tuple((local[root], buffer(root)) for root in group.stored)
    return Shape((rows, stored, _settings(group, local)), tuple(buffers), nodes)


def _settings(group: Group, local: Mapping[Node, int]) -> tuple[Any, ...]:
    """Whatever else a group says of itself (its domain, roots, template): every field but its place and its reads."""
    return tuple([(name, _plain(getattr(group, name), local)) for name in _SETTINGS])


_SETTINGS = tuple(f.name for f in fields(Group) if f.name not in ("number", "reads", "members"))


def _plain(value: Any, local: Mapping[Node, int]) -> Any:
    if isinstance(value, Node):
        return ("node", local[value]) if value in local else ("outside", value.uid)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(v, local) for v in value]
        return tuple(sorted(items, key=repr)) if isinstance(value, (set, frozenset)) else tuple(items)
    if isinstance(value, dict):
        return tuple((_plain(k, local), _plain(v, local)) for k, v in value.items())
    return value


def counterparts(kernel: ir.Kernel, launch: ir.Launch) -> dict[Node, tuple[Node, ...]]:
    """For each node that a plain kernel's statements name, the nodes of ``launch`` that it stands for.

    A kernel is made once, for the first nodes that need it. Two steps lead to another launch's: the statements that were
    lowered for its shape are the kernel's one by one; and nodes of one shape are numbered alike, as are their operands.
    """
    made = launch.lowered
    if made is None:
        return {n: (n,) for n in launch.nodes}
    own = _alike(made.nodes, launch.nodes)
    found: dict[Node, dict[Node, None]] = {}
    for (stmt, _), (same, _) in zip(kernel.statements(), made.statements(), strict=True):
        if not isinstance(stmt, (ir.For, ir.If, ir.Alloc, ir.Barrier)):
            assert type(stmt) is type(same), f"kernel {kernel.name} is not what launch {launch.kernel} was lowered to"
            mine, theirs = stmt.nodes, same.nodes
            paired = (
                [(m, (t,)) for m, t in zip(mine, theirs, strict=True)]
                if len(mine) == len(theirs)
                else [(m, theirs) for m in mine]
            )
            for node, others in paired:
                found.setdefault(node, {}).update(dict.fromkeys(own.get(other, other) for other in others))
    for node, other in zip(kernel.nodes, made.nodes, strict=False):  # nodes that no statement names: shapes moved
        if node not in found and node.op is other.op:
            found[node] = {own.get(other, other): None}
    return {node: tuple(others) for node, others in found.items()}


def _alike(nodes: tuple[Node, ...], others: tuple[Node, ...]) -> dict[Node, Node]:
    """Members of two groups of one shape, with their operands; operands that only move a value lead to their own."""
    if nodes == others:
        return {}
    found = dict(zip(nodes, others, strict=True))
    stack = list(found.items())
    while stack:
        node, other = stack.pop()
        for a, b in zip(node.inputs, other.inputs, strict=True):
            if a not in found:
                found[a] = b
                if isinstance(a.op.lowering, Movement) and a.op is b.op:
                    stack.append((a, b))
    return found
