"""The own layered layout: ranks by longest path, order by barycentres, places by packing. Needs no engine and never fails.

What enters: the forward part of a diagram with box sizes. What leaves: a :class:`RawLayout`. Invariants: boxes do not overlap;
an edge leads to a later rank unless it closes a cycle; nearly linear. Method: Sugiyama, Tagawa and Toda (1981), simplified:
long edges pass through dummy boxes of no size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from viz.engines import Gaps, Point, RawLayout
from viz.model import Diagram

_SWEEPS = 6
_DUMMIES = 20_000  # dummy boxes beyond which long edges run straight


@dataclass
class _Net:
    """Vertices (boxes and dummies) in ranks, with neighbours up and down; ``chains`` are the vertices of each edge."""

    rank: dict[str, int] = field(default_factory=dict)
    ranks: list[list[str]] = field(default_factory=list)
    before: dict[str, list[str]] = field(default_factory=dict)
    after: dict[str, list[str]] = field(default_factory=dict)
    chains: dict[int, list[str]] = field(default_factory=dict)


def layout(diagram: Diagram, sizes: Mapping[str, tuple[float, float]], gaps: Gaps) -> RawLayout:
    """Place every forward box. Works along the flow ("depth") and across it, and turns the picture at the end."""
    turned = diagram.direction == "LR"
    extent = {k: (h, w) if turned else (w, h) for k, (w, h) in sizes.items()}  # (across, along)
    net = _network(diagram, list(sizes))
    _order(net)
    across = _pack(net, extent, gaps)
    depth, total = _depths(net, extent, gaps)
    low = min(across[v] - extent[v][0] / 2 for v in sizes)
    high = max(across[v] + extent[v][0] / 2 for v in sizes)

    def point(a: float, d: float) -> Point:
        return (d, a - low) if turned else (a - low, d)

    result = RawLayout(engine="own layout")
    result.width, result.height = (total, high - low) if turned else (high - low, total)
    for v, (w, h) in sizes.items():
        result.places[v] = (*point(across[v], depth[net.rank[v]]), w, h)
    for index, chain in net.chains.items():
        result.routes[index] = _route(chain, net, across, depth, extent, point)
    return result


def _network(diagram: Diagram, ids: list[str]) -> _Net:
    net = _Net()
    edges = [
        (i, e.tail, e.head) for i, e in enumerate(diagram.edges) if e.tail in diagram.boxes and e.head in diagram.boxes
    ]
    known = set(ids)
    edges = [(i, t, h) for i, t, h in edges if t in known and h in known and t != h]
    order = {v: k for k, v in enumerate(_topological(ids, edges))}
    net.rank = dict.fromkeys(ids, 0)
    forward = [(i, t, h) for i, t, h in edges if order[t] < order[h]]
    for _, t, h in sorted(forward, key=lambda e: order[e[1]]):
        net.rank[h] = max(net.rank[h], net.rank[t] + 1)
    _pull_sources(net, forward)
    net.before = {v: [] for v in ids}
    net.after = {v: [] for v in ids}
    span = sum(net.rank[h] - net.rank[t] for _, t, h in forward)
    for i, t, h in forward:
        chain = [t]
        if span - len(forward) <= _DUMMIES:
            for r in range(net.rank[t] + 1, net.rank[h]):
                dummy = f".{i}.{r}"
                net.rank[dummy], net.before[dummy], net.after[dummy] = r, [], []
                chain.append(dummy)
        chain.append(h)
        for a, b in itertools.pairwise(chain):
            net.after[a].append(b)
            net.before[b].append(a)
        net.chains[i] = chain
    net.ranks = [[] for _ in range(max(net.rank.values()) + 1)]
    for v, r in net.rank.items():
        net.ranks[r].append(v)
    return net


def _pull_sources(net: _Net, edges: list[tuple[int, str, str]]) -> None:
    """A box without operands stands right before its first reader."""
    has_input = {h for _, _, h in edges}
    nearest: dict[str, int] = {}
    for _, t, h in edges:
        if t not in has_input:
            nearest[t] = min(nearest.get(t, net.rank[h] - 1), net.rank[h] - 1)
    net.rank.update(nearest)


def _topological(ids: list[str], edges: list[tuple[int, str, str]]) -> list[str]:
    """Kahn's order; what a cycle leaves over follows in its given order."""
    degree = dict.fromkeys(ids, 0)
    after: dict[str, list[str]] = {v: [] for v in ids}
    for _, t, h in edges:
        degree[h] += 1
        after[t].append(h)
    ready = [v for v in ids if not degree[v]]
    for v in ready:
        for h in after[v]:
            degree[h] -= 1
            if not degree[h]:
                ready.append(h)
    placed = set(ready)
    return ready + [v for v in ids if v not in placed]


