"""Random graphs: pointwise ops, movement, reductions, products, gathers and integers over small odd shapes.

What enters: Hypothesis' choices. What leaves: a graph with inputs x, y [m, n], b [n] and i [3] (indices below m) and a
variable w [n, m], with arrays for them. Invariant: values stay finite and of moderate size, and no branch depends on
rounding: comparisons are between values that differ or are equal by construction.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from graphc import ops
from graphc.ir import Graph, Node

Case = tuple[Graph, dict[str, np.ndarray]]


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def programs(draw: st.DrawFn, most: int = 14) -> Case:
    """A graph of up to ``most`` steps, and arrays for its inputs."""
    m, n = draw(st.sampled_from([1, 2, 3, 5, 9])), draw(st.sampled_from([1, 2, 4, 7, 17]))
    w = ops.parameter("w", (n, m), rows(n, m, seed=9))
    index = ops.input("i", (3,), "int32")
    pool: list[Node] = [ops.input("x", (m, n)), ops.input("y", (m, n)), ops.input("b", (n,)), ops.transpose(w)]
    declared = (*pool[:3], index)
    for _ in range(draw(st.integers(1, most))):
        a, b = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
        made = _step(draw(st.integers(0, 14)), a, b, index)
        if made.ndim <= 2 and made.shape in ((m, n), (n,), (m, 1), (1, n)):
            pool.append(made)
    outputs = {f"o{k}": v for k, v in enumerate(draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3)))}
    updates = {w: w * 0.5 + ops.sum(ops.tanh(pool[-1])) * 0.001} if draw(st.booleans()) else {}
    arrays = {"x": rows(m, n), "y": rows(m, n, seed=1), "b": rows(n, seed=2), "i": np.array([0, m - 1, -1], np.int32)}
    return Graph("random", outputs, updates, declared), arrays


def _step(kind: int, a: Node, b: Node, index: Node) -> Node:
    """One more value from two earlier ones; kinds that do not fit their shapes become a select."""
    matrix = a.ndim == 2
    match kind:
        case 0:
            return ops.maximum(a, b)
        case 1:
            return (a + b) * 0.5
        case 2:
            return ops.tanh(a) * b
        case 3:
            return ops.tanh(ops.sum(a, axis=a.ndim - 1, keepdims=True)) + b
        case 4 if matrix:
            return ops.max(a, axis=0) * 0.5
        case 5 if matrix and a.shape == b.shape:
            return ops.tanh(a @ ops.transpose(b)) @ b * 0.1
        case 6:
            return ops.reshape(ops.reshape(a, (-1,)), a.shape) + 1.0
        case 7 if matrix:
            return ops.exp(-ops.square(a)) / (1.0 + ops.sum(ops.exp(-ops.square(a)), axis=1, keepdims=True))
        case 8:
            return ops.flip(a) - b
        case 9 if matrix:
            return ops.softmax(a, axis=1) * b
        case 10 if matrix:
            return a + ops.sum(ops.take(a, index, axis=0), axis=0) * 0.25
        case 11 if matrix:
            return ops.cumsum(a, axis=1) * 0.25
        case 12:
            return ops.pad(a, [(1, 0)] * a.ndim, 0.5)[(slice(1, None),) * a.ndim] * b
        case 13 if matrix and a.shape == b.shape:
            return ops.mean(ops.concatenate([a, b], axis=1), axis=1, keepdims=True) + ops.cast(
                ops.argmax(a, axis=1, keepdims=True), "float32"
            )
    return ops.where(a > b, a, b * 0.25)
