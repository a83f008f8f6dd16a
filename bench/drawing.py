"""Measure how pictures scale: seconds to draw graphs of many shapes, forward and with their mirror, and pages, with their sizes.

What enters: sizes. What leaves: a table. Invariant: nothing is left out of the time but building the graph itself; the gradient is
part of drawing it. ::

    python -m bench.drawing            # 1,000 and 20,000 nodes, and the pages of two compiled training steps
    python -m bench.drawing 5000       # other sizes, graphs alone
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import graphc
from graphc import nn, ops, optim
from graphc.ir import Node

SIZES = (1_000, 20_000)
_DEPTH = 60


def chain(nodes: int) -> Node:
    """One value after the other, without scopes; now and then the input joins in."""
    y = x = ops.input("x", (4,))
    for i in range(nodes):
        y = ops.tanh(y) if i % 3 else y + x
    return ops.sum(y)


def wide(nodes: int) -> Node:
    """A quarter of the nodes side by side, added in pairs."""
    x = ops.input("x", (4,))
    row = [ops.tanh(x * (i + 1.0)) for i in range(nodes // 4)]
    while len(row) > 1:
        row = [a + b for a, b in zip(row[::2], row[1::2], strict=False)] + row[len(row) // 2 * 2 :]
    return ops.sum(row[0])


def deep(nodes: int) -> Node:
    """Scopes inside of scopes, 60 deep, an op in each."""
    y = ops.input("x", (4,))
    for k in range(nodes // _DEPTH):
        with contextlib.ExitStack() as stack:
            for i in range(_DEPTH):
                stack.enter_context(graphc.scope(f"s{k}_{i}"))
                y = ops.tanh(y) if (i + k) % 3 else ops.exp(y)
    return ops.sum(y)


def scoped(nodes: int) -> Node:
    """Layers of 20 nodes, no two of one name."""
    y = ops.input("x", (4,))
    for k in range(nodes // 20):
        with graphc.scope(f"layer{k}x"):
            for i in range(20):
                y = ops.tanh(y) if (i + k) % 3 else ops.exp(y)
    return ops.sum(y)


def fibonacci(nodes: int) -> Node:
    """x[n] from x[n-1] and x[n-2]: exponentially many paths."""
    a, b = ops.input("a", (4,)), ops.input("b", (4,))
    for i in range(nodes):
        a, b = b, a + b if i % 2 else a * b
    return ops.sum(b)


SHAPES: dict[str, Callable[[int], Node]] = {
    "chain": chain, "wide": wide, "deep scopes": deep, "layers": scoped, "Fibonacci": fibonacci,
}  # fmt: skip


def digits() -> tuple[Node, dict[str, Any]]:
    """The classifier of MNIST's digits: 784, 128, 10."""
    image, label = ops.input("image", (32, 784)), ops.input("label", (32,), dtype="int32")
    net = nn.Sequential(nn.Dense(128, activation="relu"), nn.Dense(10), name="classifier")
    feed = {"image": np.zeros((32, 784), np.float32), "label": np.zeros(32, np.int32)}
    return graphc.losses.cross_entropy(net(image), label), feed


def transformer() -> tuple[Node, dict[str, Any]]:
    """Four blocks of width 256 over 128 tokens."""
    tokens, target = (ops.input(name, (1, 128), dtype="int32") for name in ("tokens", "target"))
    net = nn.GPT(vocabulary=65, length=128, width=256, heads=4, depth=4)
    feed = {name: np.zeros((1, 128), np.int32) for name in ("tokens", "target")}
    return graphc.losses.cross_entropy(net(tokens), target), feed


MODELS: dict[str, Callable[[], tuple[Node, dict[str, Any]]]] = {"MNIST MLP": digits, "transformer": transformer}


def trained(name: str) -> graphc.Program:
    """A model's compiled training step, called once."""
    loss, feed = MODELS[name]()
    program = graphc.Trainer(loss, optimizer=optim.Adam(1e-3)).program
    program(**feed)
    return program


def seconds(step: Callable[[], Any]) -> float:
    """Processor time, that of a layout program included: what one waits on an idle machine, as drawing uses one thread."""
    start = sum(os.times()[:4])
    step()
    return sum(os.times()[:4]) - start


def main(arguments: Sequence[str]) -> None:
    console = Console()
    graphc.draw(chain(30), backward=True)  # warm up
    table = Table(title="Seconds to draw")
    for title in ("graph", "nodes", "svg", "with gradients", "layers", "primitives", "page"):
        table.add_column(title, justify="left" if title == "graph" else "right")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        for name, build in SHAPES.items():
            for size in [int(a) for a in arguments] or SIZES:
                loss = build(size)
                count = f"{len(graphc.Graph('g', {'y': loss}).nodes):,}"
                table.add_row(name, count, *(f"{s:.2f}" for s in _times(loss, ("layers", "primitives"), file)))
        console.print(table)
        if not arguments:
            console.print(_programs(file))


def _times(loss: Node, levels: Sequence[str], file: Path) -> Iterator[float]:
    yield seconds(lambda: graphc.draw(loss))
    yield seconds(lambda: graphc.draw(loss, backward=True))
    for level in levels:
        yield seconds(partial(graphc.draw, loss, level=level))
    yield seconds(lambda: graphc.page(loss, file))


def _program_times(program: graphc.Program, file: Path) -> Iterator[float]:
    for level in ("layers", "ops", "primitives", "kernels"):
        yield seconds(partial(graphc.draw, program, level=level))
    yield seconds(lambda: program.page(file))


def _programs(file: Path) -> Table:
    table = Table(title="Compiled training steps: seconds to draw, and the page with all panes")
    for title in ("model", "layers", "ops", "primitives", "kernels", "page", "megabytes"):
        table.add_column(title, justify="left" if title == "model" else "right")
    for name in MODELS:
        program = trained(name)
        table.add_row(name, *(f"{s:.2f}" for s in _program_times(program, file)), f"{file.stat().st_size / 1e6:.2f}")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