def _order(net: _Net) -> None:
    position = {v: k for row in net.ranks for k, v in enumerate(row)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = net.before if down else net.after
        for row in net.ranks if down else reversed(net.ranks):
            key = {v: _mean([position[n] for n in neighbours[v]], position[v]) for v in row}
            row.sort(key=lambda v: key[v])
            position.update((v, k) for k, v in enumerate(row))


def _mean(values: list[int] | list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _pack(net: _Net, extent: Mapping[str, tuple[float, float]], gaps: Gaps) -> dict[str, float]:
    """Centres across the flow: each row is packed, then drawn towards its neighbours without overlap."""
    width = {v: extent[v][0] if v in extent else gaps.node * 0.5 for v in net.rank}
    across: dict[str, float] = {}
    for row in net.ranks:
        at = -sum(width[v] + gaps.node for v in row) / 2
        for v in row:
            across[v] = at + (width[v] + gaps.node) / 2
            at += width[v] + gaps.node
    for sweep in range(_SWEEPS):
        neighbours = net.before if sweep % 2 == 0 else net.after
        for row in net.ranks if sweep % 2 == 0 else reversed(net.ranks):
            wanted = {v: _mean([across[n] for n in neighbours[v]], across[v]) for v in row}
            _spread(row, wanted, width, gaps.node, across)
    return across


def _spread(
    row: list[str], wanted: dict[str, float], width: dict[str, float], gap: float, across: dict[str, float]
) -> None:
    """Least-squares places in the given order with gaps kept (pool adjacent violators)."""
    offset, offsets = 0.0, {}
    for k, v in enumerate(row):
        if k:
            offset += (width[row[k - 1]] + width[v]) / 2 + gap
        offsets[v] = offset
    blocks: list[tuple[float, int]] = []  # (mean, members)
    for v in row:
        mean, count = wanted[v] - offsets[v], 1
        while blocks and blocks[-1][0] > mean:
            other, members = blocks.pop()
            mean, count = (mean * count + other * members) / (count + members), count + members
        blocks.append((mean, count))
    k = 0
    for mean, count in blocks:
        for v in row[k : k + count]:
            across[v] = mean + offsets[v]
        k += count


def _depths(net: _Net, extent: Mapping[str, tuple[float, float]], gaps: Gaps) -> tuple[list[float], float]:
    depth, at = [], 0.0
    for row in net.ranks:
        thick = max((extent[v][1] for v in row if v in extent), default=0.0)
        depth.append(at + thick / 2)
        at += thick + gaps.rank
    return depth, at - gaps.rank


def _route(
    chain: list[str], net: _Net, across: Mapping[str, float], depth: list[float],
    extent: Mapping[str, tuple[float, float]], point: Callable[[float, float], Point],
) -> list[Point]:  # fmt: skip
    """One Bezier piece a rank, straight along the flow at each vertex."""
    ends = [(across[v], depth[net.rank[v]]) for v in chain]
    ends[0] = (ends[0][0], ends[0][1] + extent[chain[0]][1] / 2)
    ends[-1] = (ends[-1][0], ends[-1][1] - extent[chain[-1]][1] / 2)
    points = [point(*ends[0])]
    for (a0, d0), (a1, d1) in itertools.pairwise(ends):
        bend = (d1 - d0) * 0.45
        points += [point(a0, d0 + bend), point(a1, d1 - bend), point(a1, d1)]
    return points
