"""Deep graphs: near-linear time from the graph to scheduled loops, no recursion, and equal kernels made once."""

from __future__ import annotations

import sys
from time import process_time

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.driver import Options, build_loops, schedule
from graphc.ir import Graph, Node
from graphc.loops.ir import LoopProgram
from graphc.trace import Trace


def to_loops(graph: Graph) -> LoopProgram:
    options = Options(threads=1, check="off")
    return schedule(build_loops(graph, options, Trace()), options)


def chain(nodes: int) -> Graph:
    """x -> tanh(x) + x0 -> ..."""
    x = ops.input("x", (4, 8))
    y = x
    for _ in range(nodes // 2):
        y = ops.tanh(y) + x
    return Graph("chain", {"y": y})


def fibonacci(steps: int) -> Graph:
    """Each value is made of the two before it: as a tree, it would have exponentially many nodes."""
    a = ops.input("x", (4,))
    b: Node = a + 1.0
    for _ in range(steps):
        a, b = b, ops.tanh(a + b)
    return Graph("fibonacci", {"y": b})


def layers(count: int) -> Graph:
    x = ops.input("x", (4, 8))
    for n in range(count):
        x = ops.tanh(x @ ops.parameter(f"w{n}", (8, 8), np.eye(8, dtype=np.float32)))
    return Graph("layers", {"y": x})


def seconds(graph: Graph) -> float:
    start = process_time()
    to_loops(graph)
    return process_time() - start


def test_twenty_thousand_nodes_take_near_linear_time_and_no_recursion() -> None:
    limit = sys.getrecursionlimit()
    small, large = chain(2_000), chain(20_000)
    sys.setrecursionlimit(400)
    try:
        once, tenfold = seconds(small), seconds(large)
    finally:
        sys.setrecursionlimit(limit)
    assert tenfold < 10 * once * 3, f"2,000 nodes took {once:.2f} s, 20,000 took {tenfold:.2f} s"


def test_shared_values_are_visited_once() -> None:
    once, fourfold = seconds(fibonacci(500)), seconds(fibonacci(2_000))
    assert fourfold < 4 * once * 3


@pytest.mark.slow
def test_a_hundred_thousand_nodes() -> None:
    small, large = seconds(chain(10_000)), seconds(chain(100_000))
    assert large < 10 * small * 3, f"10,000 nodes took {small:.2f} s, 100,000 took {large:.2f} s"


def test_a_thousand_equal_layers_are_a_few_kernels() -> None:
    loops = to_loops(layers(1_000))
    assert len(loops.launches) == 1_000
    assert len(loops.kernels) <= 3


def test_deep_programs_run() -> None:
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    want = x
    for _ in range(60):
        want = np.tanh(want)
    got = graphc.compile(layers(60), threads=1, cache=False)(x=x)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    y = x
    for _ in range(150):
        y = np.tanh(y) + x
    got = graphc.compile(chain(300), threads=1, cache=False)(x=x)["y"]
    np.testing.assert_allclose(got, y, rtol=1e-3)
