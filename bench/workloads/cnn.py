"""The MNIST convolutional net: 3x3 to 32, 3x3 to 64, maximum over 2x2, dense 128, dense 10; images as NHWC.

What enters: sizes. What leaves: a step with its loss, or logits. Valid convolutions; ReLU after all layers but the last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import formulas
from bench.workload import Arrays, Entry, Function, Kind, Rule, Scratch, Weights, Workload

CLASSES = 10


def graphc_function(infer: bool, p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    import graphc

    x = graphc.relu(graphc.conv2d(d["image"], p["k0"]) + p["b0"])
    x = graphc.relu(graphc.conv2d(x, p["k1"]) + p["b1"])
    x = graphc.max_pool2d(x, 2)
    x = graphc.relu(graphc.reshape(x, (x.shape[0], -1)) @ p["w2"] + p["b2"])
    x = x @ p["w3"] + p["b3"]
    return {"output": x} if infer else {"loss": graphc.losses.cross_entropy(x, d["label"])}


def _windows(x: np.ndarray) -> np.ndarray:
    """Rows of 3x3 windows (im2col): [batch, height - 2, width - 2, 9 channels]."""
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # [b, h, w, c, 3, 3]
    n, h, w, c = view.shape[:4]
    return np.ascontiguousarray(view.transpose(0, 1, 2, 4, 5, 3)).reshape(n * h * w, 9 * c)


def _convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = _windows(x)
    y = rows @ kernel.reshape(-1, kernel.shape[-1])
    y += bias
    np.maximum(y, 0, out=y)
    return y.reshape(len(x), x.shape[1] - 2, x.shape[2] - 2, -1), rows


def _convolve_back(dy: np.ndarray, kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient in the images: every window's gradient added where the window was."""
    columns = (dy.reshape(-1, dy.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1]).T).reshape(*dy.shape[:3], 3, 3, -1)
    dx = np.zeros(shape, dy.dtype)
    for i in range(3):
        for j in range(3):
            dx[:, i : i + dy.shape[1], j : j + dy.shape[2]] += columns[:, :, :, i, j]
    return dx


def _pool(x: np.ndarray) -> np.ndarray:
    n, h, w, c = x.shape
    return np.asarray(x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4)))


