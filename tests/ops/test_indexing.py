"""NumPy is the oracle of indexing, movement and einsum: random calls must give its shapes and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc import ops
from graphc.errors import AttributeRuleError, DTypeError, GraphcError, IndexRangeError
from graphc.interpreter import evaluate
from passes.differentiate import grad


def array(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape) + 1


def value(node: ops.Operand, **inputs: Any) -> np.ndarray:
    return evaluate(ops.lift(node), inputs)


@st.composite
def indexed(draw: Any) -> tuple[tuple[int, ...], Any]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    used = draw(st.integers(0, len(shape)))
    bound = st.one_of(st.none(), st.integers(-7, 7))
    step = st.one_of(st.none(), st.integers(-3, 3).filter(lambda s: s != 0))
    items: list[Any] = []
    for d in shape[:used]:
        items.append(draw(st.one_of(st.integers(-d, d - 1), st.builds(slice, bound, bound, step))))
    for _ in range(draw(st.integers(0, 2))):
        items.insert(draw(st.integers(0, len(items))), None)
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
        back = len(shape) - used
        at = items.index(Ellipsis)
        # what follows the dots indexes the last axes: keep integers in their range
        after = [k for k in range(at + 1, len(items)) if items[k] is not None]
        for axis, k in zip(range(len(shape) - len(after), len(shape)), after, strict=True):
            if isinstance(items[k], int):
                items[k] = items[k] % shape[axis] - draw(st.sampled_from([0, shape[axis]]))
        assert back >= 0
    return shape, tuple(items)


@given(indexed())
@settings(max_examples=200, deadline=None)
def test_getitem_is_numpys(case: tuple[tuple[int, ...], Any]) -> None:
    shape, index = case
    x = array(*shape)
    node = ops.input("x", shape, "float64")
    picked = node[index]
    want = x[index]
    assert picked.shape == want.shape
    got = evaluate(picked, {"x": x}) if picked.type.size else np.zeros(want.shape)
    np.testing.assert_array_equal(got, want)


@given(indexed())
@settings(max_examples=60, deadline=None)
def test_gradient_of_getitem_puts_back(case: tuple[tuple[int, ...], Any]) -> None:
    shape, index = case
    x = array(*shape)
    node = ops.input("x", shape, "float64")
    picked = node[index]
    weights = array(*picked.shape)  # type: ignore[arg-type]
    want = np.zeros(shape)
    want[index] += weights
    loss = ops.sum(picked * weights)
    np.testing.assert_array_equal(evaluate(grad(loss, node) + node * 0.0, {"x": x}), want)


@pytest.mark.parametrize(
    "index",
    [np.array([0, 2, -1]), (slice(None), np.array([[1, 0], [0, 1]])), (..., np.array([2, 2])), (0, np.array([1, 1])),
     (np.array([1, 0]), 1), (slice(1, 3), slice(None, None, -1), np.array([0])), (1, slice(None), np.array([0, 1]))],
)  # fmt: skip
def test_index_arrays(index: Any) -> None:
    x = array(3, 2, 4)
    node = ops.input("x", x.shape, "float64")
    picked = node[index]
    assert picked.shape == x[index].shape
    np.testing.assert_array_equal(evaluate(picked, {"x": x}), x[index])


def test_symbolic_index() -> None:
    x, i = ops.input("x", ("n", 3)), ops.input("i", ("m",), "int32")
    data = array(5, 3).astype(np.float32)
    picks = np.array([4, 0, -5], np.int32)
    np.testing.assert_array_equal(evaluate(x[i], {"x": data, "i": picks}), data[picks])
    with pytest.raises(IndexRangeError) as error:
        evaluate(x[i], {"x": data, "i": np.array([5], np.int32)})
    assert "5" in str(error.value)


def test_symbolic_axis_slices() -> None:
    x = ops.input("x", ("batch", 4))
    data = array(6, 4).astype(np.float32)
    for index in (slice(1, None), slice(None, -2), slice(2, 4), -1, slice(None, None, -1), 0):
        np.testing.assert_array_equal(evaluate(x[index], {"x": data}), data[index])
    assert str(x[1:].type) == "f32[batch-1,4]"


@pytest.mark.parametrize(
    ("index", "kind", "text"),
    [((0, 0, 0), AttributeRuleError, "3 indices for 2 axes"), (7, AttributeRuleError, "7 is outside of axis 0, which is 2"),
     (slice(None, None, 0), AttributeRuleError, "step 0"), (np.array([True, False]), AttributeRuleError, "mask"),
     (np.array([0.5]), DTypeError, "must be an integer"), ((..., ...), AttributeRuleError, "more than one"),
     ((np.array([0]), np.array([0])), AttributeRuleError, "two index arrays")],
)  # fmt: skip
def test_index_errors(index: Any, kind: type[GraphcError], text: str) -> None:
    x = ops.input("x", (2, 3))
    with pytest.raises(kind) as error:
        x[index]
    assert text in str(error.value)
    assert "f32[2,3]" in str(error.value)
    assert "test_indexing.py" in str(error.value)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_take_along_axis(axis: int) -> None:
    x = array(3, 4, 2)
    shape = [1 if a == axis % 3 else d for a, d in enumerate(x.shape)]
    indices = np.random.default_rng(0).integers(
        0, x.shape[axis], [2 if a == axis % 3 else d for a, d in enumerate(x.shape)]
    )
    np.testing.assert_array_equal(value(ops.take_along_axis(x, indices, axis)), np.take_along_axis(x, indices, axis))
    wide = indices[:, :, :1] if axis == 0 else indices[:1]
    np.testing.assert_array_equal(
        value(ops.take_along_axis(x, wide, axis)),
        np.take_along_axis(x, np.broadcast_to(wide, np.broadcast_shapes(wide.shape, shape)), axis),
    )
    with pytest.raises(IndexRangeError):
        value(ops.take_along_axis(x, indices + 9, axis))


def test_scatter_add_repeats_add_up() -> None:
    got = value(ops.scatter_add(np.zeros((2, 4)), np.array([[1, 1], [3, -1]]), np.ones((2, 2, 2)), axis=1))
    np.testing.assert_array_equal(got, [[0, 2, 0, 2]] * 2)
    with pytest.raises(IndexRangeError):
        value(ops.scatter_add(np.zeros(3), [3], np.ones(1)))


@pytest.mark.parametrize(
    ("ours", "numpys"),
    [
        (lambda x: ops.reshape(x, (4, -1)), lambda x: x.reshape(4, -1)),
        (lambda x: x.reshape(-1), lambda x: x.reshape(-1)),
        (lambda x: x.T, lambda x: x.T),
        (lambda x: x.transpose(1, 2, 0), lambda x: x.transpose(1, 2, 0)),
        (lambda x: ops.swapaxes(x, 0, -1), lambda x: np.swapaxes(x, 0, -1)),
        (lambda x: ops.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1)),
        (lambda x: ops.expand_dims(x, (0, -1)), lambda x: np.expand_dims(x, (0, -1))),
        (lambda x: ops.squeeze(ops.expand_dims(x, 1)), lambda x: x),
        (lambda x: ops.flip(x, (0, 2)), lambda x: np.flip(x, (0, 2))),
        (lambda x: ops.pad(x, ((1, 2), (0, 0), (3, 0)), 5), lambda x: np.pad(x, ((1, 2), (0, 0), (3, 0)), constant_values=5)),
        (lambda x: ops.pad(x, 1), lambda x: np.pad(x, 1)),
        (lambda x: ops.concatenate([x, x + 1], axis=-1), lambda x: np.concatenate([x, x + 1], axis=-1)),
        (lambda x: ops.stack([x, x + 1], axis=1), lambda x: np.stack([x, x + 1], axis=1)),
        (lambda x: ops.split(x, 2, axis=2)[1], lambda x: np.split(x, 2, axis=2)[1]),
        (lambda x: ops.split(x, [1, 3], axis=2)[1], lambda x: np.split(x, [1, 3], axis=2)[1]),
        (lambda x: ops.repeat(x, 3, axis=1), lambda x: np.repeat(x, 3, axis=1)),
        (lambda x: ops.broadcast_to(x, (2, 2, 3, 4)), lambda x: np.broadcast_to(x, (2, 2, 3, 4))),
        (lambda x: ops.cumsum(x, 1), lambda x: np.cumsum(x, 1)),
        (lambda x: ops.take(x, [[1, 0]], 1), lambda x: np.take(x, [[1, 0]], 1)),
        (lambda x: ops.flatten(x, 1), lambda x: x.reshape(2, -1)),
    ],
)  # fmt: skip
def test_movement_is_numpys(ours: Any, numpys: Any) -> None:
    x = array(2, 3, 4)
    node = ops.input("x", x.shape, "float64")
    got = ours(node)
    assert got.shape == numpys(x).shape
    np.testing.assert_array_equal(evaluate(got, {"x": x}), numpys(x))


def test_reshape_keeps_and_merges_symbolic_sizes() -> None:
    x = ops.input("x", ("batch", 4, 6))
    assert str(ops.reshape(x, (-1, 6)).type) == "f32[4*batch,6]"
    assert str(ops.reshape(x, ("batch", -1)).type) == "f32[batch,24]"
    assert str(ops.reshape(x, (-1, 3, 8)).type) == "f32[batch,3,8]"
    assert str(ops.concatenate([x, x]).type) == "f32[2*batch,4,6]"
    data = array(2, 4, 6).astype(np.float32)
    np.testing.assert_array_equal(evaluate(ops.reshape(x, (-1, 3, 8)), {"x": data}), data.reshape(2, 3, 8))
    np.testing.assert_allclose(evaluate(ops.mean(x, axis=0), {"x": data}), data.mean(axis=0))
    np.testing.assert_allclose(evaluate(grad(ops.mean(x), x) + x * 0, {"x": data}), np.full_like(data, 1 / 48))


EQUATIONS = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)), ("ij->ji", (2, 3)),
    ("ij->", (2, 3)), ("ij->j", (2, 3)), ("i,j->ij", (2,), (3,)), ("i,i->", (3,), (3,)), ("i,i->i", (3,), (3,)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), ("...ij,...jk->...ik", (5, 2, 3), (5, 3, 4)),
    ("...ij,jk->...ik", (5, 2, 3), (3, 4)), ("...i->...", (2, 3)), ("...ij,...jk->...ik", (1, 2, 3), (5, 3, 4)),
    ("ij,kl->ijkl", (2, 3), (4, 5)), ("ijk,jil->kl", (2, 3, 4), (3, 2, 5)), ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ("ab,bc,cd", (2, 3), (3, 4), (4, 5)), ("a,ab,b->", (2,), (2, 3), (3,)), ("ij,ik->i", (2, 3), (2, 4)),
    ("bi,oi->bo", (4, 3), (5, 3)),
    ("ij,jk->ik", (2, 0), (0, 4)), ("...,...->...", (2, 3), (3,)), ("ba", (2, 3)), ("i...->...", (3, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0])
def test_einsum_is_numpys(case: Any) -> None:
    equation, *shapes = case
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=s) for s in shapes]
    got = value(ops.einsum(equation, *arrays))
    want = np.einsum(equation, *arrays)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_einsum_with_a_symbolic_batch() -> None:
    x, w = ops.input("x", ("batch", 3, 4)), ops.input("w", (4, 5))
    node = ops.einsum("bij,jk->bik", x, w)
    assert str(node.type) == "f32[batch,3,5]"
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4)).astype("f4"), rng.normal(size=(4, 5)).astype("f4")
    np.testing.assert_allclose(evaluate(node, {"x": a, "w": b}), a @ b, rtol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes", "text"),
    [("ii->i", [(2, 2)], "diagonals are not supported"), ("ij,jk->ik", [(2, 3)], "2 terms for 1 operands"),
     ("ij->ik", [(2, 3)], "output label 'k' is in no operand"), ("i->i", [(2, 3)], "1 labels for an operand"),
     ("ij,jk->ik", [(2, 3), (4, 5)], "label 'j' is 3 and 4"), ("i1->i", [(2, 3)], "no letter")],
)  # fmt: skip
def test_einsum_errors(equation: str, shapes: Any, text: str) -> None:
    with pytest.raises(GraphcError) as error:
        ops.einsum(equation, *(np.ones(s) for s in shapes))
    assert text in str(error.value)


MATMULS = [((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)),
           ((2, 3), (5, 3, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((1, 2, 3), (5, 3, 4)), ((6, 1, 2, 3),
           (5, 3, 4)), ((0, 3), (3, 2)),
           ((2, 0), (0, 3))]  # fmt: skip


@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_matmul_is_numpys(shapes: Any) -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.normal(size=s) for s in shapes)
    got = value(ops.matmul(a, b))
    assert got.shape == (a @ b).shape
    np.testing.assert_allclose(got, a @ b, rtol=1e-12, atol=1e-14)
