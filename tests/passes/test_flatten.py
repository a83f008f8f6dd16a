"""Rows of a product stay merged: the same bits, fewer launches, and what crosses the merged axes is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.ir import Graph, Node
from graphc.trace import Context
from passes.flatten import flatten

RNG = np.random.default_rng(11)


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def rows() -> tuple[Node, dict[str, Node]]:
    """A product as the DSL declares it for three axes: merged, multiplied, split."""
    x, w = graphc.input("x", (4, 6, 8)), graphc.input("w", (8, 16))
    return graphc.reshape(graphc.reshape(x, (24, 8)) @ w, (4, 6, 16)), {"x": x, "w": w}


def bias(y: Node) -> Node:
    return graphc.tanh(y + graphc.input("b", (16,)))


def residual(y: Node) -> Node:
    return graphc.relu(y + graphc.input("r", (4, 6, 16))) * y


def statistics(y: Node) -> Node:
    centred = y - graphc.mean(y, axis=-1, keepdims=True)
    return centred / graphc.sqrt(graphc.mean(centred * centred, axis=-1, keepdims=True) + 1e-3)


def over_rows(y: Node) -> Node:
    return graphc.sum(graphc.exp(y), axis=(0, 1))


def over_all(y: Node) -> Node:
    return graphc.max(y)


def over_time(y: Node) -> Node:
    return graphc.sum(graphc.tanh(y), axis=1)


def by_time(y: Node) -> Node:
    return y * graphc.input("t", (6, 1)) + graphc.input("u", (4, 1, 1))


def by_feature_of_time(y: Node) -> Node:
    return y + graphc.input("f", (6, 16))


def compared(y: Node) -> Node:
    return graphc.where(y > 0.5, y, graphc.cast(y > 0.0, "float32"))


CASES = [bias, residual, statistics, over_rows, over_all, over_time, by_time, by_feature_of_time, compared]
SHAPES = {"x": (4, 6, 8), "w": (8, 16), "b": (16,), "r": (4, 6, 16), "t": (6, 1), "u": (4, 1, 1), "f": (6, 16)}


@pytest.mark.parametrize("case", CASES, ids=[c.__name__ for c in CASES])
def test_values_are_kept(case: Any) -> None:
    y, _ = rows()
    outputs = {"out": case(y), "y": y}
    names = {n.name for n in Graph("g", outputs).inputs}
    given = arrays(**{n: s for n, s in SHAPES.items() if n in names})
    want = graphc.compile(outputs, target="interpreter")(**given)
    for threads in (1, 2):
        got = graphc.compile(outputs, threads=threads, cache=False, check="every-pass")(**given)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-6)


def test_bias_and_activation_join_the_product() -> None:
    y, _ = rows()
    again = graphc.reshape(graphc.reshape(bias(y), (24, 16)) @ graphc.input("v", (16, 4)), (24, 4))
    loops = graphc.compile(again, cache=False).loops
    assert len(loops.launches) == 2
    assert [sum(n.op.name in ("matmul", "add", "tanh") for n in launch.nodes) for launch in loops.launches] == [3, 1]


def test_reductions_of_whole_axes_are_merged_and_others_left() -> None:
    y, _ = rows()
    outputs = {"a": over_rows(y), "b": over_time(y), "c": graphc.sum(y, axis=2)}
    made = flatten(Graph("g", outputs), Context("flatten"))
    shapes = sorted(n.inputs[0].shape for n in made.nodes if n.op.name == "sum")
    assert shapes == [(4, 6, 16), (24, 16), (24, 16)]


def test_a_graph_without_such_products_is_itself() -> None:
    x = graphc.input("x", (4, 6))
    graph = Graph("g", {"y": graphc.reshape(graphc.tanh(x), (2, 2, 6)) + 1.0})
    assert flatten(graph, Context("flatten")) is graph


def test_gradients_of_a_block() -> None:
    with graphc.seed(2):
        x = graphc.input("x", (2, 5, 8))
        block = nn.TransformerBlock(2)
        loss = graphc.mean(graphc.square(block(x)))
    outputs = {"loss": loss, **{p.name: g for p, g in zip(block.parameters(), graphc.grad(loss, block.parameters()), strict=True)}}
    given = arrays(x=(2, 5, 8))
    want = graphc.compile(outputs, target="interpreter")(**given)
    for name, value in graphc.compile(outputs, cache=False)(**given).items():
        np.testing.assert_allclose(value, want[name], rtol=2e-4, atol=2e-5, err_msg=name)
