"""Equal groups are lowered once: a structural key of a fused group, and its launch made from an equal one's.

What enters: groups of a :class:`passes.groups.Fusion`. What leaves: a :class:`Shape` (key, buffers, nodes of a group in a
canonical numbering). Invariant: two groups of one key lower to the same statements, so a launch of the second is the
first's kernel on the second's buffers. That makes the lowering of a deep net proportional to its distinct kernels.

The numbering: members by age (uid), which is the order in which lowering visits them; buffers as they are first met from
there. A node's row holds its op, attributes and type, and where each operand comes from: a member, a buffer (seen as
some type), or a literal's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from graphc.ir import Node, attrs_key
from passes.groups import Fusion, Group, base_of

__all__ = ["Shape", "shape_of"]


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
    nodes = tuple(sorted(group.members, key=lambda n: n.uid))
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
    return tuple(
        (f.name, _plain(getattr(group, f.name), local))
        for f in fields(group)
        if f.name not in ("number", "reads", "members")
    )


def _plain(value: Any, local: Mapping[Node, int]) -> Any:
    if isinstance(value, Node):
        return ("node", local[value]) if value in local else ("outside", value.uid)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(v, local) for v in value]
        return tuple(sorted(items, key=repr)) if isinstance(value, (set, frozenset)) else tuple(items)
    if isinstance(value, dict):
        return tuple((_plain(k, local), _plain(v, local)) for k, v in value.items())
    return value
