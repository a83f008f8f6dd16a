"""Where a kernel's results are cut: the slope of an activation is stored, not what it is made of."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc import interpreter, ops
from graphc.ir import Graph, Node
from graphc.trace import Context, Trace
from passes import GRAPH_PIPELINE, LAYOUT, SPLIT
from passes.fuse import fuse
from passes.groups import Fusion, Group

Arrays = dict[str, np.ndarray]


def mlp(rows: int, width: int, hidden: int) -> tuple[dict[str, Node], Arrays]:
    """Loss and gradients of two layers with a GELU between them."""
    shapes = {"x": (rows, width), "w": (width, hidden), "v": (hidden, width)}
    x, w, v = (ops.input(name, shape) for name, shape in shapes.items())
    y = graphc.gelu(x @ w) @ v
    loss = graphc.sum(y * y)
    outputs = {"loss": loss, **{f"d{n.name}": graphc.grad(loss, wrt=n) for n in (x, w, v)}}
    rng = np.random.default_rng(rows)
    return outputs, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def fusion_of(outputs: dict[str, Node]) -> Fusion:
    trace = Trace()
    graph = LAYOUT.run(GRAPH_PIPELINE.run(Graph("g", outputs), trace=trace), trace=trace)
    return fuse(SPLIT.run(graph, trace=trace), Context("fuse"))


def activation(fusion: Fusion) -> Group:
    """The kernel with the GELU."""
    (group,) = (g for g in fusion.groups if any(m.op.name == "erf" for m in g.members))
    return group


def test_the_slope_of_a_gelu_is_stored_and_not_what_it_is_made_of() -> None:
    stored = activation(fusion_of(mlp(64, 32, 48)[0])).stored
    assert sorted(n.op.name for n in stored) == [
        "add",
        "mul",
    ]  # slope and activation; not the product, not its distribution
    for group in fusion_of(mlp(64, 32, 48)[0]).groups:
        exponentials = [m for m in group.members if m.op.name == "exp"]
        assert not exponentials or any(m.op.name == "erf" for m in group.members)


def test_a_value_that_is_an_output_is_stored_and_the_slope_is_not_made_early() -> None:
    x, w = ops.input("x", (64, 32)), ops.input("w", (32, 48))
    h = x @ w
    y = graphc.gelu(h)
    grad = graphc.grad(graphc.sum(y @ ops.input("v", (48, 32))), wrt=w)
    with_output = activation(fusion_of({"y": y, "h": h, "grad": grad}))
    without = activation(fusion_of({"y": y, "grad": grad}))
    assert len(without.stored) == 2 and any(m.op.name == "exp" for m in without.members)
    assert not any(m.op.name == "exp" for m in with_output.members)  # it would be stored in place of one value only


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 15, 16), (17, 16, 15), (49, 48, 47), (130, 33, 257), (0, 4, 5)])
def test_gradients_through_a_stored_slope_on_hostile_shapes(shape: tuple[int, int, int], threads: int) -> None:
    outputs, arrays = mlp(*shape)
    want = interpreter.run(Graph("g", outputs), arrays)
    got = graphc.compile(outputs, threads=threads, cache=False)(**arrays)
    for name, value in want.items():
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30])
def test_special_values_are_as_in_the_interpreter(value: float) -> None:
    outputs, arrays = mlp(3, 4, 17)
    arrays["x"][1, 2] = value
    with np.errstate(all="ignore"):
        want = interpreter.run(Graph("g", outputs), arrays)
    got = graphc.compile(outputs, threads=1, cache=False)(**arrays)
    for name, expected in want.items():
        np.testing.assert_array_equal(np.isnan(got[name]), np.isnan(expected), err_msg=name)
