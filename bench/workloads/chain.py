"""Deep chains of dense layers with tanh and their gradient: does compilation grow with the depth, and the step only with it?

What enters: the depth. What leaves: the loss and the gradient of every matrix. Distinct kernels number a dozen at any depth.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.workload import Arrays, Entry, Function, Scratch, Weights, Workload


def graphc_function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    x = d["x"]
    for n in range(len(p) // 2):
        x = graphc.tanh(x @ p[f"w{n}"] + p[f"b{n}"])
    return {"loss": graphc.mean(x * x)}


def numpy_function(p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    values, depth = [d["x"]], len(p) // 2
    for n in range(depth):
        x = np.matmul(values[-1], p[f"w{n}"], out=scratch(f"x{n}", d["x"].shape, d["x"].dtype))
        x += p[f"b{n}"]
        values.append(np.tanh(x, out=x))
    y = values[-1]
    loss = np.square(y).mean()
    gradient = y * (2 / y.size)
    gradients = {}
    for n in range(depth - 1, -1, -1):
        slope = np.square(values[n + 1])
        np.subtract(1, slope, out=slope)
        slope *= gradient
        w = p[f"w{n}"]
        gradients[f"w{n}"] = np.matmul(values[n].T, slope, out=scratch(f"dw{n}", w.shape, w.dtype))
        gradients[f"b{n}"] = slope.sum(axis=0)
        if n:
            gradient = np.matmul(slope, w.T, out=scratch("dx", y.shape, w.dtype))
    return {"loss": loss}, {n: gradients[n] for n in p}


def torch_function() -> Function:
    import torch
    import torch.nn.functional as F

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["x"]
        for n in range(len(p) // 2):
            x = torch.tanh(F.linear(x, p[f"w{n}"], p[f"b{n}"]))
        return {"loss": torch.square(x).mean()}

    return function


def jax_function() -> Function:
    import jax.numpy as jnp

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["x"]
        for n in range(len(p) // 2):
            x = jnp.tanh(x @ p[f"w{n}"] + p[f"b{n}"])
        return {"loss": jnp.square(x).mean()}

    return function


def workload(depth: int, tiny: bool) -> Workload:
    """A chain of that depth (a tenth of it when tiny)."""
    depth, width, batch = (max(depth // 10, 2), 12, 4) if tiny else (depth, 128, 32)
    draw = Weights(12)
    weights: Arrays = {}
    for n in range(depth):
        weights[f"w{n}"] = draw.dense(width, width, 1.0)
        weights[f"b{n}"] = draw.normal(width, scale=0.1)
    return Workload(
        "gradient", weights, {"x": draw.normal(batch, width)}, graphc_function, numpy_function, torch_function,
        jax_function, torch_axes={f"w{n}": (1, 0) for n in range(depth)},
        flops=6.0 * depth * batch * width * width, tolerance=2e-3,
    )  # fmt: skip


SLOW = "minutes of compilation at this depth"
ENTRIES = (
    Entry("chain-10", "10 dense+tanh, gradient", partial(workload, 10)),
    Entry("chain-100", "100 dense+tanh, gradient", partial(workload, 100)),
    Entry(
        "chain-1000",
        "1,000 dense+tanh, gradient",
        partial(workload, 1000),
        cold=3.0,
        cold_of=("jax", 0.1),
        skip={"torch.compile": SLOW},
    ),
)
