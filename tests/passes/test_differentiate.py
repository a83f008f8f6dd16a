"""Differentiation: against finite differences, against itself (vjp = jvp transposed), on random DAGs, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc import ops
from graphc.errors import DifferentiationError
from graphc.interpreter import run
from graphc.ir import Graph, Node, Op
from graphc.ops.declare import Custom, NotDifferentiable, Transpose, Zero
from graphc.text import parse_graph, print_graph, same_structure
from graphc.verify import verify
from passes.differentiate import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

Data = Mapping[str, Any]


def value(node: Node, data: Data) -> np.ndarray:
    graph = Graph("g", {"y": node})
    verify(graph)
    return run(graph, {k: v for k, v in data.items() if k in {n.name for n in graph.inputs}})["y"]


def vector(name: str = "x", n: int = 3) -> Node:
    return ops.input(name, (n,), "float64")


def finite_differences(y: Node, name: str, data: Data, step: float = 1e-6) -> np.ndarray:
    """Jacobian by central differences, of shape (y..., x...)."""
    x = np.asarray(data[name], np.float64)
    columns = []
    for i in range(x.size):
        shift = np.zeros(x.size)
        shift[i] = step
        up, down = (value(y, {**data, name: x + sign * shift.reshape(x.shape)}) for sign in (1, -1))
        columns.append((up - down) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


X = np.array([0.3, 0.8, 1.7])
M = np.array([[0.5, -1.2, 0.7], [1.1, 0.4, -0.3]])

FUNCTIONS: dict[str, Callable[[Node], Node]] = {
    "polynomial": lambda x: x * x * x - 2.0 * x + 1.0,
    "quotient": lambda x: (x + 1.0) / (x * x + 0.5),
    "nested": lambda x: ops.tanh(ops.sin(x) * ops.exp(-x)),
    "shared": lambda x: ops.exp(x) * ops.exp(x) + ops.exp(x),
    "power": lambda x: x**2.5,
    "reductions": lambda x: ops.sum(x * x) * ops.prod(x) + ops.max(x),
    "matmul": lambda x: ops.matmul(ops.constant(M), ops.reshape(x, (3, 1))),
    "movement": lambda x: ops.transpose(ops.reshape(ops.concatenate([x, ops.flip(x * x, 0)], 0), (2, 3)), (1, 0)),
    "slices": lambda x: x[1:] * x[:-1],
    "take": lambda x: ops.take(x, ops.constant(np.int32([2, 0, 2])), axis=0) ** 2,
    "pad": lambda x: ops.sin(ops.pad(x, ((1, 2),))),
    "cumsum": lambda x: ops.exp(ops.cumsum(x, 0)),
    "broadcast": lambda x: ops.broadcast_to(x, (2, 3)) * ops.constant(M),
    "where": lambda x: ops.where(x > 0.5, x * x, ops.sin(x)),
    "composite": lambda x: ops.chain_product(ops.sin(x), ops.cos(x)),
    "user": lambda x: ops.custom(lambda a: a * a * a, vjp=lambda ct, y, a: ct * 3.0 * a * a)(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_derivatives(name: str) -> None:
    x = vector()
    y = FUNCTIONS[name](x)
    expected = finite_differences(y, "x", {"x": X})
    np.testing.assert_allclose(value(jacobian(y, x), {"x": X}), expected, rtol=1e-6, atol=1e-7)
    weights = np.random.default_rng(1).standard_normal(y.shape)
    back = vjp(y, x, weights)
    assert back.type == x.type
    np.testing.assert_allclose(value(back, {"x": X}), np.tensordot(weights, expected, y.ndim), rtol=1e-6, atol=1e-7)
    forth = jvp(y, x, ops.constant(X))
    assert forth.type == y.type
    np.testing.assert_allclose(value(forth, {"x": X}), expected @ X, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(name: str) -> None:
    x = vector()
    y = FUNCTIONS[name](x)
    loss = ops.sum(ops.sin(y))
    expected = finite_differences(grad(loss, x), "x", {"x": X})
    found = value(hessian(loss, x), {"x": X})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(value(hvp(loss, x, ops.constant(X)), {"x": X}), found @ X, rtol=1e-8, atol=1e-10)


def test_third_derivative() -> None:
    x = ops.input("x", (), "float64")
    y = grad(grad(grad(ops.sin(x), x), x), x)
    np.testing.assert_allclose(value(y, {"x": 0.7}), -np.cos(0.7), rtol=1e-12)


# --- random DAGs ---

UNARY = (ops.sin, ops.tanh, ops.neg, ops.exp, ops.sigmoid, lambda a: ops.flip(a, 0), lambda a: a[::-1])
BINARY = (ops.add, ops.sub, ops.mul, lambda a, b: ops.where(a > 0.0, a, b), lambda a, b: ops.sum(a) * b)


@st.composite
def dags(draw: st.DrawFn) -> tuple[Node, Node, Node]:
    a, b = vector("a"), vector("b")
    values = [a, b]
    for _ in range(draw(st.integers(1, 25))):
        if draw(st.booleans()):
            made = draw(st.sampled_from(UNARY))(draw(st.sampled_from(values)))
        else:
            made = draw(st.sampled_from(BINARY))(draw(st.sampled_from(values)), draw(st.sampled_from(values)))
        values.append(ops.tanh(made))  # keeps magnitudes and derivatives moderate
    return a, b, values[-1]


@settings(max_examples=60, deadline=None)
@given(dags(), st.integers(0, 2**31))
def test_random_dags(dag: tuple[Node, Node, Node], seed: int) -> None:
    a, b, y = dag
    generator = np.random.default_rng(seed)
    data = {"a": generator.standard_normal(3), "b": generator.standard_normal(3)}
    u, v, w = (ops.constant(generator.standard_normal(3)) for _ in range(3))
    back = vjp(y, [a, b], w)
    forth = jvp(y, [a, b], [u, v])
    # <w, J (u, v)> = <J^T w, (u, v)>
    left = value(ops.sum(w * forth), data)
    right = value(ops.sum(back[0] * u) + ops.sum(back[1] * v), data)
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-10)
    graph = Graph("g", {"y": y, "a": back[0], "b": back[1]}, declared_inputs=(a, b))
    verify(graph)
    assert same_structure(graph, parse_graph(print_graph(graph)))
    direction, step = value(u, {}), 1e-6
    if "where" not in {n.op.name for n in graph.nodes}:  # finite differences may step over a where's edge
        up, down = (value(y, {**data, "a": data["a"] + sign * step * direction}) for sign in (1, -1))
        np.testing.assert_allclose(value(jvp(y, a, u), data), (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


# --- structure ---


def test_wrt_keeps_its_structure_and_independent_values_get_zeros() -> None:
    x, z, w = vector(), vector("z"), ops.parameter("w", (3,), 2.0, dtype="float64")
    y = ops.sum(x * w)
    assert isinstance(grad(y, x), Node)
    assert isinstance(grad(y, [x, z]), list) and isinstance(grad(y, (x, z)), tuple)
    found = grad(y, {"x": x, "z": z, "w": w})
    assert list(found) == ["x", "z", "w"]
    assert value(found["z"], {"x": X, "z": X}).tolist() == [0, 0, 0]
    assert value(found["x"], {"x": X}).tolist() == [2, 2, 2]
    again, only = value_and_grad(y, x)
    assert again is y and only.type == x.type
    assert grad(y, []) == []


def test_all_reads_of_a_variable_count_as_one() -> None:
    w = ops.parameter("w", (3,), 2.0, dtype="float64")
    state = w.attrs["variable"]
    y = ops.sum(ops.parameter_node(state) * ops.parameter_node(state))
    assert value(grad(y, state), {}).tolist() == value(grad(y, w), {}).tolist() == [4, 4, 4]
    assert value(jvp(y, state, 1.0), {}) == 12


def test_inner_values_and_the_output_itself() -> None:
    x = vector()
    h = ops.exp(x)
    y = ops.sum(h * h)
    to_h, to_x = grad(y, [h, x])
    np.testing.assert_allclose(value(to_h, {"x": X}), 2 * np.exp(X))
    np.testing.assert_allclose(value(to_x, {"x": X}), 2 * np.exp(2 * X))
    assert value(grad(y, y), {}) == 1
    np.testing.assert_allclose(
        value(jvp(y, [h, x], [ops.zeros_like(x), ops.ones_like(x)]), {"x": X}), 2 * np.exp(2 * X).sum()
    )


def test_several_outputs() -> None:
    x = vector()
    outputs = {"a": ops.sin(x), "b": ops.sum(x)}
    back = vjp(outputs, x, {"a": 1.0, "b": 2.0})
    np.testing.assert_allclose(value(back, {"x": X}), np.cos(X) + 2)
    forth = jvp(outputs, x, X)
    np.testing.assert_allclose(value(forth["a"], {"x": X}), np.cos(X) * X)
    np.testing.assert_allclose(value(forth["b"], {"x": X}), X.sum())


def test_jacobians_of_every_orientation() -> None:
    x, m = vector(), ops.input("m", (2, 3), "float64")
    tall = ops.matmul(m, ops.reshape(x, (3, 1)))
    found = jacobian(tall, {"m": m, "x": x})
    assert found["m"].shape == (2, 1, 2, 3) and found["x"].shape == (2, 1, 3)
    np.testing.assert_allclose(value(found["x"], {"x": X, "m": M}), M[:, None, :])
    wide = ops.broadcast_to(ops.sum(x), (4, 5))  # fewer columns than rows: forward
    assert value(jacobian(wide, x), {"x": X}).tolist() == np.ones((4, 5, 3)).tolist()
    blocks = hessian(ops.sum(x * x) * ops.sum(m), [x, m])
    assert blocks[0][1].shape == (3, 2, 3)
    np.testing.assert_allclose(value(blocks[0][1], {"x": X, "m": M}), np.broadcast_to(2 * X[:, None, None], (3, 2, 3)))
    empty = jacobian(ops.input("e", (0,)), vector())
    assert empty.shape == (0, 3)


def test_symbolic_sizes() -> None:
    x = ops.input("x", ("n", 2))
    y = ops.sum(ops.tanh(x) * 3.0)
    d = grad(y, x)
    assert str(d.type) == "f32[n,2]"
    data = {"x": np.float32([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])}
    np.testing.assert_allclose(value(d, data), 3 * (1 - np.tanh(data["x"]) ** 2), rtol=1e-5)


def test_adjoints_know_their_primal_rule_and_line() -> None:
    x = vector()
    h = ops.exp(x)
    y = ops.sum(h)
    d = grad(y, x)
    assert d.primal is h and d.origins[0].rule == "vjp:exp" and d.origins[0].pass_name == "differentiate"
    assert h in d.origins[0].parents and d.source == h.source
    made = [n for n in Graph("g", {"d": d}).nodes if n not in set(Graph("f", {"y": y}).nodes)]
    assert made and all(n.primal is not None for n in made)
    z = x * x
    accumulated = grad(ops.sum(z + ops.sin(x)), x)
    assert accumulated.origins[0].rule == "accumulate" and accumulated.primal is x


# --- conventions ---


def test_no_nan_leaks_from_the_branch_not_taken() -> None:
    x = vector()
    data = {"x": np.array([0.0, 1.0, -1.0])}
    for y, expected in (
        (ops.where(x > 0.0, ops.log(x), 0.0), [0, 1, 0]),
        (ops.where(x > 0.0, ops.sqrt(x) * 2.0, x), [1, 1, 1]),
        (ops.where(x > 0.0, 1.0 / x, 0.0), [0, -1, 0]),
        (ops.where(x > 0.0, x * ops.log(ops.sqrt(x)), 0.0), [0, 0.5, 0]),
    ):
        loss = ops.sum(y)
        np.testing.assert_allclose(value(grad(loss, x), data), expected)
        np.testing.assert_allclose(value(jvp(y, x, 1.0), data), expected)
        second = value(hessian(loss, x), data)
        assert np.isfinite(second).all()
        assert np.isfinite(value(hvp(loss, x, X), data)).all()
        np.testing.assert_allclose(value(hvp(loss, x, X), data), second @ X)


def test_zero_derivatives_and_stop_gradient() -> None:
    x = vector()
    assert value(grad(ops.sum(ops.floor(x) * x), x), {"x": X}).tolist() == np.floor(X).tolist()
    assert value(grad(ops.sum(ops.stop_gradient(x) * x), x), {"x": X}).tolist() == X.tolist()
    assert value(jvp(ops.stop_gradient(x) * x, x, 1.0), {"x": X}).tolist() == X.tolist()
    counts = ops.cast(ops.cast(x, "int32"), "float64")
    assert value(grad(ops.sum(counts), x), {"x": X}).tolist() == [0, 0, 0]


def test_the_users_vjp_serves_forward_mode_too() -> None:
    x = vector()
    bent = ops.custom(lambda a: a, vjp=lambda ct, y, a: ct * ct)
    with pytest.raises(DifferentiationError, match="its vjp is not linear in the cotangent"):
        jvp(bent(x), x, 1.0)
    with pytest.raises(DifferentiationError, match="declares no vjp"):
        jvp(ops.custom(lambda a: a)(x), x, 1.0)
    op = Op(
        "only_vjp",
        lambda types: types[0],
        np.sin,
        derivative=Custom(lambda ct, node: (ops.mul(ct, ops.cos(node.inputs[0])),)),
    )
    np.testing.assert_allclose(value(jvp(op(x), x, X), {"x": X}), np.cos(X) * X)


# --- size ---


def test_deep_chains_and_shared_dags_are_linear() -> None:
    x = ops.input("x", (), "float64")
    y = x
    for i in range(20_000):
        y = ops.sin(y) if i % 2 else ops.neg(y)
    graph = Graph("deep", {"y": y, "d": grad(y, x), "t": jvp(y, x, 1.0)})
    assert len(graph) < 200_000
    verify(graph)
    found = run(graph, {"x": 0.5})
    np.testing.assert_allclose(found["d"], found["t"], rtol=1e-9)
    a, b = x, x
    numbers = [1, 1]
    for _ in range(200):
        a, b = b, a + b
        numbers.append(numbers[-1] + numbers[-2])
    d = grad(b, x)
    graph = Graph("fibonacci", {"y": b, "d": d, "t": jvp(b, x, 1.0)})
    assert len(graph) < 1000
    assert same_structure(graph, parse_graph(print_graph(graph)))
    found = run(graph, {"x": 1.0})
    np.testing.assert_allclose([found["d"], found["t"]], float(numbers[-1]), rtol=1e-12)


@pytest.mark.slow
def test_a_hundred_thousand_nodes() -> None:
    x = ops.input("x", (2,))
    y = x
    for _ in range(100_000):
        y = ops.neg(y)
    graph = Graph("deep", {"y": y, "d": vjp(y, x, 1.0)})
    verify(graph)
    assert same_structure(graph, parse_graph(print_graph(graph)))
    assert run(graph, {"x": [1.0, 2.0]})["d"].tolist() == [1, 1]


# --- errors ---


def opaque(x: Node, derivative: Any = None, name: str = "cholesky") -> Node:
    return Op(name, lambda types: types[0], np.abs, derivative=derivative)(x)


def test_an_op_without_derivative_shows_the_path() -> None:
    a = ops.input("a", (3,))
    inner = opaque(ops.exp(a))
    loss = ops.sum(ops.log(inner)).named("loss")
    with pytest.raises(DifferentiationError) as error:
        grad(loss, a)
    text = str(error.value)
    assert "cannot differentiate loss with respect to a: cholesky declares no derivative" in text
    assert "path: a -> exp -> cholesky (test_differentiate.py:" in text and "-> log -> loss" in text
    assert "help: declare Custom(vjp=...) beside cholesky, or wrap it in stop_gradient" in text
    with pytest.raises(DifferentiationError, match="cholesky declares no derivative"):
        jvp(loss, a, 1.0)
    with pytest.raises(DifferentiationError, match="no derivative: it jumps"):
        grad(ops.sum(opaque(a, NotDifferentiable("it jumps"))), a)


def test_long_paths_are_shortened() -> None:
    a = y = ops.input("a", (3,))
    for _ in range(50):
        y = ops.neg(y)
    y = opaque(y)
    for _ in range(50):
        y = ops.exp(y)
    with pytest.raises(DifferentiationError) as error:
        grad(ops.sum(y).named("loss"), a)
    (path,) = [line for line in str(error.value).splitlines() if "path:" in line]
    assert "a -> neg -> neg -> ... -> cholesky" in path and path.endswith("... -> exp -> exp -> loss")


def test_an_opaque_op_aside_of_the_path_does_not_matter() -> None:
    a, b = ops.input("a", (3,)), ops.input("b", (3,))
    y = ops.sum(a * opaque(b))
    assert grad(y, a).type == a.type
    assert grad(ops.sum(a * ops.stop_gradient(opaque(a))), a).type == a.type
    zero = opaque(a, Zero("a step"), "step")
    assert value(grad(ops.sum(zero), a), {"a": [1.0, 2.0, 3.0]}).tolist() == [0, 0, 0]


ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "not a scalar": (lambda: grad(vector(), vector()), "grad needs a scalar, x is f64[3]"),
    "mend": (lambda: grad(vector(), vector()), "help: reduce it with graphc.sum or graphc.mean, or use graphc.vjp"),
    "integer y": (
        lambda: grad(ops.input("n", (), "int32"), vector()),
        "cannot differentiate n: it is i32[], not a float",
    ),
    "integer wrt": (
        lambda: grad(ops.sum(vector()), ops.input("label", ("batch",), "int32")),
        "cannot differentiate with respect to label: it is i32[batch], not a float",
    ),
    "no node": (lambda: grad(3.0, vector()), "y is float, not a symbolic value"),  # type: ignore[arg-type]
    "no wrt": (lambda: grad(ops.sum(vector()), "x"), "wrt is str, not a symbolic value"),  # type: ignore[arg-type]
    "cotangent": (lambda: vjp(vector(), vector(), np.ones(4)), "the cotangent of x is f64[4], it must be f64[3]"),
    "tangent": (
        lambda: jvp(vector(), vector(), np.ones(3, np.float32)),
        "the tangent of x is f32[3], it must be f64[3]",
    ),
    "count": (lambda: vjp([vector()], vector(), [1.0, 2.0]), "cotangents must be a list of 1"),
    "keys": (lambda: vjp({"a": vector()}, vector(), {"b": 1.0}), "cotangents must be a dict with the keys a"),
    "symbolic": (lambda: jacobian(ops.input("s", ("n",)), vector()), "jacobian needs static shapes, s is f32[n]"),
    "limit": (lambda: jacobian(vector(n=99), vector("z", 99), limit=50), "takes 99 products, the limit is 50"),
}


@pytest.mark.parametrize("call, message", ERRORS.values(), ids=ERRORS.keys())
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(DifferentiationError) as error:
        call()
    assert message in str(error.value)


def test_ill_declared_derivatives_are_named() -> None:
    x = vector()
    bad = opaque(x, Custom(lambda ct, node: (ops.sum(ct),)), "odd")
    with pytest.raises(
        DifferentiationError, match=r"the derivative of odd gave a cotangent f64\[\] for an operand f64\[3\]"
    ):
        grad(ops.sum(bad), x)
    many = opaque(x, Custom(lambda ct, node: (ct, ct)), "many")
    with pytest.raises(DifferentiationError, match="the vjp of many gave 2 cotangents for 1 operands"):
        grad(ops.sum(many), x)
    tangent = opaque(x, Custom(lambda ct, node: (ct,), lambda tangents, node: ops.sum(tangents[0])), "short")
    with pytest.raises(DifferentiationError, match=r"gave a tangent f64\[\] for a value f64\[3\]"):
        jvp(tangent, x, 1.0)
    partly = Op("partly", lambda types: types[0], np.multiply, derivative=Transpose(lambda ct, node, i: ct, (1,)))
    with pytest.raises(DifferentiationError, match="linear in operand 1 only"):
        grad(ops.sum(partly(x, vector("z"))), x)
