"""Dense classifiers and regressors: MLP 784-512-256-10 with Adam, its inference on one image, and the tiny 2-16-16-1.

What enters: sizes. What leaves: a step with its loss, or logits. ReLU (the classifier) or tanh (the regressor) between layers.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Kind, Rule, Scratch, Weights, Workload


def _depth(p: dict[str, Any]) -> int:
    return len(p) // 2


def graphc_function(regress: bool, infer: bool, p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    x = d["x"]
    for n in range(_depth(p)):
        x = x @ p[f"w{n}"] + p[f"b{n}"]
        if n + 1 < _depth(p):
            x = graphc.tanh(x) if regress else graphc.relu(x)
    if infer:
        return {"output": x}
    return {"loss": graphc.losses.mse(x, d["target"]) if regress else graphc.losses.cross_entropy(x, d["target"])}


def numpy_function(
    regress: bool, infer: bool, p: Arrays, d: Arrays, scratch: Scratch
) -> tuple[Arrays, Arrays]:  # fmt: skip
    values, depth = [d["x"]], _depth(p)
    for n in range(depth):
        w = p[f"w{n}"]
        z = np.matmul(values[-1], w, out=scratch(f"z{n}", (len(d["x"]), w.shape[1]), w.dtype))
        z += p[f"b{n}"]
        if n + 1 < depth:
            np.tanh(z, out=z) if regress else np.maximum(z, 0, out=z)
        values.append(z)
    y = values.pop()
    if infer:
        return {"output": y}, {}
    if regress:
        y -= d["target"]
        loss = np.square(y).mean()
        y *= 2 / y.size
        gradient = y
    else:
        loss, gradient = formulas.cross_entropy(y, d["target"])
    gradients = {}
    for n in range(depth - 1, -1, -1):
        below, w = values.pop(), p[f"w{n}"]
        gradients[f"w{n}"] = np.matmul(below.T, gradient, out=scratch(f"dw{n}", w.shape, w.dtype))
        gradients[f"b{n}"] = gradient.sum(axis=0)
        if n:
            gradient = np.matmul(gradient, w.T, out=scratch(f"dx{n}", below.shape, w.dtype))
            gradient *= 1 - np.square(below) if regress else below > 0
    return {"loss": loss}, gradients


def torch_function(regress: bool, infer: bool) -> Function:
    import torch
    import torch.nn.functional as F

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["x"]
        for n in range(_depth(p)):
            x = F.linear(x, p[f"w{n}"], p[f"b{n}"])
            if n + 1 < _depth(p):
                x = torch.tanh(x) if regress else F.relu(x)
        if infer:
            return {"output": x}
        return {"loss": F.mse_loss(x, d["target"]) if regress else F.cross_entropy(x, d["target"])}

    return function


def jax_function(regress: bool, infer: bool) -> Function:
    import jax.numpy as jnp
    from jax import nn

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["x"]
        for n in range(_depth(p)):
            x = x @ p[f"w{n}"] + p[f"b{n}"]
            if n + 1 < _depth(p):
                x = jnp.tanh(x) if regress else jnp.maximum(x, 0)
        if infer:
            return {"output": x}
        if regress:
            return {"loss": jnp.square(x - d["target"]).mean()}
        return {"loss": -nn.log_softmax(x)[jnp.arange(x.shape[0]), d["target"]].mean()}

    return function


def onnx_function(depth: int, graph: Any) -> None:
    x = "x"
    for n in range(depth):
        x = graph.op("Gemm", x, f"w{n}", f"b{n}")
        if n + 1 < depth:
            x = graph.op("Relu", x)
    graph.output("output", x)


def workload(kind: Kind, sizes: tuple[int, ...], batch: int, rule: Rule | None, regress: bool = False) -> Workload:
    """A stack of dense layers with its loss."""
    draw, infer = Weights(4), kind == "inference"
    weights: Arrays = {}
    pairs = list(pairwise(sizes))
    for n, (inputs, outputs) in enumerate(pairs):
        weights[f"w{n}"] = draw.dense(inputs, outputs, 1.0 if regress else 2.0)
        weights[f"b{n}"] = draw.normal(outputs, scale=0.1)
    data = {"x": draw.normal(batch, sizes[0]) if regress else draw.uniform(batch, sizes[0])}
    if not infer:
        data["target"] = draw.normal(batch, sizes[-1]) if regress else draw.integers(sizes[-1], batch)
    passes = [1 if infer else 2 if n == 0 else 3 for n in range(len(pairs))]
    return Workload(
        kind, weights, data, partial(graphc_function, regress, infer), partial(numpy_function, regress, infer),
        partial(torch_function, regress, infer), partial(jax_function, regress, infer),
        partial(onnx_function, len(pairs)) if infer else None, rule,
        torch_axes={n: (1, 0) for n in weights if n.startswith("w")},
        flops=sum(2.0 * batch * m * n * k for (m, n), k in zip(pairs, passes, strict=True)),
    )  # fmt: skip


def train(tiny: bool) -> Workload:
    """The classifier's step."""
    return workload("train", (20, 16, 12, 4) if tiny else (784, 512, 256, 10), 8 if tiny else 128, Rule("adam"))


def infer(tiny: bool) -> Workload:
    """The classifier on one image."""
    return workload("inference", (20, 16, 12, 4) if tiny else (784, 512, 256, 10), 1, None)


def small(tiny: bool) -> Workload:
    """A net whose step is all overhead."""
    return workload("train", (2, 16, 16, 1), 4 if tiny else 32, Rule("sgd", 1e-3), regress=True)


ENTRIES = (
    Entry("mlp", "MLP 784-512-256-10, batch 128, Adam", train, goal=0.7, cold=0.5, warm=0.05),
    Entry("mlp-inference", "MLP inference, batch 1", infer, goal=0.5),
    Entry("small", "MLP 2-16-16-1, batch 32, SGD", small, goal=0.2),
)
