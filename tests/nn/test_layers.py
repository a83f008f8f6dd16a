"""Layers: values, names, sharing, phases, summaries, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc import init, metrics, nn, ops
from graphc.driver import compile
from graphc.errors import DTypeError, GraphError, ShapeError
from graphc.interpreter import evaluate
from graphc.ir import Node
from graphc.provenance import scope
from passes.differentiate import grad


def value(node: Node) -> np.ndarray:
    return node.attrs["variable"].value


def names(layer: nn.Layer) -> list[str]:
    return [p.name for p in layer.parameters()]


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4), (2, 0, 4)])
def test_dense_is_x_w_plus_b_on_the_last_axis(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = nn.Dense(5, bias_init="normal", activation="tanh")
    y = layer(ops.input("x", shape))
    weight, bias = layer.parameters()
    expected = np.tanh(x @ value(weight) + value(bias))
    np.testing.assert_allclose(evaluate(y, {"x": x}), expected, rtol=1e-5, atol=1e-6)


def test_dense_keeps_symbolic_axes() -> None:
    y = nn.Dense(5)(ops.input("x", ("batch", "time", 3)))
    assert str(y.type) == "f32[batch,time,5]"


def test_dense_without_bias_in_float64() -> None:
    layer = nn.Dense(2, use_bias=False, kernel_init=0.5)
    y = layer(ops.input("x", (1, 3), dtype="float64"))
    assert [str(p.type) for p in layer.parameters()] == ["f64[3,2]"]
    assert evaluate(y, {"x": np.ones((1, 3))}).tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize("name", sorted(nn.ACTIVATIONS))
def test_activations_by_name(name: str) -> None:
    x = ops.constant([[-1.0, 0.5, 2.0]])
    np.testing.assert_array_equal(evaluate(nn.Activation(name)(x)), evaluate(nn.ACTIVATIONS[name](x)))


def test_names_follow_scopes_and_kinds() -> None:
    net = nn.Sequential(nn.Dense(3), nn.Dropout(0.1), nn.Dense(3), nn.Dense(2, name="head"), name="classifier")
    with scope("model"):
        net(ops.input("x", ("batch", 4)))
    assert names(net)[::2] == [
        "model/classifier/dense_0/weight", "model/classifier/dense_1/weight", "model/classifier/head/weight"
    ]  # fmt: skip


def test_unnamed_layers_in_a_chain_are_numbered() -> None:
    x = ops.input("x", ("batch", 4))
    first, second = nn.Dense(3), nn.Dense(2)
    second(ops.relu(first(x)))
    assert names(first) + names(second) == ["dense_0/weight", "dense_0/bias", "dense_1/weight", "dense_1/bias"]
    again = nn.Dense(3)
    again(x)  # another model in the same process starts anew
    assert names(again) == names(first)


def test_calling_twice_shares_parameters() -> None:
    layer = nn.Dense(3, name="shared")
    x = ops.input("x", ("batch", 3))
    y = layer(layer(x))
    assert names(layer) == ["shared/weight", "shared/bias"]
    assert [g.type for g in grad(ops.sum(y), layer.parameters())] == [p.type for p in layer.parameters()]
    net = nn.Sequential(layer, ops.relu, layer, name="net")
    net(x)
    assert names(net) == names(layer)


def test_a_layer_of_layers_names_them_after_its_attributes() -> None:
    class Pair(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Dense(3)
            self.heads = [nn.Dense(1), nn.Dense(2)]

        def forward(self, x: Node, *, training: bool | None = None) -> Node:
            code = self.encoder(x, training=training)
            return ops.concatenate([head(code) for head in self.heads], axis=-1)

    pair = Pair()
    assert str(pair(ops.input("x", ("batch", 4))).type) == "f32[batch,3]"
    assert names(pair)[::2] == ["pair_0/encoder/weight", "pair_0/heads_0/weight", "pair_0/heads_1/weight"]


def test_seed_and_name_make_the_weights() -> None:
    def weights(seed: int) -> np.ndarray:
        with init.seed(seed):
            layer = nn.Dense(3, name="a")
        layer(ops.input("x", ("batch", 4)))
        return value(layer.weight)

    np.testing.assert_array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))


# --- dropout and phases


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_dropout_masks(target: Any) -> None:
    x = ops.input("x", ("n",))
    step = ops.input("step", (), dtype="int32")
    layer = nn.Dropout(0.3)
    program = compile(nn.with_phase(layer(x), training=True, step=step), target=target)
    data = np.ones(20_000, np.float32)
    first, second = (program(x=data, step=np.int32(k)) for k in (0, 1))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.7)}
    assert np.mean(first == 0) == pytest.approx(0.3, abs=0.015)
    assert first.mean() == pytest.approx(1.0, abs=0.02)
    assert np.mean((first == 0) & (second == 0)) == pytest.approx(0.09, abs=0.01)  # independent of each other
    np.testing.assert_array_equal(first, program(x=data, step=np.int32(0)))


def test_dropout_has_the_same_bits_on_every_target() -> None:
    x = ops.input("x", (1000,))
    y = nn.Dropout(0.5)(x, training=True)
    data = np.ones(1000, np.float32)
    one, other = (compile(y, target=target)(x=data) for target in ("interpreter", "cpu"))
    np.testing.assert_array_equal(one, other)


def test_dropout_is_the_identity_outside_of_training() -> None:
    x = ops.input("x", (4,))
    data = np.arange(4, dtype=np.float32)
    y = nn.Dropout(0.9)(x)
    np.testing.assert_array_equal(evaluate(y, {"x": data}), data)
    assert nn.with_phase(y, training=False) is x
    assert nn.Dropout(0.9)(x, training=False) is x
    assert nn.Dropout(0.0)(x, training=True) is x


def test_a_shared_dropout_draws_anew_at_each_call() -> None:
    layer = nn.Dropout(0.5)
    x = ops.constant(np.ones(100, np.float32))
    first, second = nn.with_phase([layer(x), layer(x)], training=True)
    assert not np.array_equal(evaluate(first), evaluate(second))


def test_two_dropouts_of_one_name_are_refused() -> None:
    x = ops.input("x", (3,))
    values = [nn.Dropout(0.5)(x), nn.Dropout(0.5)(x)]
    with pytest.raises(GraphError, match="two random layers are named 'dropout_0:0'"):
        nn.with_phase(values, training=True)


def test_gradients_stay_open_to_either_phase() -> None:
    w = ops.parameter("w", (), 3.0)
    y = nn.phase(w * w, 5.0 * w)
    gradient = grad(y, w)
    assert evaluate(gradient).item() == 5.0
    assert evaluate(nn.with_phase(gradient, training=True)).item() == 6.0
    assert evaluate(nn.with_phase(gradient, training=False)).item() == 5.0


def test_with_phase_keeps_what_it_does_not_change_and_is_not_recursive() -> None:
    x = ops.input("x", ())
    y = x
    for _ in range(5000):
        y = y + 1.0
    assert nn.with_phase(y, training=True) is y
    z = nn.with_phase({"z": nn.phase(y, x) * 2.0}, training=True)["z"]
    assert evaluate(z, {"x": np.float32(0)}).item() == 10000.0


# --- summaries, refusals


def test_summary_counts_shared_layers_once() -> None:
    shared = nn.Dense(4)
    net = nn.Sequential(nn.Dense(4, activation="relu"), shared, shared, name="net")
    net(ops.input("x", ("batch", 3)))
    text = net.summary()
    assert "dense_1 ×2" in text
    assert "f32[batch,4]" in text
    assert "36" in text.splitlines()[-2]  # 3*4+4 + 4*4+4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Dense(2)(ops.input("x", ("batch", "n"))), ShapeError, "last axis of .* is symbolic"),
        (lambda: nn.Dense(2)(ops.input("x", ())), ShapeError, "needs features"),
        (lambda: nn.Dense(2)(ops.input("x", (2, 2), dtype="int32")), DTypeError, "floating"),
        (lambda: nn.Dense(0), GraphError, "positive number of units"),
        (lambda: nn.Dense(2, activation="rellu"), GraphError, "relu"),
        (lambda: nn.Dense(2, kernel_init="glorot"), GraphError, "unknown initialiser"),
        (lambda: nn.Dense(2, name="a/b"), GraphError, "cannot name a layer"),
        (lambda: nn.Dropout(1.0), GraphError, "dropout rate"),
        (lambda: nn.Sequential(nn.Dense(2), 3), GraphError, "neither a layer"),  # type: ignore[arg-type]
        (lambda: nn.Sequential(nn.Dense(2, name="a"), nn.Dense(2, name="a")), GraphError, "two layers are named"),
        (lambda: nn.Dense(2).parameters(), GraphError, "not been called"),
        (lambda: nn.Flatten()(ops.input("x", ())), ShapeError, "batch axis"),
    ],
)
def test_refusals(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_shared_dense_of_another_size_is_refused() -> None:
    layer = nn.Dense(2, name="d")
    layer(ops.input("x", (1, 3)))
    with pytest.raises(ShapeError, match="d was made for 3 features, the value has 4"):
        layer(ops.input("y", (1, 4)))


# --- metrics


def test_metrics_against_numpy() -> None:
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(40, 7)).astype(np.float32), rng.integers(0, 7, 40).astype(np.int32)
    a, b = ops.constant(logits), ops.constant(label)
    rank = (logits > np.take_along_axis(logits, label[:, None], 1)).sum(1)
    assert evaluate(metrics.accuracy(a, b)).item() == pytest.approx(np.mean(rank == 0))
    for k in (1, 3, 7):
        assert evaluate(metrics.top_k_accuracy(a, b, k)).item() == pytest.approx(np.mean(rank < k))
    scores, truth = logits[:, 0], label % 2
    for dtype in (np.int32, np.float32, np.bool_):
        found = metrics.binary_accuracy(ops.constant(scores), ops.constant(truth.astype(dtype)))
        assert evaluate(found).item() == pytest.approx(np.mean((scores > 0) == (truth == 1)))
    with pytest.raises(ShapeError, match="one axis more"):
        metrics.accuracy(a, ops.constant(np.zeros((40, 7), np.int32)))
    with pytest.raises(DTypeError, match="labels are integers"):
        metrics.accuracy(a, ops.constant(scores))
