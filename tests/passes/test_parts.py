"""Sums of padded parts become concatenations: where parts touch, in any order, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.interpreter import run
from graphc.ir import Graph
from graphc.rewrite import Context
from graphc.verify import verify
from passes.parts import parts

RNG = np.random.default_rng(3)


def padded(name: str, start: int, stop: int, whole: int = 12, axis: int = 1, value: float = 0.0) -> Any:
    shape = [4, 5, 3]
    shape[axis] = stop - start
    width = [(0, 0)] * 3
    width[axis] = (start, whole - stop)
    return ops.pad(graphc.input(name, tuple(shape)), width, value)


def other(name: str) -> Any:
    return graphc.input(name, (4, 12, 3))


CASES = {
    "all of it": (lambda: padded("a", 0, 5) + padded("b", 5, 12), 1, 0),
    "in another order": (lambda: padded("a", 8, 12) + padded("b", 0, 3) + padded("c", 3, 8), 1, 0),
    "a gap": (lambda: padded("a", 0, 4) + padded("b", 6, 12), 0, 2),
    "touching, not all of it": (lambda: padded("a", 2, 4) + padded("b", 4, 9), 1, 1),
    "an overlap": (lambda: padded("a", 0, 5) + padded("b", 4, 12), 0, 2),
    "one twice": (lambda: padded("a", 0, 5) + padded("b", 5, 12) + padded("c", 5, 12), 1, 1),
    "another term": (lambda: other("x") + padded("a", 0, 5) + (other("y") + padded("b", 5, 12)), 1, 0),
    "two runs": (lambda: padded("a", 0, 2) + padded("b", 2, 4) + (padded("c", 7, 8) + padded("d", 8, 12)), 2, 2),
    "one value twice": (lambda: (lambda p: p + p)(padded("a", 0, 5)), 0, 1),
    "padded with ones": (lambda: padded("a", 0, 5, value=1.0) + padded("b", 5, 12), 0, 2),
    "read elsewhere": (lambda: (lambda p: (p + padded("b", 5, 12)) * ops.exp(p))(padded("a", 0, 5)), 0, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_parts_that_touch_are_joined(case: str) -> None:
    make, joined, pads = CASES[case]
    graph = Graph("f", {"y": make()})
    made = parts(graph, Context("parts"))
    verify(made)
    names = [node.op.name for node in made.nodes]
    assert (names.count("concatenate"), names.count("pad")) == (joined, pads)
    if not joined:
        assert made.outputs["y"] is graph.outputs["y"]
    arrays = {n.name: RNG.standard_normal(n.type.static_shape).astype(np.float32) for n in graph.inputs}
    wanted, got = (run(g, arrays)["y"] for g in (graph, made))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_parts_along_two_axes_stay_apart() -> None:
    wide = ops.pad(graphc.input("a", (4, 12, 2)), ((0, 0), (0, 0), (0, 1)))
    graph = Graph("f", {"y": wide + padded("b", 0, 5) + padded("c", 5, 12)})
    made = parts(graph, Context("parts"))
    names = [node.op.name for node in made.nodes]
    assert (names.count("concatenate"), names.count("pad"), names.count("add")) == (1, 1, 1)


def test_the_gradient_of_slices_is_put_together_once() -> None:
    x = graphc.input("x", (6, 12))
    a, b, c = x[:, :4], x[:, 4:7], x[:, 7:]
    loss = ops.sum(ops.sin(a)) + ops.sum(b * b) + ops.sum(ops.exp(c))
    (slope,) = graphc.grad(loss, [x])
    program = graphc.compile(slope)
    assert "add" not in program.source("loops").replace("add=", "").replace("= add", "")
    array = RNG.standard_normal((6, 12)).astype(np.float32)
    wanted = np.concatenate([np.cos(array[:, :4]), 2 * array[:, 4:7], np.exp(array[:, 7:])], axis=1)
    np.testing.assert_allclose(program(x=array), wanted, rtol=2e-6, atol=1e-6)
