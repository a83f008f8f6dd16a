"""Which nodes of a compilation's stages are one box: a key for each node.

What enters: the graphs of all stages, as :class:`Shot`. What leaves: keys, by which :mod:`viz.union` makes boxes. Invariants: nodes of
one key are one box in all stages; boxes never run in a circle; all work is linear and iterative. ::

    separated(shots, {node: (node.lineage[0],) for shot in shots for node in shot.nodes})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc.ir import Node
from graphc.trace import Stage
from viz.view import scope_of

GATHERED = 120  # boxes of a union that is gathered by scope
Key = tuple[Any, ...]


@dataclass
class Shot:
    """A graph at a stage, before boxes are known."""

    name: str
    nodes: tuple[Node, ...]
    stage: Stage | None
    idle: tuple[str, ...] = ()
    seen: dict[Node, Node] = field(default_factory=dict)  # node -> the visible node whose value it passes on


def hidden(node: Node) -> bool:
    return node.op.name in ("constant", "broadcast")



def reads(shot: Shot, keys: Mapping[Node, Key]) -> Iterable[tuple[Key, Key]]:
    for node in shot.nodes:
        if hidden(node):
            continue
        for operand in node.inputs:
            tail = shot.seen.get(operand, operand)
            if not hidden(tail) and tail in keys and keys[tail] != keys[node]:
                yield keys[tail], keys[node]


def known(shots: list[Shot], keys: Mapping[Node, Key]) -> dict[Key, None]:
    return dict.fromkeys(keys[n] for shot in shots for n in shot.nodes if not hidden(n))


def by_update(shots: list[Shot], keys: dict[Node, Key], phases: Mapping[Node, str]) -> dict[Node, Key]:
    """What an optimizer does to one parameter is one box: all its arrays that read each other, without shared scalars."""
    into: dict[Key, Key] = {}

    def root(key: Key) -> Key:
        while into.setdefault(key, key) != key:
            into[key] = key = into[into[key]]
        return key

    parts = {n: keys[n] for shot in shots for n in shot.nodes if phases[n] == "update" and not hidden(n)}
    for shot in shots:
        for node in shot.nodes:
            for operand in node.inputs:
                tail = shot.seen.get(operand, operand)
                if node in parts and tail in parts and bool(node.shape) == bool(tail.shape):
                    into[root(keys[node])] = root(keys[tail])
    return {node: (("update", *root(key)),) if node in parts else key for node, key in keys.items()}


def separated(shots: list[Shot], keys: dict[Node, Key]) -> dict[Node, Key]:
    """Where stages put nodes in opposite orders, copies get places of their own, until nothing runs in a circle."""
    while circle := {key for ring in _rings(shots, keys) for key in ring if len(key) == 1}:
        keys = {node: (*key, node.uid) if key in circle else key for node, key in keys.items()}
    return keys


def _rings(shots: list[Shot], keys: Mapping[Node, Key]) -> list[list[Key]]:
    """Strongly connected parts of more than one key, by Tarjan's algorithm ("Depth-first search and linear graph algorithms", 1972)."""
    after: dict[Key, dict[Key, None]] = {key: {} for key in known(shots, keys)}
    for shot in shots:
        for tail, head in reads(shot, keys):
            after[tail][head] = None
    index: dict[Key, int] = {}
    low: dict[Key, int] = {}
    held: dict[Key, None] = {}
    rings: list[list[Key]] = []
    for root in after:
        if root in index:
            continue
        work = [(root, iter(after[root]))]
        index[root] = low[root] = len(index)
        held[root] = None
        while work:
            key, rest = work[-1]
            step = next((k for k in rest if k not in index or k in held), None)
            if step is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[key])
                if low[key] == index[key]:
                    ring: list[Key] = []
                    while not ring or ring[-1] != key:
                        ring.append(held.popitem()[0])
                    if len(ring) > 1:
                        rings.append(ring)
            elif step in index:
                low[key] = min(low[key], index[step])
            else:
                index[step] = low[step] = len(index)
                held[step] = None
                work.append((step, iter(after[step])))
    return rings


def gathered_keys(shots: list[Shot], keys: Mapping[Node, Key], phases: Mapping[Node, str]) -> dict[Node, Key]:
    """Keys of runs of one order of everything: what stands together in it and in a scope, as deep as there is room for."""
    node_of = {keys[n]: n for shot in reversed(shots) for n in reversed(shot.nodes) if not hidden(n)}
    after: dict[Key, dict[Key, None]] = {key: {} for key in known(shots, keys)}
    for shot in shots:
        for tail, head in reads(shot, keys):
            after[tail][head] = None
    runs: dict[Key, Key] = {}
    for depth in range(8, -1, -1):
        group = {key: (phases[node_of[key]], *scope_of(node_of[key])[:depth]) for key in after}
        runs = _runs(after, group, {key for key in after if node_of[key].op.is_source})
        if len(set(runs.values())) <= GATHERED:
            break
    return {node: runs.get(key, key) for node, key in keys.items()}


def _runs(after: Mapping[Key, Mapping[Key, None]], group: Mapping[Key, Key], sources: set[Key]) -> dict[Key, Key]:
    """Each key's run: (phase, scope..., number). The order stays in a group while it can; sources stand with their first reader.

    Runs of an order cannot run in a circle: every edge leads on in it.
    """
    missing = dict.fromkeys(after, 0)
    for tail in after:
        for head in after[tail]:
            missing[head] += tail not in sources
    ready: dict[Key, list[Key]] = {}
    for key in after:
        if not missing[key] and key not in sources:
            ready.setdefault(group[key], []).append(key)
    rank = {"forward": 0, "backward": 1, "update": 2}
    found: dict[Key, Key] = {}
    here: Key = ()
    number = 0
    while ready:
        at = here if here in ready else (here[:1] if here[:1] in ready else ())  # what has no scope joins whatever is told
        if not at:
            at = here = min(ready, key=lambda g: (rank[g[0]], len(g) == 1))
            number += 1
        key = ready[at].pop()
        if not ready[at]:
            del ready[at]
        found[key] = (*here, f"+{number}")
        for head in after[key]:
            missing[head] -= 1
            if not missing[head]:
                ready.setdefault(group[head], []).append(head)
    order = {key: k for k, key in enumerate(found)}
    for key in sources:
        readers = [h for h in after[key] if h in order]
        found[key] = found[min(readers, key=order.__getitem__)] if readers else (*group[key], "+0")
    return found
