"""Measure how the graph level scales: seconds to build, print, parse, verify, differentiate, simplify and interpret.

What enters: sizes. What leaves: a table, and for each step the slope of log(time) over log(nodes); 1 is linear. Invariant:
the graph mixes chains and sharing, and the Fibonacci-shared DAG (x[n] = x[n-1] + x[n-2]) must not blow up. ::

    python -m bench.scaling            # 1,000 to 100,000 nodes
    python -m bench.scaling 1000 4000  # other sizes
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from graphc import ops
from graphc.interpreter import run
from graphc.ir import Graph
from graphc.rewrite import Pipeline
from graphc.text import parse_graph, print_graph
from graphc.verify import verify
from passes.differentiate import grad
from passes.simplify import simplify

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


def model(nodes: int) -> Graph:
    """A chain with a shared input, three nodes a step: y <- tanh(sin(y) + x)."""
    x = y = ops.input("x", (4,))
    for _ in range(nodes // 3):
        y = ops.tanh(ops.sin(y) + x)
    graph = Graph("chain", {"loss": ops.sum(y)}, declared_inputs=(x,))
    len(graph)
    return graph


def fibonacci(n: int) -> Graph:
    """x[n] = x[n-1] + x[n-2]: n nodes, and exponentially many paths."""
    x = ops.input("x", (4,))
    a, b = x, x
    for _ in range(n):
        a, b = b, ops.mul(a + b, 0.5)
    return Graph("fibonacci", {"loss": ops.sum(b)}, declared_inputs=(x,))


def simplified(graph: Graph) -> Graph:
    """The graph after the project's simplify pass, run by the pipeline without checks (they are measured apart)."""
    return Pipeline((simplify,)).run(graph, check="off")


def measure(make: Callable[[], Graph]) -> dict[str, float]:
    """Seconds of each step on one graph, and the number of nodes with gradient."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        gc.collect()
        start = perf_counter()
        result = step()
        seconds[name] = perf_counter() - start
        return result

    graph = timed("build", make)
    text = timed("print", lambda: print_graph(graph))
    timed("parse", lambda: parse_graph(text))
    timed("verify", lambda: verify(graph))
    gradient = timed("differentiate", lambda: grad(graph.outputs["loss"], graph.inputs[0]))
    both = Graph("both", {**graph.outputs, "dx": gradient}, declared_inputs=graph.inputs)
    seconds["nodes"], seconds["with gradient"] = len(graph), len(both)
    timed("simplify", lambda: simplified(both))
    timed("interpret", lambda: run(both, {"x": np.zeros(4, np.float32)}))
    return seconds


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Least-squares slope of log(time) over log(size).

    >>> round(slope([10, 100, 1000], [1, 10, 100]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main(arguments: Sequence[str]) -> None:
    sizes = [int(a) for a in arguments] or list(SIZES)
    measure(lambda: model(300))  # warm up
    rows = [measure(lambda n=n: model(n)) for n in sizes]  # type: ignore[misc]
    steps = [name for name in rows[0] if name not in ("nodes", "with gradient")]
    table = Table(title="Seconds by nodes (the gradient's nodes come on top from simplify on)")
    for title in ("nodes", "with gradient", *steps):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(f"{row['nodes']:,.0f}", f"{row['with gradient']:,.0f}", *(f"{row[s]:.3f}" for s in steps))
    if len(rows) > 1:
        slopes = [slope([r["nodes"] for r in rows], [r[s] for r in rows]) for s in steps]
        table.add_row("slope", "", *(f"{s:.2f}" for s in slopes), style="bold")
    shared = measure(lambda: fibonacci(200))
    table.add_row("Fibonacci", f"{shared['with gradient']:,.0f}", *(f"{shared[s]:.3f}" for s in steps), style="cyan")
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
