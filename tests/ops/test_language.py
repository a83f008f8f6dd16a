"""What a user writes: operators, promotion, reductions, activations, selection; and what a user is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import ops
from graphc.errors import AttributeRuleError, DifferentiationError, DTypeError, GraphcError, ShapeError
from graphc.interpreter import evaluate
from passes.differentiate import grad, hessian, jvp, vjp

RNG = np.random.default_rng(11)
X = RNG.normal(size=(3, 4)).astype(np.float32)


def value(node: Any, **inputs: Any) -> np.ndarray:
    return evaluate(ops.lift(node), inputs)


@pytest.mark.parametrize(
    "f",
    [lambda x: x + 1, lambda x: 1 - x, lambda x: 2 * x, lambda x: 3 / (x + 9), lambda x: x // 0.7, lambda x: x % 0.7,
     lambda x: x**2, lambda x: x**3, lambda x: (x + 9) ** -2, lambda x: (x + 9) ** 0.5, lambda x: 2.0**x, lambda x: -x,
     lambda x: abs(x), lambda x: x @ X.T, lambda x: X.T @ x, lambda x: x < 0.3, lambda x: x <= 0.3, lambda x: (x > 0) & (x < 1),
     lambda x: (x > 0) | (x < -1), lambda x: (x > 0) ^ (x < 1), lambda x: ~(x > 0), lambda x: x.T, lambda x: x.sum(axis=1),
     lambda x: x.mean(axis=0), lambda x: x.max(axis=-1), lambda x: x.min(), lambda x: x.var(axis=1), lambda x: x.std(),
     lambda x: x.prod(axis=0), lambda x: x.argmax(axis=1), lambda x: x.argmin(), lambda x: x.reshape(2, -1), lambda x: +x,
     lambda x: x.clip(-0.5, 0.5), lambda x: (x > -9).all(axis=0), lambda x: (x > 0).any(), lambda x: x.astype("float64"),
     lambda x: x.squeeze(), lambda x: x.swapaxes(0, 1), lambda x: x.cumsum(axis=1), lambda x: x[1], lambda x: x.round(),
     lambda x: x.sum(axis=(0, 1), keepdims=True), lambda x: x.astype("int32"), lambda x: x.take(np.array([1, 0]), axis=1)],
)  # fmt: skip
def test_operators_and_methods_are_numpys(f: Any) -> None:
    want = f(X)
    got = value(f(ops.input("x", X.shape)), x=X)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [("bool", "int32", "i32"), ("int32", "int64", "i64"), ("int64", "float32", "f32"), ("bool", "float64", "f64"),
    ("int32", 2, "i32"),
     ("int32", 2.5, "f32"), ("float64", 2.5, "f64"), ("float32", np.float64(2.5), "f32"), ("uint32", 7, "u32"), ("bool", 1, "i32"),
     ("float32", True, "f32"), ("int64", 1, "i64")],
)  # fmt: skip
def test_promotion(a: str, b: Any, want: str) -> None:
    other = ops.input("b", (2,), b) if isinstance(b, str) else b
    assert str(ops.maximum(ops.input("a", (2,), a), other).dtype) == want
    assert str(ops.maximum(other, ops.input("a", (2,), a)).dtype) == want


def test_integers_divide_truly_in_float32() -> None:
    got = value(ops.div(np.array([7, 8], np.int32), 2))
    assert got.dtype == np.float32
    assert got.tolist() == [3.5, 4.0]


def test_integer_division_by_zero_gives_zero() -> None:
    x = np.array([7, -7, 0], np.int32)
    assert value(ops.floordiv(x, 0)).tolist() == [0, 0, 0]
    assert value(ops.mod(x, 0)).tolist() == [0, 0, 0]


def test_integer_powers() -> None:
    x = ops.input("x", (3,), "int32")
    assert value(x**5, x=np.array([2, -3, 0], np.int32)).tolist() == [32, -243, 0]
    with pytest.raises(DTypeError):
        x ** ops.input("y", (3,), "int32")


def test_shifts_and_bits() -> None:
    x = np.array([6, 0x80000000], np.uint32)
    assert value(ops.shift_right(x, 1)).tolist() == [3, 0x40000000]
    assert value(ops.shift_left(x, 1)).tolist() == [12, 0]
    assert value(ops.bitwise_xor(x, 5)).tolist() == [3, 0x80000005]
    with pytest.raises(AttributeRuleError, match="from 0 to 31"):
        ops.shift_left(x, 32)


def mlp(name: str, *shape: Any, dtype: str = "float32") -> graphc.Node:
    return ops.input(name, shape, dtype)


ERRORS: list[tuple[Any, type[GraphcError], list[str]]] = [
    (lambda: ops.matmul(mlp("x", 32, 784), mlp("w", 128, 10)), ShapeError,
     ["matmul: contracted axes differ, 784 against 128", "x: f32[32,784]  axis 1 is 784",
     "w: f32[128,10]  axis 0 is 128", "help: w must be f32[784,10]"]),
    (lambda: mlp("x", 2, 3) + mlp("y", 2, 4), ShapeError, ["add: shapes [2,3] and [2,4] do not broadcast, axis -1 is 3 against 4"]),
    (lambda: mlp("x", "batch") + mlp("y", "rows"), ShapeError, ["axis -1 is batch against rows"]),
    (lambda: mlp("x", 2) * mlp("y", 2, dtype="float64"), DTypeError, ["mul: float32 and float64 do not mix",
    "never promotes to float64"]),
    (lambda: mlp("x", 2, dtype="uint32") + mlp("y", 2, dtype="int32"), DTypeError, ["uint32 and a signed integer do not mix"]),
    (lambda: mlp("x", 2, dtype="uint32") + -1, DTypeError, ["-1 does not fit u32"]),
    (lambda: mlp("x", 2, dtype="bool") + mlp("y", 2, dtype="bool"), DTypeError,
    ["add: is defined on int or uint or float, got bool"]),
    (lambda: ops.reshape(mlp("x", 2, 3), (4, 2)), ShapeError, ["reshape: f32[2,3] has 6 elements, [4,2] has 8"]),
    (lambda: ops.reshape(mlp("x", 2, 3), (4, -1)), ShapeError, ["6 elements do not divide by 4"]),
    (lambda: ops.reshape(mlp("x", 2, 3), (-1, -1)), ShapeError, ["more than one size is -1"]),
    (lambda: ops.sum(mlp("x", 2, 3), axis=2), AttributeRuleError, ["sum: axis 2 is outside of rank 2",
    "choose an axis from -2 to 1"]),
    (lambda: ops.sum(mlp("x", 2, 3), axis=(0, -2)), AttributeRuleError, ["an axis is named twice"]),
    (lambda: ops.max(mlp("x", 2, 0), axis=1), ShapeError, ["max: f32[2,0] has no elements along axes (1,)"]),
    (lambda: ops.softmax(mlp("x", 2, 0)), ShapeError, ["softmax: f32[2,0] has no elements along axis 1"]),
    (lambda: ops.where(mlp("x", 2), 1.0, 0.0), DTypeError, ["where: the condition must be bool, got f32[2]", "compare first"]),
    (lambda: ops.logical_and(mlp("x", 2), True), DTypeError, ["logical_and: wants bools, got f32[2]"]),
    (lambda: ops.concatenate([mlp("x", 2, 3), mlp("y", 2, 4)]), ShapeError, ["axis 1 is 3 against 4"]),
    (lambda: ops.stack([mlp("x", 2), mlp("y", 3)]), ShapeError, ["stack: shapes differ, [2] and [3]"]),
    (lambda: ops.split(mlp("x", 5), 2), ShapeError, ["axis 0 of f32[5] does not divide into 2 equal parts"]),
    (lambda: ops.take(mlp("x", 5), mlp("i", 2)), DTypeError, ["take: indices must be integers, got f32[2]", "i: f32[2]"]),
    (lambda: ops.squeeze(mlp("x", 5), 0), ShapeError, ["squeeze: axis 0 of f32[5] is 5, not 1"]),
    (lambda: ops.one_hot(mlp("x", 5), 3), DTypeError, ["one_hot: labels must be integers"]),
    (lambda: ops.transpose(mlp("x", 5, 2), (0, 0)), AttributeRuleError, ["no permutation"]),
    (lambda: ops.pad(mlp("x", 5), ((1, -1),)), AttributeRuleError, ["pad: a width is negative"]),
    (lambda: ops.gelu(mlp("x", 5), approximate="fast"), AttributeRuleError, ["choose 'none' or 'tanh'"]),
    (lambda: ops.cumsum(mlp("x", 5), axis=1), AttributeRuleError, ["cumsum: axis 1 is outside of rank 1"]),
    (lambda: ops.broadcast_to(mlp("x", 5), (4,)), ShapeError, ["broadcast: axis 0 of f32[5] is 5, and 4 is wanted in [4]"]),
    (lambda: ops.sqrt(mlp("x", 5)) @ 3.0, ShapeError, ["matmul: a scalar cannot be contracted", "multiply with *"]),
    (lambda: ops.scatter_add(mlp("x", 5), [0], mlp("u", 2)), ShapeError, ["broadcast: axis 0 of f32[2] is 2"]),
    (lambda: ops.arange("batch", 3), AttributeRuleError, ["arange: cannot count"]),
    (lambda: ops.norm(mlp("x", 5), ord=3), AttributeRuleError, ["norm: ord=3"]),
    (lambda: ops.relu(mlp("x", 5, dtype="bool")), DTypeError, ["relu: is defined on numbers"]),
    (lambda: bool(mlp("x") < 1), GraphcError, ["no truth value", "graphc.where"]),
]  # fmt: skip


@pytest.mark.parametrize(("declare", "kind", "texts"), ERRORS, ids=[e[2][0][:40] for e in ERRORS])
def test_errors_name_the_rule_both_values_and_the_line(declare: Any, kind: type[GraphcError], texts: list[str]) -> None:
    with pytest.raises(kind) as error:
        declare()
    for text in texts:
        assert text in str(error.value)
    assert error.value.source is not None
    assert error.value.source.short.startswith("test_language.py:")


# --- selection and kinks -------------------------------------------------------------------------------------------

TRAPS = {
    "log": (lambda x: ops.where(x > 0, ops.log(x), 0.0), [0, 0, 0.5]),
    "sqrt": (lambda x: ops.where(x > 0, ops.sqrt(x), 0.0), [0, 0, 0.5 / math.sqrt(2)]),
    "div": (lambda x: ops.where(x > 0, 1 / x, 0.0), [0, 0, -0.25]),
    "pow": (lambda x: ops.where(x > 0, ops.pow(x, -0.7), 0.0), [0, 0, -0.7 * 2**-1.7]),
    "nested": (lambda x: ops.where(x > 0, ops.exp(ops.log(ops.sqrt(x)) * 2), 0.0), [0, 0, 1]),
    "asin": (lambda x: ops.where(x < 1, ops.asin(x - 1), 0.0), [math.inf, math.nan, 0]),
}


@pytest.mark.parametrize("name", TRAPS)
def test_where_lets_no_nan_out_of_the_branch_not_taken(name: str) -> None:
    f, want = TRAPS[name]
    x = ops.input("x", (3,), "float64")
    got = value(grad(ops.sum(f(x)), x), x=np.array([0.0, -1.0, 2.0]))
    np.testing.assert_allclose(got[2], want[2])
    if name != "asin":
        np.testing.assert_allclose(got, want, rtol=1e-12)
    pushed = value(jvp(f(x), x, 1.0), x=np.array([0.0, -1.0, 2.0]))
    np.testing.assert_allclose(pushed[2], want[2])


def test_chain_product_is_bilinear_where_the_cotangent_is_zero() -> None:
    # y = where(c, x, 0) * p has dy/dx = p at x = 0 although the product there is zero
    x = ops.input("x", (2,), "float64")
    y = ops.sum(ops.chain_product(x, x * 3))
    np.testing.assert_allclose(value(grad(y, x), x=np.zeros(2)) + 0, 0)
    second = hessian(y, x)
    np.testing.assert_allclose(value(second + ops.sum(x) * 0, x=np.zeros(2)), 6 * np.eye(2))
    inf = value(ops.chain_product(np.array([0.0, -0.0, 2.0]), np.array([np.inf, np.nan, 3.0])))
    assert inf.tolist() == [0, 0, 6]


@pytest.mark.parametrize(
    ("f", "x", "want"),
    [(ops.relu, [0.0], [0.0]), (ops.abs, [0.0], [0.0]), (lambda x: ops.maximum(x, 0.0), [0.0], [0.5]),
     (lambda x: ops.minimum(x, 0.0), [0.0], [0.5]), (ops.max, [1.0, 3.0, 3.0], [0, 0.5, 0.5]), (ops.min,
     [1.0, 1.0, 3.0], [0.5, 0.5, 0]),
     (ops.prod, [0.0, 3.0, 2.0], [6, 0, 0]), (ops.prod, [0.0, 0.0, 2.0], [0, 0, 0]), (ops.norm, [0.0, 0.0], [0, 0]),
     (lambda x: x**0, [0.0], [0.0]), (lambda x: ops.pow(x, ops.constant(np.float64(0.0))), [0.0], [0.0]),
     (lambda x: ops.pow(x, ops.constant(np.float64(5.0))), [0.0], [0.0]), (ops.logsumexp, [-np.inf, -np.inf], [0, 0]),
     (ops.stop_gradient, [2.0], [0.0]), (ops.floor, [2.5], [0.0])],
)  # fmt: skip
def test_kinks_follow_the_convention(f: Any, x: list[float], want: list[float]) -> None:
    node = ops.input("x", (len(x),), "float64")
    got = evaluate(grad(ops.sum(f(node)), node) + 0 * ops.where(ops.isfinite(node), node, 0.0), {"x": np.array(x)})
    np.testing.assert_allclose(got, want)


def test_nan_and_infinity_as_numpy() -> None:
    x = np.array([[1.0, np.nan, 3.0], [np.inf, 1.0, -np.inf]])
    node = ops.lift(x)
    np.testing.assert_array_equal(value(ops.max(node, 1)), np.max(x, 1))
    np.testing.assert_array_equal(value(ops.argmax(node, 1)), np.argmax(x, 1))
    np.testing.assert_array_equal(value(ops.argmin(node, 1)), np.argmin(x, 1))
    np.testing.assert_array_equal(value(ops.maximum(node, 2.0)), np.maximum(x, 2.0))
    np.testing.assert_array_equal(value(ops.isnan(node)), np.isnan(x))
    np.testing.assert_array_equal(value(ops.nan_to_num(node)), np.where(np.isnan(x), 0, x))


def test_logsumexp_of_extremes() -> None:
    x = np.array([[1000.0, 1000.0], [-np.inf, -np.inf], [np.inf, 0.0], [-1000.0, -1001.0]])
    want = [1000 + math.log(2), -np.inf, np.inf, -1000 + math.log1p(math.exp(-1))]
    np.testing.assert_allclose(value(ops.logsumexp(x, axis=1)), want)


@pytest.mark.parametrize(
    "f",
    [
        ops.softplus,
        ops.gelu,
        ops.silu,
        ops.elu,
        ops.sigmoid,
        ops.log_sigmoid,
        lambda x: ops.gelu(x, "tanh"),
        ops.softmax,
    ],
)
def test_activations_stay_finite_at_extremes(f: Any) -> None:
    x = ops.input("x", (4,))
    data = np.array([-1e4, -90, 90, 1e4], np.float32)
    assert np.isfinite(value(f(x), x=data)).all()
    assert np.isfinite(value(grad(ops.sum(f(x)), x), x=data)).all()


def test_an_empty_batch_is_fine() -> None:
    x = ops.input("x", ("batch", 3))
    empty = np.zeros((0, 3), np.float32)
    assert value(ops.softmax(x @ np.ones((3, 2), np.float32)), x=empty).shape == (0, 2)
    assert value(ops.sum(x), x=empty) == 0
    assert np.isnan(value(ops.mean(x), x=empty))


# --- derivatives of the user's -------------------------------------------------------------------------------------


def test_custom_derivatives() -> None:
    @graphc.custom(vjp=lambda ct, y, x: ops.clip(ct, -1, 1) * 10, jvp=lambda ts, y, x: ts[0] * 10)
    def ten_times_by_decree(x: graphc.Node) -> graphc.Node:
        """Doubles."""
        return x * 2

    x = ops.input("x", (2,))
    y = ten_times_by_decree(x)
    assert ten_times_by_decree.__doc__ == "Doubles."
    assert value(y, x=np.ones(2, "f4")).tolist() == [2, 2]
    assert value(vjp(y, x, 3.0)).tolist() == [10, 10]
    assert value(jvp(y, x, 3.0)).tolist() == [30, 30]


def test_custom_derivative_errors() -> None:
    x = ops.input("x", (2,))
    only_forward = graphc.custom(lambda a, b: a * b, jvp=lambda ts, y, a, b: ts[0])
    with pytest.raises(DifferentiationError, match="declares no vjp"):
        grad(ops.sum(only_forward(x, x + 1)), x)
    short = graphc.custom(lambda a, b: a * b, vjp=lambda ct, y, a, b: (ct,))
    with pytest.raises(DifferentiationError, match="returned 1 cotangents for 2 operands"):
        grad(ops.sum(short(x, x + 1)), x)
    ill = graphc.custom(lambda a: a * 2, vjp=lambda ct, y, a: ops.ones((3,)))
    with pytest.raises(ShapeError, match=r"cotangent f32\[3\] for an operand f32\[2\]"):
        grad(ops.sum(ill(x)), x)