def _pool_back(dy: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient goes to the first of the largest."""
    dx = np.zeros_like(x)
    free = np.ones(y.shape, bool)
    for i in (0, 1):
        for j in (0, 1):
            hit = (x[:, i::2, j::2] == y) & free
            free &= ~hit
            dx[:, i::2, j::2] = dy * hit
    return dx


def numpy_function(infer: bool, p: Arrays, d: Arrays, scratch: Scratch) -> tuple[Arrays, Arrays]:
    image = d["image"]
    first, rows0 = _convolve(image, p["k0"], p["b0"])
    second, rows1 = _convolve(first, p["k1"], p["b1"])
    pooled = _pool(second)
    flat = pooled.reshape(len(image), -1)
    hidden = np.maximum(flat @ p["w2"] + p["b2"], 0)
    logits = hidden @ p["w3"] + p["b3"]
    if infer:
        return {"output": logits}, {}
    loss, dy = formulas.cross_entropy(logits, d["label"])
    g = {"w3": hidden.T @ dy, "b3": dy.sum(axis=0)}
    dy = (dy @ p["w3"].T) * (hidden > 0)
    g |= {"w2": np.matmul(flat.T, dy, out=scratch("dw2", p["w2"].shape, dy.dtype)), "b2": dy.sum(axis=0)}
    dy = (dy @ p["w2"].T).reshape(pooled.shape)
    dy = _pool_back(dy, second, pooled)
    dy *= second > 0
    flat_dy = dy.reshape(-1, dy.shape[-1])
    g |= {"k1": (rows1.T @ flat_dy).reshape(p["k1"].shape), "b1": flat_dy.sum(axis=0)}
    dy = _convolve_back(dy, p["k1"], first.shape)
    dy *= first > 0
    flat_dy = dy.reshape(-1, dy.shape[-1])
    g |= {"k0": (rows0.T @ flat_dy).reshape(p["k0"].shape), "b0": flat_dy.sum(axis=0)}
    return {"loss": loss}, g


def torch_function(infer: bool) -> Function:
    import torch.nn.functional as F

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = d["image"].permute(0, 3, 1, 2)  # a channels-last view
        x = F.relu(F.conv2d(x, p["k0"], p["b0"]))
        x = F.relu(F.conv2d(x, p["k1"], p["b1"]))
        x = F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
        x = F.relu(F.linear(x, p["w2"], p["b2"]))
        x = F.linear(x, p["w3"], p["b3"])
        return {"output": x} if infer else {"loss": F.cross_entropy(x, d["label"])}

    return function


def jax_function(infer: bool) -> Function:
    import jax.numpy as jnp
    from jax import lax, nn

    def convolve(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def function(p: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
        x = jnp.maximum(convolve(d["image"], p["k0"]) + p["b0"], 0)
        x = jnp.maximum(convolve(x, p["k1"]) + p["b1"], 0)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jnp.maximum(x.reshape(x.shape[0], -1) @ p["w2"] + p["b2"], 0)
        x = x @ p["w3"] + p["b3"]
        if infer:
            return {"output": x}
        return {"loss": -nn.log_softmax(x)[jnp.arange(x.shape[0]), d["label"]].mean()}

    return function


def onnx_function(graph: Any) -> None:
    x = graph.op("Transpose", "image", perm=[0, 3, 1, 2])
    for n in (0, 1):
        x = graph.op("Relu", graph.op("Conv", x, graph.op("Transpose", f"k{n}", perm=[3, 2, 0, 1]), f"b{n}"))
    x = graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.op("Flatten", graph.op("Transpose", x, perm=[0, 2, 3, 1]))
    x = graph.op("Relu", graph.op("Gemm", x, "w2", "b2"))
    graph.output("output", graph.op("Gemm", x, "w3", "b3"))


def workload(kind: Kind, batch: int, tiny: bool) -> Workload:
    """The net on random images."""
    draw, infer = Weights(6), kind == "inference"
    side, c0, c1, hidden = (10, 4, 6, 16) if tiny else (28, 32, 64, 128)
    pooled = (side - 4) // 2
    flat = pooled * pooled * c1
    weights = {
        "k0": draw.normal(3, 3, 1, c0, scale=(2 / 9) ** 0.5), "b0": draw.normal(c0, scale=0.1),
        "k1": draw.normal(3, 3, c0, c1, scale=(2 / (9 * c0)) ** 0.5), "b1": draw.normal(c1, scale=0.1),
        "w2": draw.dense(flat, hidden), "b2": draw.normal(hidden, scale=0.1),
        "w3": draw.dense(hidden, CLASSES, 1.0), "b3": draw.normal(CLASSES, scale=0.1),
    }  # fmt: skip
    data = {"image": draw.uniform(batch, side, side, 1)}
    if not infer:
        data["label"] = draw.integers(CLASSES, batch)
    first = 2.0 * (side - 2) ** 2 * 9 * c0
    rest = 2.0 * (side - 4) ** 2 * 9 * c0 * c1 + 2.0 * flat * hidden + 2.0 * hidden * CLASSES
    return Workload(
        kind, weights, data, partial(graphc_function, infer), partial(numpy_function, infer),
        partial(torch_function, infer), partial(jax_function, infer), onnx_function if infer else None,
        None if infer else Rule("adam"),
        torch_axes={"k0": (3, 2, 0, 1), "k1": (3, 2, 0, 1), "w2": (1, 0), "w3": (1, 0)},
        flops=batch * (first + rest if infer else 2 * first + 3 * rest),
    )  # fmt: skip


ENTRIES = (
    Entry("cnn", "MNIST CNN, batch 64, Adam", lambda tiny: workload("train", 3 if tiny else 64, tiny), goal=0.7),
    Entry(
        "cnn-inference", "MNIST CNN inference, batch 32", lambda tiny: workload("inference", 3 if tiny else 32, tiny),
        goal=0.9, against="onnxruntime",
    ),
)  # fmt: skip
