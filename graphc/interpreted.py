"""What the interpreter spends on each node, beside the kernels that a program runs in its place.

What enters: a static graph with inputs, and the nodes of each launch. What leaves: a :class:`NodeRow` a node, and each launch's part of
them as a :class:`Spent`. Invariants: a node's time goes to the launches that compute it or what was derived from it, by the
statements that they run for it, and to none twice; what belongs to no launch (folded, or needed by nobody) is told apart.

NumPy runs a node at a time: it reads its operands from memory and writes its value there, so bytes are those of operands and value
(none where the value is a view of an operand). Operations are those of the node's loops when it is lowered alone. ::

    rows = interpret_timed(graph, {"x": x}, repeats=3)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from graphc import interpreter
from graphc.driver import Options, build_loops
from graphc.ir import Graph, Node, attrs_key
from graphc.loops.cost import kernel_cost
from graphc.ops.declare import placeholder
from graphc.provenance import Origin
from graphc.trace import Trace

__all__ = ["NodeRow", "Spent", "declared_of", "interpret_timed", "share_out"]

ENOUGH = 2.0  # seconds after which no further run is begun


@dataclass(frozen=True)
class Spent:
    """Time, bytes and floating-point operations."""

    seconds: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0

    def plus(self, other: Spent, part: float = 1.0) -> Spent:
        """With a part of another."""
        return Spent(
            self.seconds + part * other.seconds, self.bytes + part * other.bytes, self.flops + part * other.flops
        )


@dataclass(frozen=True)
class NodeRow:
    """One node under the interpreter: median time, what it moves and computes, and the program's launches in its place."""

    node: Node
    spent: Spent
    launches: tuple[int, ...] = ()


def interpret_timed(graph: Graph, inputs: Mapping[str, Any], repeats: int = 5) -> tuple[NodeRow, ...]:
    """Run a graph on the interpreter, after one run that does not count, and time every node; variables keep their values.

    Args:
        graph: without open sizes. inputs: arrays by name.
        repeats: runs at most; none is begun after :data:`ENOUGH` seconds.

    Raises:
        InputError: inputs that do not fit. IndexRangeError: an index out of its axis.
    """
    times: dict[Node, list[float]] = {n: [] for n in graph.nodes}
    moved: dict[Node, int] = {}

    def watch(node: Node, seconds: float, value: np.ndarray, operands: Sequence[np.ndarray]) -> None:
        times[node].append(seconds)
        if node not in moved:
            seen = node.op.is_source or any(np.may_share_memory(value, o) for o in operands)
            moved[node] = 0 if seen else node.type.nbytes + sum(i.type.nbytes for i in node.inputs)

    start = perf_counter()
    for _ in range(repeats + 1):
        interpreter.run_with_updates(graph, inputs, watch=watch)
        if perf_counter() - start > ENOUGH:
            break
    flops = _operations(graph.nodes)
    return tuple(NodeRow(n, Spent(median(times[n][1:] or times[n]), moved[n], flops[n])) for n in graph.nodes)


def _operations(nodes: Iterable[Node]) -> dict[Node, int]:
    """Floating-point operations of each node; equal nodes are lowered once."""
    known: dict[Any, int] = {}
    found = {}
    for node in nodes:
        if node.op.is_source:
            found[node] = 0
            continue
        key = (node.op.name, attrs_key(node.attrs), tuple(i.type for i in node.inputs))
        if key not in known:
            alone = node.op(*(placeholder(i.type, f"x{k}") for k, i in enumerate(node.inputs)), **node.attrs)
            loops = build_loops(Graph("alone", {"y": alone}), Options(target="interpreter", check="off"), Trace())
            costs = {name: kernel_cost(kernel).flops for name, kernel in loops.kernels.items()}
            known[key] = sum(costs[launch.kernel] for launch in loops.launches)
        found[node] = known[key]
    return found


def declared_of(nodes: Iterable[Node], declared: Iterable[Node]) -> dict[Node, frozenset[Node]]:
    """For each node the declared ones that it is or was derived from, or whose loop it is a part of; linear in their ancestry."""
    known: dict[Node, frozenset[Node]] = {n: frozenset([n]) for n in declared}
    by_uid = {uid: n for n in known for inner in n.inner_nodes() for uid in inner.lineage}
    by_uid |= {uid: n for n in known for uid in n.lineage}
    wanted = list(nodes)
    stack = list(wanted)
    while stack:
        node = stack[-1]
        if node in known:
            stack.pop()
            continue
        own = frozenset(by_uid[uid] for uid in node.lineage if uid in by_uid)
        parents = [] if own else [p for origin in node.origins for p in _before(origin)]
        waiting = [p for p in parents if p not in known]
        if waiting:
            stack.extend(waiting)
            continue
        known[node] = own.union(*(known[p] for p in parents))
        stack.pop()
    return {n: known[n] for n in wanted}


def _before(origin: Origin) -> tuple[Node, ...]:
    """What a derivation read; where it says nothing of that, the primal."""
    return origin.parents or (() if origin.primal is None else (origin.primal,))


def share_out(
    rows: Sequence[NodeRow], launches: Sequence[Mapping[Node, float]]
) -> tuple[tuple[Spent, ...], Spent, tuple[NodeRow, ...]]:
    """Each launch's part of what the nodes took, what belongs to no launch, and the rows with their launches.

    Args:
        launches: for each the nodes that it computes, with the number of statements that it runs for each.
    """
    ancestors = declared_of({n: None for work in launches for n in work}, [r.node for r in rows])
    weights: dict[Node, dict[int, float]] = {}
    for number, work in enumerate(launches):
        for node, count in work.items():
            for declared in ancestors[node]:
                parts = weights.setdefault(declared, {})
                parts[number] = parts.get(number, 0.0) + count / len(ancestors[node])
    found, rest, placed = [Spent()] * len(launches), Spent(), []
    for row in rows:
        parts = weights.get(row.node, {})
        placed.append(replace(row, launches=tuple(sorted(parts))))
        total = sum(parts.values())
        for number, count in parts.items():
            found[number] = found[number].plus(row.spent, count / total if total else 1 / len(parts))
        if not parts:
            rest = rest.plus(row.spent)
    return tuple(found), rest, tuple(placed)
