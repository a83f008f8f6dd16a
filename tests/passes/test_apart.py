"""Transcendental functions of a product's sums: a loop of their own in every register tile, printed once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import Node
from graphc.loops.ir import Alloc, Let

SHAPES = [(1, 16, 17), (2, 3, 15), (5, 7, 47), (16, 16, 16), (17, 48, 49), (48, 1, 1), (49, 15, 48), (130, 70, 100), (1000, 2, 1)]
FUNCTIONS: dict[str, tuple[Callable[[Node], Node], Callable[[np.ndarray], np.ndarray]]] = {
    "tanh": (graphc.tanh, np.tanh),
    "exp": (lambda x: graphc.exp(x) * x, lambda x: np.exp(x) * x),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_with_functions_on_hostile_shapes(function: str, threads: int, freeze: bool, dtype: str) -> None:
    build, meaning = FUNCTIONS[function]
    random = np.random.default_rng(7)
    for m, k, n in SHAPES:
        x = graphc.input("x", (m, k), dtype=dtype)
        weights = random.normal(size=(k, n), scale=k**-0.5).astype(dtype)
        w, b = graphc.parameter("w", (k, n), weights, dtype=dtype), graphc.input("b", (n,), dtype=dtype)
        program = graphc.compile(build(x @ w + b), threads=threads, freeze=freeze)
        data = {"x": random.normal(size=(m, k)).astype(dtype), "b": random.normal(size=n).astype(dtype)}
        want = meaning(data["x"].astype(np.float64) @ weights.astype(np.float64) + data["b"])
        bound = 16 * np.finfo(dtype).eps * np.sqrt(k) * max(1.0, float(np.abs(want).max()))
        assert np.abs(program(**data) - want).max() <= bound, (m, k, n)


def test_the_functions_of_a_tile_are_printed_once() -> None:
    x, w = graphc.input("x", (96, 64)), graphc.input("w", (64, 96))
    program = graphc.compile(graphc.tanh(x @ w), threads=1)
    (kernel,) = program.loops.kernels.values()
    statements = list(kernel.statements())
    assert any(isinstance(s, Alloc) and s.buffer.name.startswith("tile") for s, _ in statements)
    for stmt, loops in statements:
        if isinstance(stmt, Let) and stmt.primitive == "tanh":
            assert not any(loop.kind == "unrolled" for loop in loops)


def test_a_light_epilogue_stays_in_the_registers() -> None:
    x, w, b = graphc.input("x", (96, 64)), graphc.input("w", (64, 96)), graphc.input("b", (96,))
    program = graphc.compile(graphc.relu(x @ w + b), threads=1)
    (kernel,) = program.loops.kernels.values()
    assert not any(isinstance(s, Alloc) and s.buffer.name.startswith("tile") for s, _ in kernel.statements())
