"""The pictures of the README and the documents: ``python -m viz.gallery docs/gallery``.

What enters: a folder. What leaves: an svg and a png of each example in it, and a png of each plot (:mod:`viz.gallery_plots`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphc import ops, provenance
from graphc.ir import Node
from graphc.ops.classification import cross_entropy_op
from viz import gallery_plots
from viz.adapt import diagram_of
from viz.raster import scene_to_bytes
from viz.render import scene_of
from viz.svg import scene_to_svg
from viz.theme import theme_of

_SCALE, _WIDEST = 1.25, 2000.0  # pixels a unit, and pixels across: a page's width, and small files


def scalar() -> Node:
    """(a b + c) tanh a: the expression with which backpropagation is usually met."""
    a, b, c = (ops.input(name) for name in "abc")
    return (a * b + c) * ops.tanh(a)


def perceptron() -> Node:
    """One neuron with a sigmoid and its squared error."""
    x, target = ops.input("x", (3,)), ops.input("target")
    w, b = ops.parameter("w", (3,)), ops.parameter("b")
    return ops.square(ops.sigmoid(ops.sum(w * x) + b) - target)


def classifier() -> Node:
    """Two dense layers and the negative log likelihood of a digit."""
    value = ops.input("image", ("batch", 784))
    label = ops.input("label", ("batch", 10))
    for name, inputs, outputs in (("hidden", 784, 128), ("output", 128, 10)):
        with provenance.scope(name):
            value = value @ ops.parameter("W", (inputs, outputs)) + ops.parameter("b", (outputs,))
            value = ops.relu(value) if name == "hidden" else value
    return -ops.mean(ops.sum(label * ops.log_softmax(value), axis=-1))


def convolution() -> Node:
    """One convolution, its largest values, and a dense layer."""
    image = ops.input("image", ("batch", 28, 28, 1))
    target = ops.input("target", ("batch", 10))
    with provenance.scope("conv"):
        value = ops.conv2d(image, ops.parameter("W", (3, 3, 1, 16))) + ops.parameter("b", (16,))
        value = ops.max_pool2d(ops.relu(value), 2)
    with provenance.scope("output"):
        rows = ops.reshape(value, (-1, 13 * 13 * 16))
        value = rows @ ops.parameter("W", (13 * 13 * 16, 10)) + ops.parameter("b", (10,))
    return ops.mean(ops.square(value - target))


def cross_entropy() -> Node:
    """softmax and the negative logarithm of the right class in one: its gradient is p - y."""
    x, label = ops.input("x", ("batch", 8)), ops.input("label", ("batch",), dtype="int32")
    return ops.mean(cross_entropy_op(x @ ops.parameter("W", (8, 10)), label))


def recurrent() -> Node:
    """A recurrent net over three steps, unrolled: backpropagation through time adds up three contributions to W and U."""
    w, u = ops.parameter("W", (4, 5)), ops.parameter("U", (5, 5))
    h = ops.input("h_0", ("batch", 5))
    for t in range(1, 4):
        h = ops.tanh(ops.input(f"x_{t}", ("batch", 4)) @ w + h @ u)
    return ops.mean(h * h)


def bptt() -> Node:
    """A recurrent net over three steps with small weights: the gradient vanishes on its way back."""
    u = ops.parameter("U", (4, 4), 0.1 * np.eye(4, dtype=np.float32))
    h = ops.input("h_0", (2, 4))
    for t in range(1, 4):
        h = ops.tanh(ops.input(f"x_{t}", (2, 4)) + h @ u)
    return ops.mean(h * h)


def lstm_cell() -> Node:
    """One step of an LSTM: gates that keep, write and show."""
    x, h, c = ops.input("x", ("batch", 4)), ops.input("h", ("batch", 5)), ops.input("c", ("batch", 5))
    gate = {}
    for name in ("forget", "write", "value", "show"):
        with provenance.scope(name):
            rows = x @ ops.parameter("W", (4, 5)) + h @ ops.parameter("U", (5, 5))
            gate[name] = ops.tanh(rows) if name == "value" else ops.sigmoid(rows)
    c = gate["forget"] * c + gate["write"] * gate["value"]
    return ops.mean(gate["show"] * ops.tanh(c))


def _attend(x: Node, width: int) -> Node:
    q, k, v = (x @ ops.parameter(name, (width, width)) for name in ("Q", "K", "V"))
    return ops.scaled_dot_product_attention(q, k, v, causal=True)


def attention() -> Node:
    """Self-attention of a sequence, written out: queries agree with keys, and weigh values."""
    x = ops.input("x", (6, 8))
    q, k, v = (x @ ops.parameter(name, (8, 8)) for name in ("Q", "K", "V"))
    weights = ops.softmax((q @ ops.transpose(k)) * 8**-0.5)
    return ops.mean(ops.square(weights @ v))


def transformer() -> Node:
    """Four equal blocks of attention and two dense layers, drawn once."""
    x, width = ops.input("x", (16, 32)), 32
    for number in range(4):
        with provenance.scope(f"block_{number}"):
            with provenance.scope("attention"):
                x = x + _attend(ops.layer_norm(x, *_norm(width)), width) @ ops.parameter("P", (width, width))
            with provenance.scope("dense"):
                y = ops.layer_norm(x, *_norm(width)) @ ops.parameter("up", (width, 4 * width))
                x = x + ops.gelu(y) @ ops.parameter("down", (4 * width, width))
    with provenance.scope("head"):
        logits = x @ ops.parameter("W", (width, 65))
    return ops.mean(ops.logsumexp(logits, axis=-1))


def _norm(width: int) -> tuple[Node, Node]:
    return ops.parameter("gain", (width,)), ops.parameter("shift", (width,))


EXAMPLES: dict[str, tuple[Callable[[], Node], dict[str, Any]]] = {
    "scalar": (scalar, {}),
    "numbers": (scalar, {"values": {"a": 2.0, "b": -3.0, "c": 10.0}}),
    "perceptron": (perceptron, {}),
    "classifier": (classifier, {}),
    "cross_entropy": (cross_entropy, {}),
    "recurrent": (recurrent, {}),
    "vanishing": (bptt, {"flow": True, "direction": "TB", "values": {
        "h_0": np.full((2, 4), 0.5, np.float32), **{f"x_{t}": np.full((2, 4), 0.3, np.float32) for t in range(1, 4)}}}),
    "lstm_cell": (lstm_cell, {}),
    "attention": (attention, {}),
    "convolution": (convolution, {}),
    "transformer": (transformer, {"level": "layers"}),
}  # fmt: skip


def write(folder: Path, theme: str = "light") -> list[Path]:
    """Draw every example, forward and backward; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (build, options) in EXAMPLES.items():
        scene, _ = scene_of(diagram_of(build(), backward=True, name=name, **options), theme_of(theme))
        made += [folder / f"{name}.svg", folder / f"{name}.png"]
        made[-2].write_text(scene_to_svg(scene), encoding="utf-8")
        made[-1].write_bytes(scene_to_bytes(scene, "png", min(_SCALE, _WIDEST / scene.width)))
    return made


def main(arguments: Sequence[str]) -> int:
    """Entry point; the first argument is the folder, a second one the theme."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m viz.gallery FOLDER [THEME]\n")
        return 2
    for path in write(Path(arguments[0]), *arguments[1:]) + gallery_plots.write(Path(arguments[0]), *arguments[1:]):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
