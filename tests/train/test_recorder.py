"""What plots of a training run need: recorded steps, the loss on a plane, gradients through time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import interpreter, losses, nn, ops, optim
from graphc.data import xor
from graphc.errors import DataError, GraphError
from graphc.ir import Graph, Node
from graphc.train import Plane, Recorder, Trainer, landscape, through_time

RNG = np.random.default_rng(3)


def net(name: str) -> tuple[Node, Node, nn.Layer]:
    graphc.seed(1)
    point, label = ops.input("point", ("batch", 2)), ops.input("label", ("batch",), dtype="int32")
    layer = nn.Sequential(nn.Dense(5, activation="tanh"), nn.Dense(2), name=name)
    logits = layer(point)
    return losses.cross_entropy(logits, label), logits, layer


def fit(name: str, **options: Any) -> tuple[Recorder | None, nn.Layer, Node]:
    loss, logits, layer = net(name)
    data = xor(64)
    recorder = None
    if options:
        probes = {"gradients": (loss, data), "predictions": (logits, {"point": data.arrays["point"]})}
        recorder = Recorder(parameters=layer.parameters(), **probes, target="interpreter", **options)
    trainer = Trainer(loss, optim.SGD(0.1), target="interpreter")
    trainer.fit(data, epochs=3, batch_size=32, progress=False, callbacks=[recorder] if recorder else [])
    return recorder, layer, loss


def test_recording_changes_nothing_and_keeps_the_chosen_steps() -> None:
    recorder, layer, _ = fit("same", every=2)
    _, plain, _ = fit("same")
    assert recorder is not None and recorder.steps == [0, 2, 4, 6] and list(recorder.losses) == [2, 4, 6]
    for watched, other in zip(layer.parameters(), plain.parameters(), strict=True):
        np.testing.assert_array_equal(watched.attrs["variable"].value, other.attrs["variable"].value)
        np.testing.assert_array_equal(recorder.parameters[6][watched.name], watched.attrs["variable"].value)
    assert not np.array_equal(recorder.path()[0], recorder.path()[-1])
    assert recorder.path().shape == (4, sum(p.attrs["variable"].value.size for p in layer.parameters()))


def test_recorded_norms_and_predictions_are_the_models() -> None:
    recorder, layer, loss = fit("norms", at=[6])
    assert recorder is not None and recorder.steps == [6]
    data = xor(64)
    gradients = graphc.grad(loss, layer.parameters())
    graph = Graph("g", {p.name: g for p, g in zip(layer.parameters(), gradients, strict=True)})
    found = interpreter.run(graph, dict(data.arrays))
    assert set(recorder.norms[6]) == set(found)
    for name, value in found.items():
        assert recorder.norms[6][name] == pytest.approx(float(np.linalg.norm(value)), rel=1e-5)
    assert recorder.predictions[6].shape == (64, 2)


def test_landscape_is_the_loss_with_the_parameters_moved() -> None:
    x, y = ops.input("x", ("batch",)), ops.input("y", ("batch",))
    w, b = ops.parameter("w", (), 7.0), ops.parameter("b", (1,), 8.0)
    loss = losses.mse(x * w + b, y)
    data = {"x": RNG.normal(size=9).astype("f4"), "y": RNG.normal(size=9).astype("f4")}
    found = landscape(loss, (w, b), data, x=(-1, 2), y=(0, 1), points=5)
    wanted = [[np.mean((data["x"] * a + c - data["y"]) ** 2) for a in np.linspace(-1, 2, 5)] for c in np.linspace(0, 1, 5)]
    np.testing.assert_allclose(found.values, wanted, rtol=1e-5)
    assert found.names == ("w", "b") and float(w.attrs["variable"].value) == 7.0


def test_the_plane_of_a_path_holds_its_end_and_the_recorded_losses() -> None:
    recorder, _, loss = fit("plane", every=1)
    assert recorder is not None
    data = xor(64)
    plane = Plane.of_path(recorder)
    ways = plane.project(recorder.path())
    np.testing.assert_allclose(ways[-1], 0.0, atol=1e-6)
    assert plane.share > 0.9
    found = landscape(loss, plane, data, x=(-0.5, 0.5), y=(-0.5, 0.5), points=3, target="interpreter")
    here = interpreter.run(Graph("loss", {"loss": loss}), dict(data.arrays))["loss"]
    assert found.values[1, 1] == pytest.approx(float(here), rel=1e-5)


def unrolled(layer: Any, x: np.ndarray, extra: list[Node]) -> Node:
    """A layer's steps written out, with a nudge added to each state: the loss on the last state."""
    state = tuple(ops.zeros((x.shape[0], layer.units)) for _ in range(layer.states))
    for t in range(x.shape[1]):
        state, _ = layer.step(state, ops.constant(x[:, t]))
        state = (state[0] + extra[t], *state[1:])
    return ops.mean(ops.square(state[0]))


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_gradients_in_a_loop_are_those_of_the_loop_written_out(target: Any) -> None:
    x = RNG.normal(size=(2, 5, 3)).astype("f4")
    series = ops.input("series", ("batch", "time", 3))
    layer = nn.RNN(4, return_sequences=False)
    loss = ops.mean(ops.square(layer(series)))
    found = through_time(loss, data={"series": x}, target=target)["state"]
    nudges = [ops.input(f"n{t}", (2, 4)) for t in range(5)]
    gradients = graphc.grad(unrolled(layer, x, nudges), nudges)
    graph = Graph("g", {f"{t}": g for t, g in enumerate(gradients)})
    values = interpreter.run(graph, {n.name: np.zeros((2, 4), np.float32) for n in graph.inputs})
    np.testing.assert_allclose(found, [np.linalg.norm(values[f"{t}"]) for t in range(5)], rtol=1e-4)


def test_states_of_an_unrolled_net_and_both_states_of_an_lstm() -> None:
    h = ops.input("h")
    states = []
    for _ in range(3):
        h = h * 3.0
        states.append(h)
    assert through_time(h * 1.0, states, data={"h": 1.0})["state"].tolist() == [9.0, 3.0, 1.0]
    series = ops.input("series", (2, 4, 3))
    both = through_time(ops.mean(nn.LSTM(4)(series)), data={"series": np.ones((2, 4, 3), np.float32)})
    assert set(both) == {"state 1", "state 2"} and all(v.shape == (4,) and (v > 0).all() for v in both.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recorder(), "a recorder of nothing"),
        (lambda: Recorder(every=0, parameters=[ops.parameter("p", (), 0.0)]), "every is a number of updates"),
        (lambda: Recorder(parameters=[ops.input("q")]), "is no parameter"),
        (lambda: Recorder(parameters=[ops.parameter("p", (), 0.0)]).path(), "no parameters were recorded"),
        (lambda: landscape(ops.parameter("p", (2,), 0.0), (1, 2)), "two parameters"),  # type: ignore[arg-type]
        (lambda: through_time(ops.mean(ops.input("x", (2,)))), "without a loop"),
    ],
)  # fmt: skip
def test_wrong_use_is_explained(call: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        call()


def test_a_landscape_without_its_data_says_what_is_missing() -> None:
    w, b = ops.parameter("w", (), 7.0), ops.parameter("b", (), 8.0)
    with pytest.raises(DataError, match="the loss reads x"):
        landscape(ops.mean(ops.input("x", (3,)) * w * b), (w, b))
