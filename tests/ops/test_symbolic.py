"""A symbolic batch passes through every family of ops: types before, values after, gradients in between."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import losses, ops, random
from graphc.errors import ShapeError
from graphc.interpreter import evaluate
from passes.differentiate import grad

W = np.random.default_rng(1).normal(size=(4, 5))

CASES: dict[str, tuple[Any, str]] = {
    "matmul": (lambda x: x @ W, "f64[batch,5]"),
    "gram": (lambda x: x.T @ x, "f64[4,4]"),
    "outer": (lambda x: x @ x.T, "f64[batch,batch]"),
    "mean": (lambda x: ops.mean(x, axis=0), "f64[4]"),
    "var": (lambda x: ops.var(x), "f64[]"),
    "softmax": (lambda x: ops.softmax(x, axis=0), "f64[batch,4]"),
    "logsumexp": (lambda x: ops.logsumexp(x, axis=(0, 1)), "f64[]"),
    "max": (lambda x: ops.max(x, axis=0, keepdims=True), "f64[1,4]"),
    "cumsum": (lambda x: ops.cumsum(x, axis=0), "f64[batch,4]"),
    "reshape": (lambda x: ops.reshape(x, (-1, 2)), "f64[2*batch,2]"),
    "flatten": (lambda x: ops.flatten(x), "f64[4*batch]"),
    "concatenate": (lambda x: ops.concatenate([x, ops.ones((3, 4), "float64"), x]), "f64[2*batch+3,4]"),
    "stack": (lambda x: ops.stack([x, x * 2], axis=1), "f64[batch,2,4]"),
    "pad": (lambda x: ops.pad(x, ((2, 1), (0, 0))), "f64[batch+3,4]"),
    "slice": (lambda x: x[1:, ::2], "f64[batch-1,2]"),
    "shift": (lambda x: x[1:] - x[:-1], "f64[batch-1,4]"),
    "flip": (lambda x: x[::-1], "f64[batch,4]"),
    "even": (lambda x: ops.concatenate([x, x])[::2], "f64[batch,4]"),
    "broadcast": (lambda x: ops.broadcast_to(x[0], x.shape), "f64[batch,4]"),
    "take": (lambda x: ops.take(x, [1, 0, -1, 1], axis=0), "f64[4,4]"),
    "along": (lambda x: ops.take_along_axis(x, ops.argmax(x, 1, keepdims=True), 1), "f64[batch,1]"),
    "einsum": (lambda x: ops.einsum("bi,ij,bj->b", x, W[:, :4], x), "f64[batch]"),
    "loss": (lambda x: losses.cross_entropy(x, ops.argmin(x, 1)), "f64[]"),
    "norm": (lambda x: ops.norm(x, axis=0), "f64[4]"),
    "where": (lambda x: ops.where(x > 0, x, ops.exp(x)), "f64[batch,4]"),
    "noise": (lambda x: x * random.uniform(random.key(1), x.shape, dtype="float64"), "f64[batch,4]"),
    "count": (lambda x: ops.sum(x) / ops.size("batch", "float64"), "f64[]"),
    "arange": (lambda x: x * ops.expand_dims(ops.arange("batch"), 1), "f64[batch,4]"),
}


@pytest.mark.parametrize("name", CASES)
def test_symbolic_batch(name: str) -> None:
    f, type_ = CASES[name]
    x = ops.input("x", ("batch", 4), "float64")
    y = f(x)
    assert str(y.type) == type_
    data = np.random.default_rng(2).normal(size=(6, 4))
    fixed = ops.input("x", (6, 4), "float64")
    if name not in ("count", "arange"):  # these name the size
        np.testing.assert_allclose(evaluate(y, {"x": data}), evaluate(f(fixed), {"x": data}))
    scale = np.linspace(1, 2, int(np.prod(evaluate(y, {"x": data}).shape)))
    assert scale.size
    total = ops.sum(ops.square(y) if y.dtype.is_float else y)
    slope = evaluate(grad(total, x), {"x": data})
    step = np.random.default_rng(3).normal(size=data.shape)
    up, down = (evaluate(total, {"x": data + s * 1e-6 * step}) for s in (1, -1))
    np.testing.assert_allclose(np.sum(slope * step), (up - down) / 2e-6, rtol=1e-6, atol=1e-7)


def test_every_public_function_is_documented_with_an_example() -> None:
    for name in ops.__all__:
        function = getattr(ops, name)
        doc = inspect.getdoc(function) or ""
        assert doc, f"{name} has no docstring"
        assert ">>>" in doc, f"{name} has no example"
        assert "return" in function.__annotations__, f"{name} has no type hints"


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_a_size_that_is_too_small_names_the_node_and_the_line(target: str) -> None:
    x = ops.input("x", ("n", 2))
    program = graphc.compile(x[5:] * 2.0, target=target)
    with pytest.raises(ShapeError, match=r"slice: f32\[n-5,2\] is f32\[-2,2\] for n = 3") as told:
        program(x=np.ones((3, 2), np.float32))
    assert "test_symbolic.py:" in str(told.value) and "x: f32[3,2]" in str(told.value)
