"""The pictures of the README: ``python -m viz.gallery docs/gallery``.

What enters: a folder. What leaves: an svg and a png of each example in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graphc import ops, provenance
from graphc.ir import Node
from viz.adapt import diagram_of
from viz.raster import scene_to_bytes
from viz.render import scene_of
from viz.svg import scene_to_svg
from viz.theme import theme_of

_SCALE = 1.25  # pixels a unit: a page's width, and small files


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


EXAMPLES = {"scalar": scalar, "perceptron": perceptron, "classifier": classifier, "convolution": convolution}


def write(folder: Path, theme: str = "light") -> list[Path]:
    """Draw every example, forward and backward; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, build in EXAMPLES.items():
        scene, _ = scene_of(diagram_of(build(), backward=True, name=name), theme_of(theme))
        made += [folder / f"{name}.svg", folder / f"{name}.png"]
        made[-2].write_text(scene_to_svg(scene), encoding="utf-8")
        made[-1].write_bytes(scene_to_bytes(scene, "png", _SCALE))
    return made


def main(arguments: Sequence[str]) -> int:
    """Entry point; the first argument is the folder, a second one the theme."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m viz.gallery FOLDER [THEME]\n")
        return 2
    for path in write(Path(arguments[0]), *arguments[1:]):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
