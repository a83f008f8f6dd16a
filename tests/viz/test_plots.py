"""Plots: what the figures' artists hold is what was computed; wrong input is explained; themes, files and pyplot's state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

import graphc
from graphc import interpreter, nn, ops, plots
from graphc.errors import DrawError
from graphc.ir import Graph

RNG = np.random.default_rng(5)
OVER = plots.grid([[0.0, 0.0], [1.0, 1.0]], size=4)
ALL: dict[str, Callable[..., Any]] = {
    "history": lambda *a, **k: plots.history({"loss": [2.0, 1.0], "val_loss": [2.0, 1.5]}, *a, **k),
    "activations": lambda *a, **k: plots.activations(["tanh", "relu"], *a, points=5, **k),
    "gradient_norms": lambda *a, **k: plots.gradient_norms({0: {"w": 1.0, "b": 0.0}, 1: {"w": 2.0, "b": 1e-3}}, *a, **k),
    "gradients_through_time": lambda *a, **k: plots.gradients_through_time([0.01, 0.1, 1.0], *a, **k),
    "weights": lambda *a, **k: plots.weights(RNG.normal(size=(6, 5)), *a, **k),
    "feature_maps": lambda *a, **k: plots.feature_maps(np.ones((2, 3, 3, 4)), *a, **k),
    "attention": lambda *a, **k: plots.attention(np.full((2, 3, 3), 1 / 3), *a, tokens="abc", **k),
    "confusion_matrix": lambda *a, **k: plots.confusion_matrix([0, 1, 1], [0, 1, 0], *a, **k),
    "loss_surface": lambda *a, **k: plots.loss_surface((np.arange(3.0), np.arange(4.0), RNG.normal(size=(4, 3))), *a,
                                                       paths={"SGD": [[0, 0], [1, 1]]}, **k),
    "decision_boundary": lambda *a, **k: plots.decision_boundary({0: OVER[:, 0] - 0.5}, OVER, [[0, 0], [1, 1]], [0, 1], *a, **k),
}  # fmt: skip


def luminance(colour: Any) -> float:
    from matplotlib.colors import to_rgb

    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return float(0.2126 * r + 0.7152 * g + 0.0722 * b)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("theme", ["light", "dark", "projector", "print"])
def test_every_plot_in_every_theme(name: str, theme: str) -> None:
    before = dict(mpl.rcParams)
    figure = ALL[name](theme=theme)
    assert dict(mpl.rcParams) == before
    paper = luminance(figure.get_facecolor())
    texts = [t for axes in figure.axes for t in (axes.title, axes.xaxis.label, *axes.get_xticklabels()) if t.get_text()]
    assert texts
    for text in texts:
        ink = luminance(text.get_color())
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, text.get_text()
        assert text.get_fontsize() >= (15 if theme == "projector" else 11)


@pytest.mark.parametrize("name", ALL)
def test_lines_differ_by_more_than_hue_and_files_are_equal(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    figure = ALL[name](first)
    ALL[name](second)
    if name not in ("weights",):  # these draw new random numbers
        assert name == "loss_surface" or first.read_bytes() == second.read_bytes()
    for axes in figure.axes:
        lines = [x for x in axes.lines if not x.get_label().startswith("_") and x.get_linestyle() != "None"]
        looks = [(x.get_linestyle(), x.get_marker(), str(x._dash_pattern)) for x in lines]  # type: ignore[attr-defined]
        assert len(set(looks)) == len(looks)


def test_activations_are_drawn_with_derivatives_by_finite_differences() -> None:
    figure = plots.activations(points=41)
    assert [a.get_title() for a in figure.axes if a.get_visible()] == [
        "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus"]  # fmt: skip
    for axes in figure.axes:
        value, slope = axes.lines[-2:]
        xs = np.asarray(value.get_xdata(), float)
        smooth = np.abs(xs) > 0.05
        function = getattr(ops, axes.get_title())

        def at(points: np.ndarray, function: Any = function) -> np.ndarray:
            return interpreter.evaluate(function(ops.constant(points)))

        np.testing.assert_allclose(value.get_ydata(), at(xs), rtol=1e-12)
        numeric = (at(xs + 1e-6) - at(xs - 1e-6)) / 2e-6
        np.testing.assert_allclose(np.asarray(slope.get_ydata())[smooth], numeric[smooth], atol=1e-7)


def test_attention_maps_are_the_weights_that_the_layer_uses() -> None:
    graphc.seed(4)
    x = ops.input("x", (2, 5, 8))
    layer = nn.MultiHeadAttention(2, causal=True)
    data = RNG.normal(size=(2, 5, 8)).astype("f4")
    mixed = layer(x)
    found = plots.attention_weights(mixed, {"x": data})
    assert found.shape == (2, 2, 5, 5)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-6)
    assert (np.triu(found, 1) == 0).all()
    qkv = data @ layer.qkv.weight.attrs["variable"].value + layer.qkv.bias.attrs["variable"].value
    values = qkv[:, :, 16:].reshape(2, 5, 2, 4).transpose(0, 2, 1, 3)
    joined = (found @ values).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    given = joined @ layer.project.weight.attrs["variable"].value + layer.project.bias.attrs["variable"].value
    np.testing.assert_allclose(given, interpreter.run(Graph("g", {"y": mixed}), {"x": data})["y"], rtol=1e-4, atol=1e-5)
    figure = plots.attention(mixed, inputs={"x": data}, example=1, tokens="hello")
    for k in range(2):
        np.testing.assert_array_equal(figure.axes[k].images[0].get_array(), found[1, k])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list("hello")


def test_confusion_counts_and_shares() -> None:
    true, scores = RNG.integers(0, 4, 50), RNG.normal(size=(50, 4))
    figure = plots.confusion_matrix(true, scores)
    axes = figure.axes[0]
    guess = scores.argmax(1)
    counts = [[int(((true == i) & (guess == k)).sum()) for k in range(4)] for i in range(4)]
    assert [int(t.get_text()) for t in axes.texts] == [n for row in counts for n in row]
    np.testing.assert_allclose(axes.images[0].get_array(), [[n / sum(row) for n in row] for row in counts])


def test_weights_and_feature_maps_are_the_arrays_on_one_scale() -> None:
    kernel = RNG.normal(size=(3, 3, 2, 4))
    figure = plots.weights(kernel)
    for k in range(4):
        np.testing.assert_allclose(figure.axes[k].images[0].get_array(), kernel[:, :, :, k].mean(axis=2))
        low, high = figure.axes[k].images[0].get_clim()
        assert low == -high == -max(np.abs(kernel[:, :, :, j].mean(axis=2)).max() for j in range(4))
    layer = nn.Dense(3)
    layer(ops.input("x", ("batch", 4)))
    shown = plots.weights(layer.weight, shape=(2, 2)).axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown, layer.weight.attrs["variable"].value[:, 1].reshape(2, 2))
    x = ops.input("x", (2, 4, 4, 1))
    maps = ops.relu(ops.conv2d(x, ops.parameter("k", (3, 3, 1, 2), RNG.normal(size=(3, 3, 1, 2)).astype("f4"))))
    data = {"x": RNG.normal(size=(2, 4, 4, 1)).astype("f4")}
    wanted = interpreter.run(Graph("g", {"y": maps}), data)["y"]
    drawn = plots.feature_maps(maps, inputs=data, example=1).axes[1].images[0].get_array()
    np.testing.assert_allclose(drawn, wanted[1, :, :, 1])


def test_decisions_are_the_largest_scores_and_the_moments_are_spread() -> None:
    over = plots.grid(RNG.normal(size=(10, 2)), size=7)
    course = {step: RNG.normal(size=(49, 3)) for step in range(0, 100, 5)}
    figure = plots.decision_boundary(course, over, [[0, 0], [0.1, 0], [0, 0.1]], [0, 1, 2], most=4)
    panels = [a for a in figure.axes if a.get_visible()]
    titles = [a.get_title() for a in panels]
    assert titles[0] == "after 0 updates" and titles[-1] == "after 95 updates" and len(titles) == 4
    field = panels[-1].collections[0].get_array()
    np.testing.assert_array_equal(np.asarray(field).ravel(), course[95].argmax(1))


def test_the_surface_holds_every_path_and_names_its_axes() -> None:
    x, y = ops.parameter("x", (), 1.0), ops.parameter("y", (), 1.0)
    found = graphc.train.landscape(x * x + y * y * 3.0, (x, y), points=9, target="interpreter")
    way = RNG.normal(size=(5, 2))
    figure = plots.loss_surface(found, paths={"SGD": way})
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    line = next(x for x in axes.lines if x.get_label() == "SGD")
    np.testing.assert_array_equal(line.get_xydata(), way)


def test_time_plots_name_what_happens() -> None:
    figure = plots.gradients_through_time({"a": [8.0, 4.0, 2.0, 1.0], "b": [1.0, 1.0, 1.0, 1.0], "c": [0.0, 0.0, 0.1, 1.0]})
    labels = [x.get_label() for x in figure.axes[0].lines if not x.get_label().startswith("_")]
    assert labels == ["a: explodes, 2 a step", "b: is kept, 1 a step", "c: vanishes, 0.1 a step"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [8.0, 4.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.activations(["tahn"]), "no function 'tahn'"),
        (lambda: plots.activations([ops.sum]), r"gives f64\[\]"),
        (lambda: plots.activations(["tanh"], span=(1, 1)), "span"),
        (lambda: plots.weights([1.0, 2.0]), "expected 2 or 4 axes"),
        (lambda: plots.weights(np.ones((6, 2)), shape=(2, 2)), "does not hold 6 inputs"),
        (lambda: plots.weights(np.ones((4, 2)), most=0), "from 1 to 64"),
        (lambda: plots.weights("weights"), "holds no numbers"),
        (lambda: plots.weights(ops.input("x", (2, 2))), "is no parameter"),
        (lambda: plots.feature_maps(np.ones((1, 2, 2, 3)), example=1), "no example 1"),
        (lambda: plots.attention(np.ones((2, 2)), tokens="abc"), "3 tokens"),
        (lambda: plots.attention(ops.tanh(ops.input("x", (2,)))), "no attention 0"),
        (lambda: plots.confusion_matrix([0, 1], [0]), "2 labels for 1"),
        (lambda: plots.confusion_matrix([0.5], [0]), "whole numbers"),
        (lambda: plots.confusion_matrix([0, 3], [0, 1], classes=["a"]), "1 names for 4"),
        (lambda: plots.loss_surface(3), "is no surface"),
        (lambda: plots.loss_surface(([0, 1], [0, 1], [[0, 1]])), "the surface's values"),
        (lambda: plots.loss_surface(([0, 1], [0, 1], [[np.nan] * 2] * 2)), "no finite value"),
        (lambda: plots.decision_boundary({}, OVER, [[0, 0]], [0]), "no predictions"),
        (lambda: plots.decision_boundary({0: [1.0]}, OVER, [[0, 0]], [0]), "1 predictions"),
        (lambda: plots.decision_boundary({0: [1.0]}, [[0, 0], [1, 1]], [[0, 0]], [0]), "no regular grid"),
        (lambda: plots.gradient_norms({}), "no gradients' norms"),
        (lambda: plots.gradients_through_time([-1.0]), "from 0 on"),
        (lambda: plots.gradients_through_time([1.0], theme="neon"), "no theme"),
        (lambda: plots.gradients_through_time([1.0], "x.gif"), "gif"),
        (lambda: plots.gradients_through_time([1.0], "/no/such/folder/x.png"), "cannot be written"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained(call: Any, message: str) -> None:
    with pytest.raises(DrawError, match=message):
        call()
