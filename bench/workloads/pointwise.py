"""A chain of elementwise functions on 4 million elements, y = gelu(a b) sigmoid(c), with its gradient: pure memory traffic.

What enters: sizes. What leaves: the loss mean(y), y, and gradients in a, b and c: three arrays read, four written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Scratch, Weights, Workload


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    y = graphc.gelu(p["a"] * p["b"]) * graphc.sigmoid(p["c"])
    return {"loss": graphc.mean(y), "y": y}


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    """In pieces that stay in the cache, as an expert blocks it."""
    a, b, c = p["a"], p["b"], p["c"]
    y, da, db, dc = (scratch(name, a.shape, a.dtype) for name in ("y", "da", "db", "dc"))
    total, scale = 0.0, 1 / a.size
    for start in range(0, a.size, 16384):
        s = slice(start, start + 16384)
        left, slope = formulas.gelu(a[s] * b[s])
        gate = formulas.sigmoid(c[s])
        np.multiply(left, gate, out=y[s])
        total += float(y[s].sum(dtype=np.float64))
        slope *= gate
        slope *= scale
        np.multiply(slope, b[s], out=da[s])
        np.multiply(slope, a[s], out=db[s])
        np.subtract(1, gate, out=gate)
        gate *= scale
        np.multiply(y[s], gate, out=dc[s])
    return {"loss": np.asarray(total * scale, a.dtype), "y": y}, {"a": da, "b": db, "c": dc}


def torch_function() -> Function:
    import torch
    from torch.nn.functional import gelu

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        y = gelu(p["a"] * p["b"]) * torch.sigmoid(p["c"])
        return {"loss": y.mean(), "y": y}

    return function


def jax_function() -> Function:
    from jax import nn

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        y = nn.gelu(p["a"] * p["b"], approximate=False) * nn.sigmoid(p["c"])
        return {"loss": y.mean(), "y": y}

    return function


def make(tiny: bool) -> Workload:
    """The workload."""
    size = 1000 if tiny else 1 << 22
    draw = Weights(1)
    return Workload(
        "gradient", {n: draw.normal(size) for n in "abc"}, {}, graphc_function, numpy_function, torch_function, jax_function,
        flops=30.0 * size,
    )  # fmt: skip


ENTRIES = (Entry("pointwise", "GELU-sigmoid chain with gradient, 4M elements", make, goal=0.7),)
