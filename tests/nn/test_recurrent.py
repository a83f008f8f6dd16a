"""RNN, GRU and LSTM: against torch with the same weights, states, directions, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, ops, optim
from graphc.errors import DTypeError, GraphError, ShapeError

RNG = np.random.default_rng(0)


def filled(layer: nn.Layer) -> dict[str, np.ndarray]:
    """The layer's weights, made random."""
    found = {p.name.rpartition("/")[2]: p.attrs["variable"].value for p in layer.parameters()}
    for array in found.values():
        array[...] = RNG.normal(size=array.shape) * 0.4
    return found


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_against_torch(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = RNG.normal(size=(3, 6, 4)).astype(np.float32)
    layer = getattr(nn, kind)(5)
    value = ops.input("x", x.shape)
    y = layer(value)
    weights = filled(layer)
    peer = getattr(torch.nn, kind)(4, 5, batch_first=True)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(torch.tensor(weights["input_weight"].T))
        peer.weight_hh_l0.copy_(torch.tensor(weights["recurrent_weight"].T))
        peer.bias_ih_l0.copy_(torch.tensor(weights["bias"]))
        peer.bias_hh_l0.zero_()
        if kind == "GRU":
            peer.bias_hh_l0[10:].copy_(torch.tensor(weights["recurrent_bias"]))
    there = torch.tensor(x, requires_grad=True)
    want, last = peer(there)
    want.pow(2).sum().backward()
    loss = ops.sum(y * y)
    wrt = [value, *layer.parameters()]
    outputs = {"y": y, "last": layer.last_state[0], **{f"d{k}": g for k, g in enumerate(graphc.grad(loss, wrt=wrt))}}
    got = graphc.compile(outputs, cache=False)(x=x)
    np.testing.assert_allclose(got["y"], want.detach().numpy(), rtol=1e-4, atol=1e-5)
    h = last[0] if isinstance(last, tuple) else last
    np.testing.assert_allclose(got["last"], h[0].detach().numpy(), rtol=1e-4, atol=1e-5)
    expected = [there.grad, peer.weight_ih_l0.grad.T, peer.weight_hh_l0.grad.T, peer.bias_ih_l0.grad]
    expected += [peer.bias_hh_l0.grad[10:]] if kind == "GRU" else []
    for k, gradient in enumerate(expected):
        np.testing.assert_allclose(got[f"d{k}"], gradient.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("reverse", [False, True])
def test_compiled_is_interpreted(kind: str, reverse: bool) -> None:
    x = ops.input("x", (2, 5, 3))
    layer = getattr(nn, kind)(17, reverse=reverse)
    loss = ops.mean(ops.square(layer(x)))
    outputs = {"loss": loss, **{p.name: g for p, g in zip(layer.parameters(), graphc.grad(loss, wrt=layer.parameters()), strict=True)}}
    a = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    want = graphc.compile(outputs, target="interpreter")(x=a)
    for name, value in graphc.compile(outputs, cache=False)(x=a).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_state_goes_on_where_it_stopped() -> None:
    a = RNG.normal(size=(2, 8, 3)).astype(np.float32)
    layer = nn.LSTM(4)
    whole = graphc.compile(layer(ops.input("x", (2, 8, 3))), cache=False)(x=a)
    x = ops.input("x", (2, 4, 3))
    h, c = ops.input("h", (2, 4)), ops.input("c", (2, 4))
    program = graphc.compile({"y": layer(x, (h, c)), "h": layer.last_state[0], "c": layer.last_state[1]}, cache=False)
    zero = np.zeros((2, 4), np.float32)
    first = program(x=a[:, :4].copy(), h=zero, c=zero)
    second = program(x=a[:, 4:].copy(), h=first["h"], c=first["c"])
    np.testing.assert_allclose(np.concatenate([first["y"], second["y"]], axis=1), whole, rtol=1e-5, atol=1e-6)


def test_starts_are_orthogonal_and_remember() -> None:
    layer = nn.LSTM(6)
    layer(ops.input("x", ("batch", 3, 4)))
    u = layer.recurrent_weight.attrs["variable"].value.reshape(6, 4, 6)
    for gate in range(4):
        np.testing.assert_allclose(u[:, gate].T @ u[:, gate], np.eye(6), atol=1e-5)
    assert layer.bias.attrs["variable"].value.reshape(4, 6).tolist() == [[0] * 6, [1] * 6, [0] * 6, [0] * 6]


def test_an_lstm_learns_to_count() -> None:
    bits = (RNG.random((64, 12, 1)) < 0.5).astype(np.float32)
    x, y = ops.input("x", ("batch", 12, 1)), ops.input("y", ("batch", 1))
    with graphc.seed(1):
        layer, head = nn.LSTM(12, return_sequences=False), nn.Dense(1)
        loss = graphc.losses.mse(head(layer(x)), y)
    parameters = layer.parameters() + head.parameters()
    step = graphc.compile({"loss": loss}, updates=optim.Adam(0.02).updates(loss, parameters))
    losses = [float(step(x=bits, y=bits.sum(axis=1) / 12)["loss"]) for _ in range(120)]
    assert losses[-1] < 0.002 < losses[0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.LSTM(0), GraphError, "positive number of units"),
        (lambda: nn.RNN(3)(ops.input("x", (2, 3))), ShapeError, r"\[batch, time, features\]"),
        (lambda: nn.GRU(3)(ops.input("x", (2, 3, 4), dtype="int32")), DTypeError, "Embedding"),
        (lambda: nn.LSTM(3)(ops.input("x", (2, 3, 4)), np.zeros((2, 3), np.float32)), GraphError, "state of 2 values"),
    ],
)
def test_mistakes(call: Any, error: type[GraphError], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
