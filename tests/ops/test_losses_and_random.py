"""Losses against their definitions, labels checked at run time, and the generator against its published answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc import losses, ops, random
from graphc.errors import AttributeRuleError, DTypeError, GraphcError, IndexRangeError, ShapeError
from graphc.interpreter import evaluate
from passes.differentiate import grad

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(6, 4)) * 3
LABELS = np.array([0, 3, 1, 1, 2, 0], np.int32)


def value(node: ops.Operand, **inputs: Any) -> np.ndarray:
    return evaluate(ops.lift(node), inputs)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return np.asarray(x - np.log(np.sum(np.exp(x), -1, keepdims=True)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction: str) -> None:
    rows = -log_softmax(LOGITS)[np.arange(6), LABELS]
    want = {"mean": rows.mean(), "sum": rows.sum(), "none": rows}[reduction]
    np.testing.assert_allclose(value(losses.cross_entropy(LOGITS, LABELS, reduction=reduction)), want)
    soft = np.eye(4)[LABELS]
    np.testing.assert_allclose(value(losses.cross_entropy(LOGITS, soft, reduction=reduction)), want)
    np.testing.assert_allclose(value(losses.cross_entropy(LOGITS.T, LABELS, axis=0, reduction=reduction)), want)


def test_gradient_of_cross_entropy_is_p_minus_y_over_n() -> None:
    x, label = ops.input("x", ("batch", 4), "float64"), ops.input("label", ("batch",), "int32")
    slope = grad(losses.cross_entropy(x, label), x)
    want = (np.exp(log_softmax(LOGITS)) - np.eye(4)[LABELS]) / 6
    np.testing.assert_allclose(evaluate(slope, {"x": LOGITS, "label": LABELS}), want, rtol=1e-12, atol=1e-15)


def test_cross_entropy_of_extreme_logits() -> None:
    x = np.array([[1e4, 0.0, -1e4], [0.0, -np.inf, 1.0]], np.float32)
    got = value(losses.cross_entropy(x, [2, 0], reduction="none"))
    np.testing.assert_allclose(got, [2e4, np.log1p(np.e)], rtol=1e-6)
    tiny = value(losses.cross_entropy(np.array([[100.0, 80.0]], np.float32), [0]))
    np.testing.assert_allclose(tiny, np.exp(-20.0), rtol=0.5, atol=1e-7)


@pytest.mark.parametrize("label", [4, -1, 10**6])
def test_a_label_out_of_range_is_an_error_at_run_time(label: int) -> None:
    x, labels = ops.input("x", ("batch", 4), "float64"), ops.input("label", ("batch",), "int32")
    bad = np.array([0, 1, label], np.int32)
    for node in (ops.one_hot(labels, 4), losses.cross_entropy(x, labels), grad(losses.cross_entropy(x, labels), x)):
        feeds = {"x": LOGITS[:3], "label": bad} if "x" in {n.name for n in reach(node)} else {"label": bad}
        with pytest.raises(IndexRangeError):
            evaluate(node, feeds)
    expanded = ops.one_hot(labels, 4)
    with pytest.raises(IndexRangeError):
        evaluate(expanded.op.expand(*expanded.inputs, **expanded.attrs), {"label": bad})  # type: ignore[misc]


def reach(node: Any) -> Any:
    from graphc.ir import topological

    return topological((node,))


def test_one_hot() -> None:
    assert value(ops.one_hot(LABELS, 4, "int32")).tolist() == np.eye(4, dtype=int)[LABELS].tolist()
    assert value(ops.one_hot(np.array([[1], [0]]), 2)).shape == (2, 1, 2)


def test_binary_cross_entropy_and_its_extremes() -> None:
    x, t = RNG.normal(size=8), RNG.uniform(size=8)
    s = 1 / (1 + np.exp(-x))
    want = -(t * np.log(s) + (1 - t) * np.log(1 - s))
    np.testing.assert_allclose(value(losses.binary_cross_entropy_with_logits(x, t, reduction="none")), want)
    far = value(
        losses.binary_cross_entropy_with_logits(np.array([1e4, -1e4], np.float32), np.array([0, 1]), reduction="none")
    )
    assert far.tolist() == [1e4, 1e4]


def test_regression_losses() -> None:
    a, b = RNG.normal(size=(3, 2)), RNG.normal(size=(3, 2)) * 3
    d = a - b
    np.testing.assert_allclose(value(losses.mse(a, b)), np.mean(d**2))
    np.testing.assert_allclose(value(losses.mae(a, b)), np.mean(np.abs(d)))
    np.testing.assert_allclose(value(losses.huber(a, b)), np.mean(np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5)))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [(lambda: losses.mse(np.ones((3, 1)), np.ones(3)), ShapeError, "mse: shapes differ, [3,1] against [3]"),
     (lambda: losses.cross_entropy(LOGITS, LABELS[:5]), ShapeError, "class indices must be [6], got [5]"),
     (lambda: losses.cross_entropy(LOGITS, np.ones((6, 3))), ShapeError, "distributions must be [6,4], got [6,3]"),
     (lambda: losses.cross_entropy(LOGITS, LABELS > 0), DTypeError, "the target is bool"),
     (lambda: losses.mse(LOGITS, LOGITS, reduction="avg"), AttributeRuleError, "choose 'mean', 'sum' or 'none'"),
     (lambda: random.key(-1), AttributeRuleError, "a seed is from 0"), (lambda: random.key(1.5), DTypeError,
     "a seed is an integer"),
     (lambda: random.uniform(ops.zeros((2,)), (3,)), DTypeError, "a key is u32[2], got f32[2]"),
     (lambda: random.uniform(random.key(0), (3,), dtype="int32"), DTypeError, "a float dtype is wanted"),
     (lambda: random.randint(random.key(0), (3,), 5, 5), AttributeRuleError, "cannot draw from 5 to 5")],
)  # fmt: skip
def test_errors(call: Any, kind: type[GraphcError], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert text in str(error.value)


# --- random --------------------------------------------------------------------------------------------------------

# known answers of threefry2x32 with 20 rounds: file kat_vectors of the Random123 distribution (Salmon et al. 2011)
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "want"), KNOWN)
def test_threefry_gives_the_published_answers(key: Any, counter: Any, want: Any) -> None:
    words = [np.full((1,), w, np.uint32) for w in (*key, *counter)]
    assert tuple(int(w[0]) for w in random.threefry(*words)) == want
    nodes = random.threefry(*(ops.constant(w) for w in words))
    assert tuple(int(value(n)[0]) for n in nodes) == want


def test_draws_depend_on_key_purpose_and_index_only() -> None:
    k = random.key(7)
    a = value(random.bits(k, (1000,)))
    assert (value(random.bits(k, (10, 100))).ravel() == a).all()
    assert (value(random.bits(k, (10,))) == a[:10]).all()
    keys = [k, random.key(8), *random.split(k, 3), random.fold_in(k, 0), random.fold_in(k, 1)]
    draws = [value(random.bits(x, (1000,))) for x in keys] + [value(random.bits(k, (1000,), lane=1))]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            assert np.mean(x == y) < 0.01
    assert len(np.unique(a)) > 990


def test_keys_from_run_time_seeds_and_steps() -> None:
    step = ops.input("step", (), "int32")
    k = random.key(3)
    for n in (0, 5, -1):
        assert value(random.fold_in(k, step), step=np.int32(n)).tolist() == value(random.fold_in(k, n)).tolist()
    assert value(random.key(step), step=np.int32(9)).tolist() == value(random.key(9)).tolist()


def test_distributions() -> None:
    k, n = random.key(2024), 20_000
    u = value(random.uniform(k, (n,)))
    assert u.dtype == np.float32
    assert u.min() >= 0 and u.max() < 1
    assert (u * 2**24 == np.floor(u * 2**24)).all()
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(u.var() - 1 / 12) < 0.005
    z = value(random.normal(k, (n,), 2.0, 3.0))
    assert np.isfinite(z).all()
    assert abs(z.mean() - 2) < 0.1
    assert abs(z.std() - 3) < 0.1
    assert abs(np.mean(np.abs((z - 2) / 3) < 1) - 0.6827) < 0.015
    assert abs(value(random.bernoulli(k, 0.3, (n,))).mean() - 0.3) < 0.015
    r = value(random.randint(k, (n,), -3, 4))
    assert sorted(set(r.tolist())) == list(range(-3, 4))
    w = value(random.uniform(k, (n,), -2.0, 5.0))
    assert w.min() >= -2 and w.max() < 5


def test_a_draw_has_a_symbolic_shape() -> None:
    x = ops.input("x", ("batch", 3))
    noisy = x + random.uniform(random.key(0), x.shape)
    got = value(noisy, x=np.zeros((4, 3), np.float32))
    np.testing.assert_array_equal(got, value(random.uniform(random.key(0), (4, 3))))
