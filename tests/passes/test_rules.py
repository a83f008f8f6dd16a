"""Every rewrite rule: both sides agree, exact ones bit for bit; each stabilising rule mends a naive form that fails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from graphc import interpreter, ops
from graphc.ir import Graph, Node, topological
from graphc.patterns import Rule
from graphc.trace import Context
from graphc.types import as_dtype
from passes import GRAPH_PIPELINE
from passes.simplify import EXACT, REAL, simplify
from passes.stabilise import RULES, stabilise

SPECIAL = {
    "float": [0.0, -0.0, 1.0, -1.0, 2.5, -3.75, math.inf, -math.inf, math.nan, 1e-40, 3e38],
    "bool": [True, False],
    "int": [0, 1, -1, 7, 2**31 - 1, -(2**31)],
}


def values(node: Node, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return interpreter.evaluate(node, arrays)


def tuples(count: int, dtype: str) -> list[np.ndarray]:
    """All combinations of special values, one array an operand."""
    grid = list(itertools.product(SPECIAL[as_dtype(dtype).kind], repeat=count))
    return [np.array(column).astype(as_dtype(dtype).numpy) for column in zip(*grid, strict=True)]


@pytest.mark.parametrize("rule", [r for r in EXACT if not r.on], ids=lambda r: r.name)
def test_exact_rules_keep_every_bit(rule: Rule) -> None:
    pattern = rule.pattern
    assert pattern is not None
    names = [n.name for n in topological((pattern,)) if n.op.name == "input"]
    traced = {n.name: n.dtype for n in topological((pattern,)) if n.op.name == "input"}
    dtypes = (
        ["float32", "float64"]
        if traced[names[0]].is_float or len(set(traced.values())) > 1
        else [traced[names[0]].name]
    )
    for dtype in dtypes:
        kinds = ["bool" if traced[n].kind == "bool" else dtype for n in names]
        sizes = [SPECIAL[as_dtype(k).kind] for k in kinds]
        grid = list(itertools.product(*sizes)) if len(names) < 4 else list(itertools.product(*(s[:6] for s in sizes)))
        columns = [np.array(c).astype(as_dtype(k).numpy) for c, k in zip(zip(*grid, strict=True), kinds, strict=True)]
        nodes = {n: ops.input(n, (len(grid),), k) for n, k in zip(names, kinds, strict=True)}
        left, _ = rule.fn(**nodes)
        context = Context("simplify")
        graph = simplify.run(Graph("g", {"y": left}, {}, tuple(nodes.values())), context)
        assert rule.name in {f.rule for f in context.firings}
        arrays = dict(zip(names, columns, strict=True))
        before, after = values(left, arrays), interpreter.run(graph, arrays)["y"]
        np.testing.assert_array_equal(after, before)
        if before.dtype.kind == "f":
            same_sign = np.signbit(after) == np.signbit(before)
            assert (same_sign | np.isnan(before)).all()


X = ops.input("x", (3, 4))
PROCEDURAL = {
    "pow_one": lambda: (ops.pow(X, 1.0), X),
    "where_known": lambda: (ops.where(ops.constant(True), X, -X), X),
    "transpose_identity": lambda: (ops.transpose(X, (0, 1)), X),
    "transpose_transpose": lambda: (ops.transpose(ops.transpose(X)), X),
    "transpose_of_broadcast_scalar": lambda: (ops.transpose(ops.full((3, 4), 2.0)), None),
    "reshape_identity": lambda: (ops.reshape(ops.reshape(X, (12,)), (3, 4)), X),
    "reshape_reshape": lambda: (ops.reshape(ops.reshape(X, (12,)), (2, 6)), None),
    "reshape_of_broadcast_scalar": lambda: (ops.reshape(ops.full((3, 4), 2.0), (12,)), None),
    "broadcast_broadcast": lambda: (ops.broadcast_to(ops.broadcast_to(X, (2, 3, 4)), (5, 2, 3, 4)), None),
    "broadcast_of_unit_reshape": lambda: (ops.broadcast_to(ops.reshape(ops.sum(X), (1, 1)), (3, 4)), None),
    "flip_flip": lambda: (ops.flip(ops.flip(X)), X),
    "flip_nothing": lambda: (ops.flip(ops.reshape(X, (1, 12)), 0), None),
    "concatenate_one": lambda: (ops.concatenate([X]), X),
    "cast_widened": lambda: (ops.cast(ops.cast(X, "float64"), "float32"), X),
    "stop_gradient_done": lambda: (ops.stop_gradient(X), X),
}


@pytest.mark.parametrize("name", PROCEDURAL)
def test_procedural_rules(name: str) -> None:
    declared, wanted = PROCEDURAL[name]()
    context = Context("simplify")
    graph = simplify.run(Graph("g", {"y": declared}, {}, (X,)), context)
    if wanted is not None:
        assert graph.outputs["y"] is wanted
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    before = Graph("g", {"y": declared}, {}, (X,))
    np.testing.assert_array_equal(interpreter.run(graph, {"x": array})["y"], interpreter.run(before, {"x": array})["y"])
    assert len(graph.nodes) <= len(before.nodes)


def test_simplify_is_idempotent() -> None:
    x = ops.input("x", (2, 3))
    graph = Graph("g", {"y": ops.neg(ops.neg(x * 1.0)) - 0.0})
    once = simplify(graph)
    assert once.outputs["y"] is x
    assert simplify(once) is once


def test_real_rules_are_not_applied_by_default() -> None:
    x = ops.input("x", (2,))
    assert simplify(Graph("g", {"y": x * 0.0})).outputs["y"].op.name == "mul"
    assert all(r.kind == "real" for r in REAL)


def naive_softmax(x: Node) -> Node:
    e = ops.exp(x)
    return e / ops.sum(e, axis=-1, keepdims=True)


def length(x: Node, y: Node) -> Node:
    return ops.sqrt(x * x + y * y)


# rule -> (formula, points where the naive form fails in float32, the true values there)
UNSTABLE = {
    "log_of_softmax": (lambda x: ops.log(ops.softmax(x)), [[0.0, 200.0]], [[-200.0, 0.0]]),
    "log_of_one_plus_exp": (lambda x: ops.log(1.0 + ops.exp(x)), [100.0, -50.0], [100.0, math.exp(-50)]),
    "log1p_of_exp": (lambda x: ops.log1p(ops.exp(x)), [200.0], [200.0]),
    "log_of_one_minus_exp": (
        lambda x: ops.log(1.0 - ops.exp(x)), [-1e-9, -40.0], [math.log(1e-9), -math.exp(-40)]),
    "log_of_sigmoid": (lambda x: ops.log(ops.sigmoid(x)), [-200.0], [-200.0]),
    "one_minus_sigmoid": (lambda x: 1.0 - ops.sigmoid(x), [40.0], [math.exp(-40)]),
    "sigmoid_by_hand": (lambda x: 1.0 / (1.0 + ops.exp(-x)), [-89.0], [math.exp(-89)]),
    "sigmoid_by_exp": (lambda x: ops.exp(x) / (1.0 + ops.exp(x)), [100.0], [1.0]),
    "tanh_by_exp": (
        lambda x: (ops.exp(x) - ops.exp(-x)) / (ops.exp(x) + ops.exp(-x)), [100.0, 1e-6], [1.0, 1e-6]),
    "log_of_exp": (lambda x: ops.log(ops.exp(x)), [1000.0, -1000.0], [1000.0, -1000.0]),
    "log_of_one_plus": (lambda x: ops.log(1.0 + x), [1e-9], [1e-9]),
    "exp_minus_one": (lambda x: ops.exp(x) - 1.0, [1e-9], [1e-9]),
    "x_log_x": (lambda x: x * ops.log(x), [0.0, 1.0], [0.0, 0.0]),
    "log_of_sum_of_exp": (lambda x: ops.log(ops.sum(ops.exp(x), axis=-1)), [[500.0, 499.0]], [500.0 + math.log1p(math.exp(-1))]),
    "softmax_by_hand": (naive_softmax, [[500.0, 500.0]], [[0.5, 0.5]]),
    "root_of_square": (lambda x: ops.sqrt(x * x), [-1e30, 1e-30], [1e30, 1e-30]),
    "hypotenuse": (lambda x: length(x, x * 0.75), [4e30, 4e-30, 0.0], [5e30, 5e-30, 0.0]),
    "log_of_square": (lambda x: ops.log(x * x), [1e-30, -1e30], [2 * math.log(1e-30), 2 * math.log(1e30)]),
    "one_minus_cos": (lambda x: 1.0 - ops.cos(x), [1e-5], [5e-11]),
    "root_minus_one": (lambda x: ops.sqrt(1.0 + x) - 1.0, [1e-9], [5e-10]),
    "log_of_cosh": (lambda x: ops.log(ops.cosh(x)), [200.0], [200.0 - math.log(2)]),
}  # fmt: skip


def test_every_stabilising_rule_has_a_case() -> None:
    assert {r.name for r in RULES} == set(UNSTABLE)
    assert len(UNSTABLE) >= 12


@pytest.mark.parametrize("name", UNSTABLE)
def test_stabilise_mends_what_fails(name: str) -> None:
    formula, points, truth = UNSTABLE[name]
    array = np.array(points, np.float32)
    x = ops.input("x", array.shape)
    graph = Graph("g", {"y": formula(x)})
    context = Context("stabilise")
    mended = stabilise.run(graph, context)
    assert name in {f.rule for f in context.firings}
    naive = interpreter.run(graph, {"x": array})["y"]
    stable = interpreter.run(GRAPH_PIPELINE.run(mended), {"x": array})["y"]
    want = np.array(truth)
    with np.errstate(all="ignore"):
        wrong = ~(np.abs(naive - want) <= 1e-2 * np.abs(want))
    assert wrong.any(), "the naive form does not fail here"
    np.testing.assert_allclose(stable, want, rtol=2e-5, atol=1e-44)


@pytest.mark.parametrize("name", UNSTABLE)
def test_stabilise_agrees_where_the_naive_form_is_fine(name: str) -> None:
    formula, points, _ = UNSTABLE[name]
    shape = np.array(points).shape[1:]
    low, high = (-2.0, -0.5) if name == "log_of_one_minus_exp" else (0.3, 2.0)
    array = np.random.default_rng(1).uniform(low, high, (7, *shape))
    x = ops.input("x", array.shape, "float64")
    graph = Graph("g", {"y": formula(x)})
    stable = interpreter.run(stabilise(graph), {"x": array})["y"]
    np.testing.assert_allclose(stable, interpreter.run(graph, {"x": array})["y"], rtol=1e-10, atol=1e-12)


def test_a_row_that_is_not_the_sum_of_its_own_axis_stays() -> None:
    x = ops.input("x", (3, 3))
    e = ops.exp(x)
    graph = Graph("g", {"y": e / ops.sum(e, axis=1)})  # divides columns by row sums: no softmax
    assert stabilise(graph) is graph
