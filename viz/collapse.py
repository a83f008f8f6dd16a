"""Which nodes share a box: scopes that collapse, layers that repeat, bands of a crowd.

What enters: the visible nodes of a graph in order, with the scope of each. What leaves: a :class:`Collapse`. Invariants: nodes
of one box have one key; of a layer that repeats (equal ops of equal types under ``block_0``, ``block_1``, ...) only the first
is shown, marked with how often it stands there; the work is linear in nodes times depth. ::

    block_0 -> block_1 -> block_2      is drawn      block x3
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from graphc.ir import Node

Scope = tuple[str, ...]
LIMIT = 60  # visible nodes from which scopes collapse
CROWD = 160  # boxes from which even collapsed graphs are cut into bands
BANDS = 24
LAYERS = 24  # boxes that level "layers" aims at
_NUMBER = re.compile(r"^(.*?)[_ ]?(\d+)$")


@dataclass
class Repeat:
    """Sibling scopes with equal contents; ``first`` stands for all of them."""

    first: Scope
    count: int
    label: str


@dataclass
class Collapse:
    """Where each node is shown.

    Attributes:
        keys: node -> key of its box; empty if every node has its own.
        shown: node -> scope under which its box stands, repeats folded into their first.
        copies: node -> (first scope of its repeat, number of its instance); absent outside of repeats.
        repeats: by the first scope.
    """

    keys: dict[Node, Hashable] = field(default_factory=dict)
    shown: dict[Node, Scope] = field(default_factory=dict)
    copies: dict[Node, tuple[Scope, int]] = field(default_factory=dict)
    repeats: dict[Scope, Repeat] = field(default_factory=dict)

    def between_copies(self, tail: Node, head: Node) -> bool:
        """Whether an edge runs from one instance of a repeat to another: it is not drawn."""
        a, b = self.copies.get(tail), self.copies.get(head)
        return a is not None and b is not None and a[0] == b[0] and a[1] != b[1]

    def times(self, scope: Scope) -> str:
        """"×3" for the first scope of a repeat, else ""."""
        repeat = self.repeats.get(scope)
        return f" ×{repeat.count}" if repeat else ""

    def positions(self, visible: Iterable[Node]) -> dict[Node, Hashable]:
        """A key for each node that its copies in other instances share: they are alike in order."""
        seen: dict[tuple[Scope, int], int] = {}
        keys: dict[Node, Hashable] = {}
        for node in visible:
            copy = self.copies.get(node)
            if copy is None:
                keys[node] = node
                continue
            seen[copy] = place = seen.get(copy, -1) + 1
            keys[node] = (copy[0], place)
        return keys

    def display(self, scope: Scope) -> Scope:
        """A scope as its frames are labelled."""
        return tuple(
            f"{self.repeats[scope[: k + 1]].label}{self.times(scope[: k + 1])}" if scope[: k + 1] in self.repeats else name
            for k, name in enumerate(scope)
        )


def collapse(visible: list[Node], scope_of: Callable[[Node], Scope], level: str) -> Collapse:
    """Decide what is shown.

    Args:
        scope_of: the scope of a node; () keeps it out of all boxes.
        level: "layers" always collapses; other levels only above :data:`LIMIT` nodes.
    """
    layers = level == "layers"
    if len(visible) <= LIMIT and not layers:
        return Collapse(shown={n: scope_of(n) for n in visible})
    scopes = {n: scope_of(n) for n in visible}
    found = Collapse(shown=dict(scopes))
    _fold(found, visible, scopes)
    most = LAYERS if layers else LIMIT
    deepest = max((len(s) for s in scopes.values()), default=0)
    positions = found.positions(visible)
    if not layers and len(set(positions.values())) <= LIMIT:
        found.keys = positions  # folding alone made it small enough
        return found
    distinct, alone = set(found.shown.values()), len({positions[n] for n, s in found.shown.items() if not s})
    low, high = 1, deepest
    while low < high:  # the greatest depth with few enough boxes; their number never falls with the depth
        depth = (low + high + 1) // 2
        few = alone + len({s[:depth] for s in distinct if s}) <= most
        low, high = (depth, high) if few else (low, depth - 1)
    found.keys = {n: (s[:low] if s else positions[n]) for n, s in found.shown.items()} if deepest else {}
    if len(set(found.keys.values()) if found.keys else visible) > CROWD:
        size = -(-len(visible) // BANDS)
        return Collapse({n: i // size for i, n in enumerate(visible)}, {n: () for n in visible})
    return found


def _fold(found: Collapse, visible: list[Node], scopes: Mapping[Node, Scope]) -> None:
    """Find runs of equal sibling scopes, outermost first, and map each instance onto the first."""
    contents: dict[Scope, list[int]] = {}
    children: dict[Scope, dict[Scope, None]] = {}
    paths: dict[Scope, list[Scope]] = {}  # a scope and those around it, outermost first
    for number, node in enumerate(visible):
        scope = scopes[node]
        if scope not in paths:
            paths[scope] = [scope[:depth] for depth in range(1, len(scope) + 1)]
            for outer, prefix in zip([(), *paths[scope]], paths[scope], strict=False):
                children.setdefault(outer, {}).setdefault(prefix)
        for prefix in paths[scope]:
            contents.setdefault(prefix, []).append(number)
    kinds = [(node.op.name, str(node.type)) for node in visible]

    def alike(a: Scope, b: Scope) -> bool:
        """Whether two scopes of one depth hold equal ops of equal types under equal names, in one order."""
        return len(contents[a]) == len(contents[b]) and all(
            kinds[i] == kinds[k] and scopes[visible[i]][len(a) :] == scopes[visible[k]][len(b) :]
            for i, k in zip(contents[a], contents[b], strict=True)
        )

    renamed: dict[Scope, tuple[Scope, int]] = {}
    pending: list[Scope] = [()]
    while pending:
        parent = pending.pop()
        kept = _runs(found, children.get(parent, ()), alike, renamed)
        pending += kept
    for node in visible:
        for prefix in paths[scopes[node]]:
            if prefix in renamed:
                found.copies[node] = first, _ = renamed[prefix]
                found.shown[node] = first + scopes[node][len(prefix) :]
                break


def _runs(
    found: Collapse, siblings: Iterable[Scope], alike: Callable[[Scope, Scope], bool],
    renamed: dict[Scope, tuple[Scope, int]],
) -> list[Scope]:  # fmt: skip
    """Fold runs among siblings; returns those that stand alone, to be looked into."""
    alone: list[Scope] = []
    run: list[Scope] = []

    def close() -> None:
        if len(run) >= 2:
            label = _stem(run[0][-1]) or run[0][-1]
            found.repeats[run[0]] = Repeat(run[0], len(run), label)
            renamed.update({scope: (run[0], k) for k, scope in enumerate(run)})
        else:
            alone.extend(run)
        run.clear()

    for scope in siblings:
        same = run and _stem(scope[-1]) and _stem(scope[-1]) == _stem(run[0][-1]) and alike(scope, run[0])
        if not same:
            close()
        run.append(scope)
    close()
    return alone


def _stem(name: str) -> str:
    """A numbered name without its number; "" if it has none.

    >>> _stem("block_12"), _stem("h3"), _stem("output")
    ('block', 'h', '')
    """
    match = _NUMBER.match(name)
    return match[1] if match else ""
