"""Tests generated from the op registry: every op that is declared is tested, without naming it here."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from graphc import nn, ops, random  # noqa: F401  (nn and random register ops)
from graphc.errors import TypeRuleError
from graphc.interpreter import evaluate, run
from graphc.ir import REGISTRY, Graph, Node, Op, topological
from graphc.ops.declare import NotDifferentiable, Zero
from graphc.ops.examples import Example, examples
from graphc.types import as_dtype, bool_, float32, float64, int32, int64, uint32
from passes.differentiate import jvp, vjp

NAMES = sorted(REGISTRY)
EPS = 1e-6


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def differentiable(op: Op) -> bool:
    return op.samples is not None and op.samples.gradient and not isinstance(op.derivative, (Zero, NotDifferentiable))


SMOOTH = [name for name in NAMES if differentiable(REGISTRY[name])]


def calls(name: str, dtype: Any = float64) -> list[Example]:
    return examples(REGISTRY[name], dtype, seed=seed_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_declaration_is_complete(name: str) -> None:
    op = REGISTRY[name]
    assert op.doc, "an op says what it does"
    assert op.latex, "an op has a formula"
    op.latex.format(*"abcd", name="n", dim="d", function="f", index=0)
    assert op.lowering is not None or op.is_composite or op.is_source
    assert op.derivative is not None or op.is_composite, "a primitive says what its derivative is"
    for formula in getattr(op.derivative, "latex", ()):
        formula.format(*"abcd", g="g", y="y")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [float32, float64, int32, int64, uint32, bool_], ids=str)
def test_reference_has_the_type_that_the_rule_says(name: str, dtype: Any) -> None:
    shapes = [(3, 4), (), (0, 2), (1,)]
    for example in examples(REGISTRY[name], dtype, seed=1, shapes=shapes):
        try:
            node = example.node()
        except TypeRuleError:
            assert dtype != float64, f"{example} must be allowed on floats"
            continue
        value = evaluate(node, example.feeds())
        assert (value.shape, as_dtype(value.dtype)) == (node.shape, node.dtype), str(example)


@pytest.mark.parametrize("name", [n for n in NAMES if REGISTRY[n].is_composite])
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_expansion_is_the_reference(name: str, dtype: Any) -> None:
    tolerance = {"rtol": 3e-6, "atol": 1e-6} if dtype is float32 else {"rtol": 1e-12, "atol": 1e-13}
    for example in calls(name, dtype):
        inputs = example.inputs()
        assert example.op.expand is not None
        expanded = example.op.expand(*inputs, **example.attrs)
        assert expanded.type == example.node(inputs).type
        want = example.op.reference(*example.arrays, **example.attrs)
        # an expansion may ignore an operand (phase): all inputs stay declared
        value = run(Graph("value", {"value": expanded}, {}, tuple(inputs)), example.feeds())["value"]
        np.testing.assert_allclose(value, want, **tolerance, err_msg=str(example))


def floats(example: Example) -> list[int]:
    return [i for i, a in enumerate(example.arrays) if a.dtype.kind == "f"]


def value_at(example: Example, arrays: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(example.op.reference(*arrays, **example.attrs))


def moved(example: Example, i: int, step: np.ndarray) -> list[np.ndarray]:
    return [a + step if k == i else a for k, a in enumerate(example.arrays)]


@pytest.mark.parametrize("name", SMOOTH)
def test_vjp_against_finite_differences(name: str) -> None:
    rng = np.random.default_rng(seed_of(name))
    for example in calls(name):
        inputs = example.inputs()
        y = example.node(inputs)
        ct = rng.normal(size=y.shape)
        wrt = floats(example)
        found = vjp(y, [inputs[i] for i in wrt], ct)
        for i, node in zip(wrt, found, strict=True):
            got = evaluate_with(node, example)
            want = np.zeros_like(got)
            for place in np.ndindex(got.shape):
                step = np.zeros_like(got)
                step[place] = EPS * max(1.0, abs(example.arrays[i][place]))
                up, down = value_at(example, moved(example, i, step)), value_at(example, moved(example, i, -step))
                want[place] = np.sum(ct * (up - down)) / (2 * step[place])
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-7, err_msg=f"{example} operand {i}")


@pytest.mark.parametrize("name", SMOOTH)
def test_jvp_agrees_with_vjp(name: str) -> None:
    rng = np.random.default_rng(seed_of(name) + 1)
    for example in calls(name):
        inputs = example.inputs()
        y = example.node(inputs)
        wrt = [inputs[i] for i in floats(example)]
        ct = rng.normal(size=y.shape)
        tangents = [rng.normal(size=n.shape) for n in wrt]
        pushed = evaluate_with(jvp(y, wrt, tangents), example)
        pulled = [evaluate_with(n, example) for n in vjp(y, wrt, ct)]
        left = np.sum(ct * pushed)
        right = sum(np.sum(t * p) for t, p in zip(tangents, pulled, strict=True))
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12, err_msg=str(example))


def evaluate_with(node: Node, example: Example) -> np.ndarray:
    """The node's value; inputs that its formula does not read are left out."""
    read = {n.name for n in topological((node,)) if n.op.name == "input"}
    return evaluate(node, {k: v for k, v in example.feeds().items() if k in read})


@pytest.mark.parametrize("name", [n for n in SMOOTH if REGISTRY[n].samples.second_order])
def test_second_derivative_against_finite_differences(name: str) -> None:
    rng = np.random.default_rng(seed_of(name) + 2)
    for example in calls(name):
        inputs = example.inputs()
        y = example.node(inputs)
        which = floats(example)
        wrt = [inputs[i] for i in which]
        directions = [rng.normal(size=n.shape) for n in wrt]
        ct = rng.normal(size=y.shape)
        first = vjp(y, wrt, ct)
        total = None
        for node, direction in zip(first, directions, strict=True):
            term = ops.sum(node * direction)
            total = term if total is None else total + term
        assert total is not None
        second = [evaluate_with(n, example) for n in vjp(total, wrt, 1.0)]
        steps = [rng.normal(size=n.shape) for n in wrt]
        eps = 1e-5
        up, down = (
            Example(example.op, tuple(
                a + sign * eps * steps[which.index(i)] * np.maximum(np.abs(a) * 1e-1, 1e-1 if np.min(np.abs(a),
                initial=1) > 1e-1 else 1e-3)
                if i in which else a for i, a in enumerate(example.arrays)
            ), example.attrs)
            for sign in (1, -1)
        )  # fmt: skip
        slope = evaluate_with(total, up) - evaluate_with(total, down)
        want = sum(np.sum(s * (u - d)) for s, u, d in zip(
            second, (up.arrays[i] for i in which), (down.arrays[i] for i in which), strict=True))  # fmt: skip
        scale = sum(np.sum(np.abs(s)) for s in second) * eps
        np.testing.assert_allclose(slope, want, rtol=1e-4, atol=max(1e-10, 1e-5 * float(scale)), err_msg=str(example))
